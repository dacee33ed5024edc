"""GA, gradient ascent: make the forget answers less likely, without limit.

paper      L = -mean_t nll_forget                                                      App. B.2
released   the same                                                                    mm/trainer.py:183-185
original   the same                                                                    TOFU, dataloader.py:93-99

needs      forget; no teacher
positions  answer tokens of the forget batch, divided by their number in the whole step (token mean)
resolved   R1 App. B.2 prints +mean nll and says that it is maximised; what is minimised is therefore -mean nll.
           R2 it averages over samples without saying how tokens are averaged; all code takes the token mean.
deviations D1 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
at teacher nothing special: the loss is not bounded below, at the teacher or anywhere
"""

from dataclasses import dataclass

from ..losses.reductions import token_mean
from .loss import Loss, Need, Variant


@dataclass(frozen=True)
class Options:
    """Gradient ascent has no options."""


def paper(splits, options) -> Loss:
    return Loss.of(forget_nll=-token_mean(splits["forget"], "nll"))


VARIANTS = {"paper": Variant(loss=paper, needs={"forget": Need()})}
