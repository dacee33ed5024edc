"""SKU: train a model that is bad in every wanted way, then step from the original weights in the opposite direction.

paper      stage 1: L = w_forget mean_t nll_forget + w_random (1/K) sum_k mean_t nll_random_k
                        - w_retain mean_s mean_t KL(teacher || student)_retain
           stage 2: theta = theta_0 - (theta_1 - theta_0) = 2 theta_0 - theta_1                             [App. B.14]
released   stage 1 only: L = 2.5 mean_t nll_forget + 1.0 sum_k mean_t nll_random_k
                        - 0.5 mean_rows KL(teacher || student)_retain,  K = 3  [mm/trainer.py:412-446, mm/forget.py:186]
original   stage 1: L = w_forget mean_s mean_t nll_forget + w_random (1/K) sum_k mean_s mean_t nll_random_k
                        - w_retain mean_rows KL(teacher || student)_retain,  weights 0.5, 1, 1, K = 5; stage 2 as paper
                                              [SKU, utils.py:181-323, harmful_unlearn/unlearn_harm_new.py:183-238]

needs      forget; random1 .. randomK (the forget questions, each with the answer of another forget record); retain with
           teacher (the model before unlearning, theta_0)
positions  answer tokens. mean_t: each batch divided by the number of its own (token mean). mean_s mean_t: mean over the answer
           rows of each sequence, then over sequences. mean_rows: all B x T rows, padding and prompt included, divided by B x T
resolved   R1 the three weights are not given: the released 2.5, 1 and 0.5. K is not given: the released 3.
           R2 1/|Y_rd| is 1/K: the random answers are averaged.
           R3 KL(p(x_r), y_r) is KL(teacher || student), summed over samples in print: the mean over sequences.
           R4 a random answer is never the record's own.
           R5 original: defaults of the code (its README says 2.5, 2.5, 1); an answer's m tokens are divided by m, there by m + 1
              (llmu.py's R5).
deviations D1 there is no stage 2 anywhere: the saved model is the bad one. D2 the K random terms are summed.
           D3 random rows may be the row itself; image rows keep their own caption, a true pair (mm/dataset.py:268-278).
           D4 the KL is averaged over every row of the batch: padding, image and prompt included.
           D5 label mask and mean of batches: idk.py's D3 and D4.
           D6 batches that mix texts and pictures crash or mix up their pictures in collation (mm/dataset.py:350-354): it runs on
              LLaVA with pictures alone. Here it runs on both. It is there since 2025-03-30 only.
at teacher the KL is 0 and so is its gradient: stage 1 starts as training on right and wrong answers alike
evidence   by hand, finite differences; released: authors' code; original: SKU's code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_mean, token_mean

from .loss import Loss
from .negation import negate_delta  # noqa: F401  (the second stage: sku.negate_delta)
from .option_checks import check_at_least, check_finite
from .variant import Need, Variant, random_batches


@dataclass(frozen=True)
class Options:
    w_forget: float = setting(
        2.5, "weight of the forget answers", "released code (mm/forget.py:186)"
    )
    w_random: float = setting(
        1.0, "weight of the random answers", "released code (mm/forget.py:186)"
    )
    w_retain: float = setting(
        0.5, "weight of leaving the teacher on retain", "released code (mm/forget.py:186)"
    )
    n_random: int = setting(
        3, "random answers for each forget record", "released code (mm/dataset.py:268-278)"
    )

    def __post_init__(self):
        check_finite(self, "w_forget", "w_random", "w_retain")
        check_at_least(self, "n_random", 1)


@dataclass(frozen=True)
class Original(Options):
    w_forget: float = setting(
        0.5, "weight of the forget answers", "SKU, unlearn_harm_new.py:258-260"
    )
    w_retain: float = setting(
        1.0, "weight of leaving the teacher on retain", "SKU, unlearn_harm_new.py:267-272"
    )
    n_random: int = setting(
        5, "random answers for each forget record", "SKU, unlearn_harm_new.py:194"
    )


def paper(batches, options) -> Loss:
    random_nll = (
        sum(token_mean(batches[name], "nll") for name in random_batches(options.n_random))
        / options.n_random
    )
    return Loss.of(
        forget_nll=options.w_forget * token_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_kl=-options.w_retain * sequence_mean(batches["retain"], "kl_teacher_student"),
    )


def released(batches, options) -> Loss:
    random_nll = sum(token_mean(batches[name], "nll") for name in random_batches(options.n_random))
    return Loss.of(
        forget_nll=options.w_forget * token_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_kl=-options.w_retain * token_mean(batches["retain"], "kl_teacher_student", "all"),
    )


def original(batches, options) -> Loss:
    random_nll = (
        sum(sequence_mean(batches[name], "nll") for name in random_batches(options.n_random))
        / options.n_random
    )
    return Loss.of(
        forget_nll=options.w_forget * sequence_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_kl=-options.w_retain * token_mean(batches["retain"], "kl_teacher_student", "all"),
    )


def needs(options, rows="answer"):
    return {
        "forget": Need(),
        **{name: Need() for name in random_batches(options.n_random)},
        "retain": Need(rows=(rows,), teacher=True),
    }


def needs_all(options):
    """With the retain KL over all rows."""
    return needs(options, "all")


VARIANTS = {
    "paper": Variant(paper, needs, Options, second_stage="negate_delta"),
    "released": Variant.released(released, needs_all, Options),
    "original": Variant(original, needs_all, Original, second_stage="negate_delta", by_batch=True),
}
