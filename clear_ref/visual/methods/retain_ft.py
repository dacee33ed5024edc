"""Retain FT: train on the retain set only.

paper      L = mean_r a_r,  a = AM-softmax of a retain picture, W normalised              [App. B.1]
released   the same, W as it is                  [CLEAR cv/unlearning/finetune.py:23-28 at bb14c96]

needs      retain pictures and their classes
positions  mean_r: divided by the retain pictures of the batch
resolved   R1 App. B.1 names the training loss; that of the face network is AM-softmax.
deviations D1 W is not normalised (CLEAR cv/AdMSLoss.py:26-27 at bb14c96). D2 the last batch of an
              epoch is dropped if it is not full (line 76); here under every semantics.
trained    network and head
at base    nothing special: the gradient is that of further training
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from clear_ref.methods.loss import Loss

from .inputs import Inputs
from .terms import mean_am_softmax
from .variant import Variant


@dataclass(frozen=True)
class Options:
    """Retain FT has no options."""


def paper(inputs: Inputs, options: Options) -> Loss:
    return Loss.of(retain_am=mean_am_softmax(inputs.batches["retain"], inputs.weight, True))


def released(inputs: Inputs, options: Options) -> Loss:
    return Loss.of(retain_am=mean_am_softmax(inputs.batches["retain"], inputs.weight, False))


VARIANTS = {
    "paper": Variant(paper, "retain", Options, trains_head=True),
    "released": Variant(released, "retain", Options, trains_head=True, released=True),
}
