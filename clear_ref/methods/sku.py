"""SKU: train a model that is bad in every wanted way, then step from the original weights in the opposite direction.

paper      stage 1: L = w_forget mean_t nll_forget + w_random (1/K) sum_k mean_t nll_random_k
                        - w_retain mean_s mean_t KL(teacher || student)_retain
           stage 2: theta = theta_0 - (theta_1 - theta_0) = 2 theta_0 - theta_1                             App. B.14
released   stage 1 only: L = 2.5 mean_t nll_forget + 1.0 sum_k mean_t nll_random_k
                        - 0.5 mean_rows KL(teacher || student)_retain,  K = 3   mm/trainer.py:412-446, mm/forget.py:186
original   as paper with K = 5; weights 0.5, 1, 1 (defaults) or 2.5, 2.5, 1 (README); KL mean over rows
                                              SKU, utils.py:181-214, harmful_unlearn/unlearn_harm_new.py:233-238

needs      forget; random1 .. randomK (the forget questions, each with the answer of another forget record); retain with
           teacher (the model before unlearning, theta_0)
positions  answer tokens. nll: each batch divided by the number of its own answer tokens in the whole step (token mean),
           the K random ones averaged. KL: mean over the answer rows of each sequence, then over sequences
resolved   R1 the three weights are not given: the released 2.5, 1 and 0.5. K is not given: the released 3.
           R2 1/|Y_rd| is 1/K: the random answers are averaged.
           R3 KL(p(x_r), y_r) is KL(teacher || student), summed over samples in print: the mean over sequences.
           R4 a random answer is never the record's own.
deviations D1 there is no stage 2 anywhere: the saved model is the bad one.
           D2 the K random terms are summed.
           D3 random rows may be the row itself; image rows keep their own caption, a true pair (mm/dataset.py:268-278).
           D4 the KL is averaged over every row of the batch: padding, image and prompt included.
           D5 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
at teacher the KL is 0 and so is its gradient: stage 1 starts as training on right and wrong answers alike
"""

from dataclasses import dataclass

from ..errors import ShapeError, UserError
from ..losses.reductions import sequence_mean, token_mean
from ..losses.formulas import accumulation_dtype
from ..settings import setting
from .loss import Loss, Need, Variant, check_finite


@dataclass(frozen=True)
class Options:
    w_forget: float = setting(2.5, "weight of the forget answers", "released code (mm/forget.py:186)")
    w_random: float = setting(1.0, "weight of the random answers", "released code (mm/forget.py:186)")
    w_retain: float = setting(0.5, "weight of leaving the teacher on retain", "released code (mm/forget.py:186)")
    n_random: int = setting(3, "random answers for each forget record", "released code (mm/dataset.py:268-278)")

    def __post_init__(self):
        check_finite(self, "w_forget", "w_random", "w_retain")
        if self.n_random < 1:
            raise UserError(f"option n_random is {self.n_random}; expected at least 1")


def paper(splits, options) -> Loss:
    random_nll = sum(token_mean(splits[name], "nll") for name in random_batches(options)) / options.n_random
    return Loss.of(forget_nll=options.w_forget * token_mean(splits["forget"], "nll"),
                   random_nll=options.w_random * random_nll,
                   retain_kl=-options.w_retain * sequence_mean(splits["retain"], "kl_teacher_student"))


def negate_delta(theta_0, theta_1):
    """{name: 2 theta_0 - theta_1} of two dicts of weights: stage 2. Computed in fp32 or float64; theta_0's dtypes.

    raises  ShapeError naming the tensor that is missing, extra or of another shape
    """
    for name in sorted(theta_0.keys() ^ theta_1.keys()):
        raise ShapeError(f"weight {name} is in only one of the two models; expected the same names in both")
    for name in theta_0:
        if theta_0[name].shape != theta_1[name].shape:
            raise ShapeError(f"weight {name} has shape {list(theta_1[name].shape)} after training; "
                             f"expected {list(theta_0[name].shape)}")
    return {name: _negated(theta_0[name], theta_1[name]) for name in theta_0}


def _negated(before, after):
    dtype = accumulation_dtype(before, after)
    return (2 * before.to(dtype) - after.to(dtype)).to(before.dtype)


def random_batches(options):
    """The names of the n_random batches of random answers."""
    return [f"random{k}" for k in range(1, options.n_random + 1)]


def needs(options):
    return {"forget": Need(), **{name: Need() for name in random_batches(options)}, "retain": Need(teacher=True)}


VARIANTS = {"paper": Variant(loss=paper, needs=needs, finish="negate_delta")}
