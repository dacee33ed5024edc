"""Sparsity: train on the retain set, and make the network's weights small.

paper      L = mean_r a_r + lambda ||theta||_1,  a = AM-softmax, W normalised;  lambda = 1e-4
                                                                                         [App. B.13]
released   the same, W as it is               [CLEAR cv/unlearning/sparsity.py:18-24 at bb14c96]
                                                              [CLEAR cv/utils.py:23-27 at bb14c96]
original   L = mean_r a_r + alpha (1 - epoch / epochs) ||theta||_1,  epoch from 0,  alpha = 0.2
                                                     [Unlearn-Sparse unlearn/FT.py:71-92 at 16a2dbc]

needs      retain pictures and their classes; every parameter of the network
positions  mean_r: divided by the retain pictures of the batch. ||theta||_1: the sum of absolute
           values of all parameters of the network, BN's included, the head's not; not divided
resolved   R1 theta is the network that is kept: the head is trained without this term.
           R2 lambda: the released value; the paper gives none.
           R3 original: its cross-entropy is AM-softmax here; optimiser and batches are those of
              the recipe.
deviations D1 W is not normalised. D2 lambda is constant; the original's decays to 0.
trained    network and head
at base    nothing special: a value of 0 has the gradient 0 of the L1 term
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from clear_ref.common.settings import setting
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import check_finite

from .inputs import Inputs
from .terms import mean_am_softmax
from .variant import Variant

WEIGHT = "weight of the sum of the network's absolute values"


@dataclass(frozen=True)
class Options:
    l1: float = setting(1e-4, WEIGHT, "CLEAR cv/unlearning/sparsity.py:49 at bb14c96 (alpha)")

    def __post_init__(self) -> None:
        check_finite(self, "l1")


@dataclass(frozen=True)
class Original:
    alpha: float = setting(0.2, f"{WEIGHT} in the first epoch", "Unlearn-Sparse (--alpha)")

    def __post_init__(self) -> None:
        check_finite(self, "alpha")


def absolute_sum(parameters: tuple[Tensor, ...]) -> Tensor:
    """Scalar: ||theta||_1."""
    return torch.stack([each.abs().sum() for each in parameters]).sum()


def paper(inputs: Inputs, options: Options) -> Loss:
    return Loss.of(
        retain_am=mean_am_softmax(inputs.batches["retain"], inputs.weight, True),
        l1=options.l1 * absolute_sum(inputs.parameters),
    )


def released(inputs: Inputs, options: Options) -> Loss:
    return Loss.of(
        retain_am=mean_am_softmax(inputs.batches["retain"], inputs.weight, False),
        l1=options.l1 * absolute_sum(inputs.parameters),
    )


def original(inputs: Inputs, options: Original) -> Loss:
    alpha = options.alpha * (1 - inputs.done)
    return Loss.of(
        retain_am=mean_am_softmax(inputs.batches["retain"], inputs.weight, True),
        l1=alpha * absolute_sum(inputs.parameters),
    )


VARIANTS = {
    "paper": Variant(paper, "retain", Options, trains_head=True),
    "released": Variant(released, "retain", Options, trains_head=True, released=True),
    "original": Variant(original, "retain", Original, trains_head=True),
}
