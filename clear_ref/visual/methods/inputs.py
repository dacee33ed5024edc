"""Batch and Inputs: what a visual loss may read in a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clear_ref.common.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a loss may read of the B pictures of a batch.

    embeddings  [B, D] of the network that is trained
    labels      [B] int64: the class of each picture
    targets     [B, D], no gradient; None if the variant has no target
    forget      [B] bool: pictures that are to be forgotten
    random      [B] int64: another person's class, drawn in each step; None if not read
    """

    embeddings: Tensor
    labels: Tensor
    targets: Tensor | None
    forget: Tensor
    random: Tensor | None = None

    def __post_init__(self) -> None:
        B = len(self.embeddings)
        shapes = {
            "embeddings": (self.embeddings, 2),
            "labels": (self.labels, 1),
            "targets": (self.targets, 2),
            "forget": (self.forget, 1),
            "random": (self.random, 1),
        }
        for name, (value, axes) in shapes.items():
            if value is None:
                continue
            if value.ndim != axes or len(value) != B:
                raise ShapeError(
                    f"{name} is {list(value.shape)}; expected {axes} axes, the first of {B} "
                    "pictures as the embeddings"
                )
        if self.targets is not None and self.targets.shape != self.embeddings.shape:
            raise ShapeError(
                f"targets are {list(self.targets.shape)}; expected "
                f"{list(self.embeddings.shape)}, as the embeddings"
            )

    def target(self) -> Tensor:
        """The targets; ShapeError if the batch has none."""
        if self.targets is None:
            raise ShapeError("the batch has no targets; expected [B, D]")
        return self.targets

    def random_labels(self) -> Tensor:
        """The random classes; ShapeError if the batch has none."""
        if self.random is None:
            raise ShapeError("the batch has no random classes; expected [B]")
        return self.random


@dataclass(frozen=True)
class Inputs:
    """What a loss may read in a step.

    batches      {name: Batch}, the names of SAMPLING
    weight       [classes, D]: the head's class weights
    base_weight  [classes, D]: those of the base, no gradient
    parameters   every parameter of the network
    done         share of the epochs that are over, 0 in the first one
    """

    batches: Mapping[str, Batch]
    weight: Tensor
    base_weight: Tensor
    parameters: tuple[Tensor, ...] = ()
    done: float = 0.0
