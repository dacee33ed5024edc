"""LLMU: ascend on the forget answers, learn refusals instead, keep the retain predictions where they were.

paper      L = -mean_t nll_forget + mean_s mean_t nll_idk + mean_s mean_t KL(student || teacher)_retain   App. B.9
released   L = -mean_t nll_forget + mean_t nll_idk + mean_rows KL(student || teacher)_retain  mm/trainer.py:279-300
original   L = -0.5 mean_s mean_t nll_forget + mean_s mean_t nll_random + mean_rows H(teacher, student)_retain
           random: 5 unrelated answers per question; H has the gradient of KL(teacher || student)
                                                         llm_unlearn, unlearn_harm.py:104-124, utils.py:173-205

needs      forget; idk (the forget questions, answered by refusals); retain with teacher (the model before unlearning)
positions  answer tokens. forget: divided by their number in the whole step (token mean). idk and KL: mean over the
           answer rows of each sequence, then over sequences (sequence mean)
resolved   R1 App. B.9 prints KL(student || teacher) and calls it forward; Sec. 3.2 prints the other direction. B.9's
              formula is the default, kl = teacher_student is the other.
           R2 the KL is summed over D_R in print: the mean over sequences.
           R3 1/|y_r| stands inside a sum over all idk answers: each answer's own length divides its sum.
           R4 all three weights are 1.
deviations D1 the idk batch holds the true forget answers since 2025-03-30 (mm/dataset.py:262-266): on text rows the
              first two terms cancel exactly, and what remains, the KL, starts with a zero gradient.
           D2 the KL is averaged over every row of the batch: padding, image and prompt included.
           D3 the idk nll is a token mean.
           D4 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
at teacher the KL is 0 and so is its gradient, in either direction: the first step is that of the two nll terms
"""

from dataclasses import dataclass

from ..losses.reductions import sequence_mean, token_mean
from ..settings import setting
from .loss import Loss, Need, Variant, check_one_of


@dataclass(frozen=True)
class Options:
    kl: str = setting("student_teacher", "direction of the retain KL: student_teacher | teacher_student",
                      "paper App. B.9; Sec. 3.2 prints the other")

    def __post_init__(self):
        check_one_of(self, "kl", "student_teacher", "teacher_student")


def paper(splits, options) -> Loss:
    return Loss.of(forget_nll=-token_mean(splits["forget"], "nll"),
                   idk_nll=sequence_mean(splits["idk"], "nll"),
                   retain_kl=sequence_mean(splits["retain"], f"kl_{options.kl}"))


VARIANTS = {"paper": Variant(loss=paper, needs={"forget": Need(), "idk": Need(), "retain": Need(teacher=True)})}
