"""Retain FT: train on the retain set only.

paper      L = mean_t nll_retain                                                          [App. B.1]
released   the same                                         [CLEAR mm/trainer.py:179-181 at bb14c96]
original   the same: ordinary fine-tuning                              [TOFU finetune.py at bdc209e]

needs      retain; no teacher
positions  answer tokens of the retain batch, divided by their number (token mean).
           Label mask: answer; under released: released (D1) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 App. B.1 averages over samples without saying how tokens are averaged; all code takes
              the token mean.
deviations D1 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D2 each batch of batch_size records has its own mean; a step takes the mean of these.
           D3 an epoch has as many records as the forget set, not the retain set (CLEAR
              mm/dataset.py:250 at bb14c96); here too, under every semantics.
at teacher nothing special: the gradient is that of further fine-tuning
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .variant import Batches, Need, Variant


@dataclass(frozen=True)
class Options:
    """Retain FT has no options."""


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(retain_nll=token_mean(batches["retain"], "nll"))


NEEDS = {"retain": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options),
    "released": Variant.released(paper, NEEDS, Options),
    "original": Variant(paper, NEEDS, Options, by_batch=True),
}
