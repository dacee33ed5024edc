"""Variant: one method under one semantics, and what it reads in a step.

A step has one or two batches, by how a method takes its pictures (SAMPLING, SAMPLING_WORDS).
Within a batch of pool the pictures of both sets are told apart by `forget`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from clear_ref.methods.loss import Loss

from .inputs import Inputs

SAMPLING = {
    "retain": ("retain",),
    "pairs": ("retain", "forget"),
    "pool": ("pool",),
    "forget": ("forget",),
}
SAMPLING_WORDS = {
    "retain": "a batch of the retain set; an epoch is one pass over it",
    "pairs": "a retain batch and a forget batch; the forget set is repeated forget_times times, "
    "and an epoch ends with the shorter of the two passes",
    "pool": "one batch of the forget set, repeated forget_times times, and the retain set, mixed",
    "forget": "one batch of the forget set, repeated forget_times times",
}


class Target(Enum):
    """What a loss compares the embedding of a forget picture with; fixed before training.

    A retain picture is always compared with its own embedding by the base.
    """

    BASE = "the base's embedding of the same picture"
    MIRRORED = "the base's embedding of the mirrored picture"
    PER_PICTURE = "c times a vector of U(-1, 1), another one for each picture"
    DIRECTION = "c times one direction v / ||v||, v of U[0, 1), the same for all pictures"


LossFunction = Callable[[Inputs, Any], Loss]


@dataclass(frozen=True)
class Phase:
    """A pass of an epoch with a loss of its own, of the first `epochs` epochs (None: of all)."""

    name: str
    loss: LossFunction
    sampling: str
    epochs: int | None = None


@dataclass(frozen=True)
class Variant:
    """One method under one semantics.

    loss         (inputs, options) -> Loss; with phases, the sum of their losses
    sampling     which batches a step has: a name of SAMPLING
    options      the class of the options
    trains_head  whether the optimiser moves the head's class weights too
    target       what a forget picture is compared with; None: the batches have no targets
    by_caption   True: targets are looked up by caption text, so pictures with equal captions share
                 one, and a retain picture's overwrites a forget picture's
    by_position  whether the loss pairs the pictures of the two batches, which must be as many
    draws        whether random classes are drawn for the forget batch
    released     whether the losses that train base and gold read W as it is (head.py)
    phases       options -> the passes of an epoch; None: one pass with `loss`
    """

    loss: LossFunction
    sampling: str
    options: type
    trains_head: bool = False
    target: Target | None = None
    by_caption: bool = False
    by_position: bool = False
    draws: bool = False
    released: bool = False
    phases: Callable[[Any], tuple[Phase, ...]] | None = None

    def phases_of(self, options: Any) -> tuple[Phase, ...]:
        """The passes of an epoch."""
        if self.phases is not None:
            return self.phases(options)
        return (Phase("", self.loss, self.sampling),)

    def reads_forget(self, options: Any) -> bool:
        """Whether a pass has pictures of the forget set."""
        return any(
            phase.sampling != "retain" and phase.epochs != 0 for phase in self.phases_of(options)
        )
