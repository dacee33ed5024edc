"""LLMU: ascend on the forget answers, learn refusals instead, keep the retain predictions where they were.

paper      L = -mean_t nll_forget + mean_s mean_t nll_idk + mean_s mean_t KL(student || teacher)_retain   [App. B.9]
released   L = -mean_t nll_forget + mean_t nll_idk + mean_rows KL(student || teacher)_retain;
               the idk batch holds the true forget answers                                [mm/trainer.py:279-300]
released@2024-12-10  the same formula; the idk batch holds refusals                       [the same at dcc7070]
released@2024-10-23  the same formula; the idk batch holds refusals for texts, the true captions for pictures
                                                                                          [the same at 3e33dae]
original   L = -w_forget mean_s mean_t nll_forget + w_random (1/K) sum_k mean_s mean_t nll_random_k
               + w_retain mean_rows H(teacher, student)_retain,  weights 0.5, 1, 1, K = 5
                                                          [llm_unlearn, unlearn_harm.py:101-124, utils.py:173-312]
           random_k: unrelated answers to the forget question; H = -sum q log p has the gradient of KL(teacher || student)

needs      forget; idk (the forget questions, answered by refusals), original: random1 .. randomK (answered by answers of the
           retain set); retain with teacher (the model before unlearning)
positions  answer tokens. mean_t: divided by their number (token mean). mean_s mean_t: mean over the answer rows of each
           sequence, then over sequences. mean_rows: all B x T rows, padding, image and prompt included, divided by B x T
resolved   R1 App. B.9 prints KL(student || teacher) and calls it forward; Sec. 3.2 prints the other direction. B.9's
              formula is the default, kl = teacher_student is the other.
           R2 the KL is summed over D_R in print: the mean over sequences. R3 1/|y_r| stands inside a sum over all idk answers:
              each answer's own length divides its sum. R4 all three weights are 1.
           R5 original: an answer's m tokens are divided by m. Its code counts the row of the last token too, which predicts
              nothing: m + 1. Its random prompts are supervised but for 2 tokens, by a slip; here answers only.
deviations D1 the idk batch holds the true forget answers since 2025-03-30 (idk.py's D1): on text rows the first two terms
              cancel exactly, and what remains, the KL, starts with a zero gradient. On pictures the caption question of
              each is another draw. D2 the idk nll is a token mean.
           D3 the KL is averaged over every row of the batch: padding, image and prompt included.
           D4 label mask, mean of batches and line ends: idk.py's D2 to D4.
at teacher the KL is 0 and so is its gradient, in either direction, and that of H: the first step is that of the nll terms
evidence   by hand, finite differences; released: authors' code; original: LLMU's code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_mean, token_mean

from .batch_contents import BatchContents, RandomAnswer
from .loss import Loss
from .option_checks import check_at_least, check_finite, check_one_of
from .variant import Need, Variant, random_batches


@dataclass(frozen=True)
class Options:
    kl: str = setting(
        "student_teacher",
        "direction of the retain KL: student_teacher | teacher_student",
        "paper App. B.9; Sec. 3.2 prints the other",
    )

    def __post_init__(self):
        check_one_of(self, "kl", "student_teacher", "teacher_student")


@dataclass(frozen=True)
class Released:
    """The released LLMU has no options."""


@dataclass(frozen=True)
class Original:
    w_forget: float = setting(0.5, "weight of the forget answers", "LLMU, unlearn_harm.py:171")
    w_random: float = setting(1.0, "weight of the random answers", "LLMU, unlearn_harm.py:173-178")
    w_retain: float = setting(1.0, "weight of the retain term", "LLMU, unlearn_harm.py:179-184")
    n_random: int = setting(5, "random answers for each forget record", "LLMU, unlearn_harm.py:112")

    def __post_init__(self):
        check_finite(self, "w_forget", "w_random", "w_retain")
        check_at_least(self, "n_random", 1)


def paper(batches, options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        idk_nll=sequence_mean(batches["idk"], "nll"),
        retain_kl=sequence_mean(batches["retain"], f"kl_{options.kl}"),
    )


def released(batches, options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        idk_nll=token_mean(batches["idk"], "nll"),
        retain_kl=token_mean(batches["retain"], "kl_student_teacher", "all"),
    )


def original(batches, options) -> Loss:
    random = (
        sum(sequence_mean(batches[name], "nll") for name in random_batches(options.n_random))
        / options.n_random
    )
    retain = [
        token_mean(batches["retain"], column, "all")
        for column in ("kl_teacher_student", "teacher_entropy")
    ]
    return Loss.of(
        forget_nll=-options.w_forget * sequence_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random,
        retain_cross_entropy=options.w_retain * sum(retain),
    )


def needs(options):
    return {
        "forget": Need(),
        **{name: Need() for name in random_batches(options.n_random)},
        "retain": RETAIN,
    }


RETAIN = Need(rows=("all",), teacher=True)
VARIANTS = {
    "paper": Variant(
        paper, {"forget": Need(), "idk": Need(), "retain": Need(teacher=True)}, Options
    ),
    **Variant.released_by_date(
        released, {"forget": Need(), "idk": Need(), "retain": RETAIN}, Released
    ),
    "original": Variant(
        original,
        needs,
        Original,
        by_batch=True,
        contents=BatchContents(random=RandomAnswer.RETAIN_RECORD),
    ),
}
