"""SKU: train towards forget and random answers and away from the retain predictions, then negate.

paper      stage 1: L = w_forget mean_t nll_forget + w_random (1/K) sum_k mean_t nll_random_k
             - w_retain mean_s mean_t KL(teacher || student)_retain
           stage 2: theta = theta_0 - (theta_1 - theta_0) = 2 theta_0 - theta_1          [App. B.14]
released   stage 1 only: L = 2.5 mean_t nll_forget + 1.0 sum_k mean_t nll_random_k
             - 0.5 mean_rows KL(teacher || student)_retain,  K = 3
                                                            [CLEAR mm/trainer.py:412-446 at bb14c96]
                                                                 [CLEAR mm/forget.py:186 at bb14c96]
original   stage 1: L = w_forget mean_s mean_t nll_forget
             + w_random (1/K) sum_k mean_s mean_t nll_random_k
             - w_retain mean_rows KL(teacher || student)_retain,  weights 0.5, 1, 1, K = 5;
           stage 2 as paper                                        [SKU utils.py:181-323 at a17663f]
                                        [SKU harmful_unlearn/unlearn_harm_new.py:183-238 at a17663f]

needs      forget; random1 .. randomK (the forget questions, each with the answer of another forget
           record); retain with teacher. The teacher is the model before unlearning, theta_0:
           adapters off, or without adapters a frozen copy (loop/teacher.py:Teacher)
positions  answer tokens. mean_t: each batch divided by its own number of them (token mean).
           mean_s mean_t: mean over each sequence's answer rows, then over sequences. mean_rows:
           all B x T rows, padding and prompt included, divided by B x T.
           Label mask: answer; under released: released (D5) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 the three weights are not given: the released 2.5, 1 and 0.5. K is not given: the
              released 3. R2 1/|Y_rd| is 1/K: the random answers are averaged.
           R3 KL(p(x_r), y_r) is KL(teacher || student); the paper sums it over samples: the mean
              over sequences. R4 a random answer is never the record's own. R5 original: the code's
              weights (its README says 2.5, 2.5, 1); divided by m, in the code by m + 1.
deviations D1 no stage 2: the saved model is that of stage 1. D2 the K random terms are summed.
           D3 a random record may be the forget record; pictures keep their caption (CLEAR
              mm/dataset.py:268-278 at bb14c96).
           D4 the KL is averaged over every row of a batch: padding, image and prompt included.
           D5 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D6 each batch of batch_size records has its own mean; a step takes the mean of these.
           D7 batches that mix texts and pictures crash or mix up pictures in collation (CLEAR
              mm/dataset.py:350-354 at bb14c96); here both work. nlp/ has no SKU, mm/ since 2025.
at teacher the KL is 0 and so is its gradient: stage 1 starts on right and wrong answers alike
evidence   by hand, finite differences; released: authors' code; original: SKU's code, the retain
           term to 1e-9 (it adds 1e-12 in its log), the two answer terms on equal lengths m, times
           (m + 1) / m. On other lengths these are divisor_m_plus_1 (oracle/mistakes)
"""

from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.errors import ShapeError
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_mean, token_mean

from .loss import Loss, total
from .option_checks import check_at_least, check_finite
from .variant import Batches, Need, Variant, random_batches

WEIGHTS = "CLEAR mm/forget.py:186 at bb14c96"
HARM = "SKU harmful_unlearn/unlearn_harm_new.py"
Weights = dict[str, "losses.Tensor"]  # by name


@dataclass(frozen=True)
class Options:
    w_forget: float = setting(2.5, "weight of the forget answers", WEIGHTS)
    w_random: float = setting(1.0, "weight of the random answers", WEIGHTS)
    w_retain: float = setting(0.5, "weight of minus the retain KL", WEIGHTS)
    n_random: int = setting(
        3, "random answers for each forget record", "CLEAR mm/dataset.py:268-278 at bb14c96"
    )

    def __post_init__(self) -> None:
        check_finite(self, "w_forget", "w_random", "w_retain")
        check_at_least(self, "n_random", 1)


@dataclass(frozen=True)
class Original(Options):
    w_forget: float = setting(0.5, "weight of the forget answers", f"{HARM}:258-260 at a17663f")
    w_retain: float = setting(1.0, "weight of minus the retain KL", f"{HARM}:267-272 at a17663f")
    n_random: int = setting(5, "random answers for each forget record", f"{HARM}:194 at a17663f")


def paper(batches: Batches, options: Options) -> Loss:
    names = random_batches(options.n_random)
    random_nll = total(token_mean(batches[name], "nll") for name in names) / options.n_random
    retain_kl = sequence_mean(batches["retain"], "kl_teacher_student")
    return Loss.of(
        forget_nll=options.w_forget * token_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_kl=-options.w_retain * retain_kl,
    )


def released(batches: Batches, options: Options) -> Loss:
    names = random_batches(options.n_random)
    random_nll = total(token_mean(batches[name], "nll") for name in names)
    retain_kl = token_mean(batches["retain"], "kl_teacher_student", "all")
    return Loss.of(
        forget_nll=options.w_forget * token_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_kl=-options.w_retain * retain_kl,
    )


def original(batches: Batches, options: Original) -> Loss:
    names = random_batches(options.n_random)
    random_nll = total(sequence_mean(batches[name], "nll") for name in names) / options.n_random
    retain_kl = token_mean(batches["retain"], "kl_teacher_student", "all")
    return Loss.of(
        forget_nll=options.w_forget * sequence_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_kl=-options.w_retain * retain_kl,
    )


def negate_delta(theta_0: Weights, theta_1: Weights) -> Weights:
    """{name: 2 theta_0 - theta_1}: stage 2. Computed in fp32 or float64; theta_0's dtypes.

    raises  ShapeError naming the tensor that is missing, extra or of another shape
    """
    for name in sorted(theta_0.keys() ^ theta_1.keys()):
        raise ShapeError(f"weight {name} is in only one of the two models; expected it in both")
    negated = {}
    for name, before in theta_0.items():
        after = theta_1[name]
        if before.shape != after.shape:
            raise ShapeError(
                f"weight {name} has shape {list(after.shape)} after training; "
                f"expected {list(before.shape)}"
            )
        dtype = losses.accumulation_dtype(before, after)
        negated[name] = (2 * before.to(dtype) - after.to(dtype)).to(before.dtype)
    return negated


def needs(options: Options, retain_rows: str = "answer") -> dict[str, Need]:
    random_needs = {name: Need() for name in random_batches(options.n_random)}
    return {"forget": Need(), **random_needs, "retain": Need(rows=(retain_rows,), teacher=True)}


def needs_all(options: Options) -> dict[str, Need]:
    """The retain KL over all rows."""
    return needs(options, "all")


VARIANTS = {
    "paper": Variant(paper, needs, Options, second_stage="negate_delta"),
    "released": Variant.released(released, needs_all, Options),
    "original": Variant(original, needs_all, Original, second_stage="negate_delta", by_batch=True),
}
