"""GA, gradient ascent: make the forget answers less likely, without limit.

paper      L = -mean_t nll_forget                                                      [App. B.2]
released   the same                                                                    [mm/trainer.py:183-185]
original   the same                                                                    [TOFU, dataloader.py:93-99]

needs      forget; no teacher
positions  answer tokens of the forget batch, divided by their number (token mean)
resolved   R1 App. B.2 prints +mean nll and says that it is maximised; what is minimised is therefore -mean nll.
           R2 it averages over samples without saying how tokens are averaged; all code takes the token mean.
deviations D1 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D2 each batch of batch_size records is a mean of its own, and a step the mean of its batches.
at teacher nothing special: the loss is not bounded below, at the teacher or anywhere
evidence   by hand, finite differences; released: authors' code; original: TOFU's code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    """Gradient ascent has no options."""


def paper(batches, options) -> Loss:
    return Loss.of(forget_nll=-token_mean(batches["forget"], "nll"))


NEEDS = {"forget": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options),
    "released": Variant.released(paper, NEEDS, Options),
    "original": Variant(paper, NEEDS, Options, by_batch=True),
}
