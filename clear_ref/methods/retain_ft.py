"""Retain FT: keep training on the retain set and hope that the rest fades.

paper      L = mean_t nll_retain                                                       [App. B.1]
released   the same                                                                    [mm/trainer.py:179-181]
original   the same: ordinary fine-tuning                                              [TOFU, finetune.py]

needs      retain; no teacher
positions  answer tokens of the retain batch, divided by their number (token mean)
resolved   R1 App. B.1 averages over samples without saying how tokens are averaged; all code takes the token mean.
deviations D1 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D2 each batch of batch_size records is a mean of its own, and a step the mean of its batches.
           D3 an epoch is as long as the forget set, not the retain set (mm/dataset.py:250); here too, in every meaning.
at teacher nothing special: the gradient is that of further fine-tuning
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    """Retain FT has no options."""


def paper(batches, options) -> Loss:
    return Loss.of(retain_nll=token_mean(batches["retain"], "nll"))


NEEDS = {"retain": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options),
    "released": Variant.released(paper, NEEDS, Options),
    "original": Variant(paper, NEEDS, Options, by_batch=True),
}
