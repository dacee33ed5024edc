"""SCRUB: stay with the teacher on the retain set, move away from it on the forget set.

paper      L = alpha mean_s mean_t KL(teacher || student)_retain - mean_s mean_t KL(teacher || student)_forget
               + gamma mean_t nll_retain,  alpha = gamma = 1                                   App. B.8
released   L = mean_rows KL(student || teacher)_retain - beta mean_rows KL(student || teacher)_forget
               + mean_t nll_retain,  beta = 1                                                  mm/trainer.py:231-257
original   two kinds of epochs in turn: minimise -KL_forget in the first 2-3, alpha KL_retain + gamma nll_retain in all;
           KL(teacher || student) at temperature 2 or 4, times its square; (gamma, alpha) = (1, 0.5) or (0.99, 0.001)
                                                                     SCRUB, helper/loops.py:241-244, distiller_zoo/KD.py

needs      forget and retain, both with teacher (the model before unlearning)
positions  answer tokens. KL: mean over the answer rows of each sequence, then over sequences (sequence mean). nll:
           divided by the number of retain answer tokens in the whole step (token mean)
resolved   R1 one joint loss, as printed; the original alternates.
           R2 d(x) is one number per sample in print: the mean over its answer rows.
deviations D1 the KL direction is the other one, in both terms (kl_div's arguments are swapped).
           D2 the KLs are averaged over every row of the batch: padding, image and prompt included.
           D3 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
at teacher both KL and both their gradients are 0: the first step is gamma times retain_ft's, and the forget term grows
           from drift alone
"""

from dataclasses import dataclass

from ..losses.reductions import sequence_mean, token_mean
from ..settings import setting
from .loss import Loss, Need, Variant, check_finite


@dataclass(frozen=True)
class Options:
    alpha: float = setting(1.0, "weight of the retain KL", "paper App. B.8")
    gamma: float = setting(1.0, "weight of the retain likelihood", "paper App. B.8")

    def __post_init__(self):
        check_finite(self, "alpha", "gamma")


def paper(splits, options) -> Loss:
    return Loss.of(retain_kl=options.alpha * sequence_mean(splits["retain"], "kl_teacher_student"),
                   forget_kl=-sequence_mean(splits["forget"], "kl_teacher_student"),
                   retain_nll=options.gamma * token_mean(splits["retain"], "nll"))


VARIANTS = {"paper": Variant(loss=paper, needs={"forget": Need(teacher=True), "retain": Need(teacher=True)})}
