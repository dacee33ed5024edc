"""GD, gradient difference: ascend on the forget answers while descending on the retain answers.

paper      L = -mean_t nll_forget + lambda_retain * mean_t nll_retain,  lambda_retain = 1    App. B.3, Eq. 1
released   L = -beta * F + R,  beta = 1                                                      mm/trainer.py:187-229
           F = mean_t nll_forget | KL(teacher || student) on forget, mean over all rows | forget "entropy" (D3)
           R = mean_t nll_retain | KL(teacher || student) on retain, mean over all rows
original   L = -mean_t nll_forget + mean_t nll_retain                                        TOFU, dataloader.py:101-111

needs      forget, retain; no teacher
positions  answer tokens; each batch divided by the number of its own answer tokens in the whole step (token mean)
resolved   R1 lambda stands on the retain term, as in Eq. 1; App. B.3 prints no weight, which is lambda = 1.
           R2 samples are averaged in print, tokens in all code: token mean.
deviations D1 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D2 the weight, beta, is on the forget term, the opposite place.
           D3 forget_entropy computes sum p log p, the negative entropy, and subtracts it: entropy is minimised, not
              maximised; it is a sum over all rows, about 1000 times the retain term's mean; NaN where p is 0.
at teacher nothing special for the paper's form; the released KL options start with a zero gradient
"""

from dataclasses import dataclass

from ..losses.reductions import token_mean
from ..settings import setting
from .loss import Loss, Need, Variant, check_finite


@dataclass(frozen=True)
class Options:
    lambda_retain: float = setting(1.0, "weight of the retain term", "paper Eq. 1; no value given, App. B.3 prints 1")

    def __post_init__(self):
        check_finite(self, "lambda_retain")


def paper(splits, options) -> Loss:
    return Loss.of(forget_nll=-token_mean(splits["forget"], "nll"),
                   retain_nll=options.lambda_retain * token_mean(splits["retain"], "nll"))


VARIANTS = {"paper": Variant(loss=paper, needs={"forget": Need(), "retain": Need()})}
