"""Retain FT: keep training on the retain set and hope that the rest fades.

paper      L = mean_t nll_retain                                                       App. B.1
released   the same                                                                    mm/trainer.py:179-181
original   none: ordinary fine-tuning

needs      retain; no teacher
positions  answer tokens of the retain batch, divided by their number in the whole step (token mean)
resolved   R1 App. B.1 averages over samples without saying how tokens are averaged; all code takes the token mean.
deviations D1 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D2 an epoch is as long as the forget set, not the retain set (mm/dataset.py:250).
at teacher nothing special: the gradient is that of further fine-tuning
"""

from dataclasses import dataclass

from ..losses.reductions import token_mean
from .loss import Loss, Need, Variant


@dataclass(frozen=True)
class Options:
    """Retain FT has no options."""


def paper(splits, options) -> Loss:
    return Loss.of(retain_nll=token_mean(splits["retain"], "nll"))


VARIANTS = {"paper": Variant(loss=paper, needs={"retain": Need()})}
