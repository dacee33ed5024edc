"""NPO: lower the forget answer's probability relative to the teacher, with a weight that fades as it succeeds.

paper      L = (2/beta) mean_s softplus(beta (s - r)),  s = sum_t log p_student,  r = sum_t log p_teacher of one answer
             = (2/beta) mean_s log(1 + (p_student(y|x) / p_teacher(y|x))^beta),  beta = 1                App. B.7
released   L = (2/beta) mean over rows and V of log(1 + (p_student / (p_teacher + 1e-8))^beta)   mm/trainer.py:343-353
           before 2025-03-30 with the ratio's logarithm in place of the ratio
original   as paper with beta = 0.1; variants add mean_t nll_retain or a retain KL       NPO, TOFU/dataloader.py:255-270

needs      forget with teacher (the model before unlearning)
positions  answer tokens, summed over each sequence (not a mean), then the mean over sequences
resolved   R1 App. B.7 takes its notation from DPO, whose reference is tuned on refusals; here the reference is the
              model before unlearning, as in the original and the released code.
           R2 beta = 1, "also taken equal to 1" (App. B.7), though DPO's is 0.1.
deviations D1 the whole vocabulary instead of the answer token: labels are never read.
           D2 every row counts: padding, image and prompt.
           D3 no sequence: each entry stands alone.
           D4 before 2025-03-30: NaN as soon as one log-ratio is -1 or less; no teacher was loaded by default.
at teacher the loss is (2/beta) log 2, its gradient that of mean_s s: plain ascent on the mean sequence sum.
           released: d/dz = (1/V - p) / rows, away from uniform: it sharpens what it should forget
"""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from ..losses.reductions import mean_over_sequences, sequence_sum
from ..settings import setting
from .loss import Loss, Need, Variant, check_finite


@dataclass(frozen=True)
class Options:
    beta: float = setting(1.0, "how fast the push fades; towards 0 the loss becomes gradient ascent", "paper App. B.7")

    def __post_init__(self):
        check_finite(self, positive=("beta",))


def paper(splits, options) -> Loss:
    forget = splits["forget"]
    log_ratio = sequence_sum(forget, "teacher_nll") - sequence_sum(forget, "nll")
    softplus = -logsigmoid(-options.beta * log_ratio)  # torch's own softplus is cut off at 20
    return Loss.of(forget_npo=2 / options.beta * mean_over_sequences(softplus, forget))


VARIANTS = {"paper": Variant(loss=paper, needs={"forget": Need(teacher=True)})}
