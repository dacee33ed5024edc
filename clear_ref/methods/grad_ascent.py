"""GA, gradient ascent: make the forget answers less likely, without limit.

paper      L = -mean_t nll_forget                                                         [App. B.2]
released   the same                                         [CLEAR mm/trainer.py:183-185 at bb14c96]
original   the same                                            [TOFU dataloader.py:93-99 at bdc209e]

needs      forget; no teacher
positions  answer tokens of the forget batch, divided by their number (token mean).
           Label mask: answer; under released: released (D1) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 App. B.2 prints +mean nll and says that it is maximised; so -mean nll is minimised.
           R2 App. B.2 averages over samples without saying how tokens are averaged; all code takes
              the token mean.
deviations D1 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D2 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher nothing special: the loss is not bounded below, at the teacher or anywhere
evidence   by hand, finite differences; released: authors' code; original: TOFU's code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .variant import Batches, Need, Variant


@dataclass(frozen=True)
class Options:
    """Gradient ascent has no options."""


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(forget_nll=-token_mean(batches["forget"], "nll"))


NEEDS = {"forget": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options),
    "released": Variant.released(paper, NEEDS, Options),
    "original": Variant(paper, NEEDS, Options, by_batch=True),
}
