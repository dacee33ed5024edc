"""Stage: one training with one loss, a part of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clear_ref.losses.rows import BatchRows
from clear_ref.methods import Loss, Need
from clear_ref.model.vlm import VLM

StageLoss = Callable[[dict[str, BatchRows]], Loss]


@dataclass(frozen=True)
class Stage:
    """One training with one loss.

    needs         {batch name: Need}: what the loss reads
    loss          {batch name: BatchRows} -> Loss
    hidden_layer  decoder layer of the hidden states that are read; None: none are read
    by_batch      a step is the mean of the losses of its batches (train.py)
    mask          label mask of VLM.encode: answer or released
    phases        stages that take turns in every epoch, each with a pass over the plan; (): the
                  stage itself makes one pass
    epochs        a phase is part of this many first epochs; None: of all
    """

    name: str
    needs: dict[str, Need]
    loss: StageLoss
    hidden_layer: int | None = None
    by_batch: bool = False
    mask: str = "answer"
    phases: tuple[Stage, ...] = ()
    epochs: int | None = None

    def passes(self, epoch: int) -> list[Stage]:
        """The passes over the plan that an epoch makes, in order."""
        if not self.phases:
            return [self]
        return [phase for phase in self.phases if phase.epochs is None or epoch < phase.epochs]

    @property
    def needs_teacher(self) -> bool:
        """True if the loss reads anything of the teacher."""
        return any(need.teacher for need in self.needs.values())


def trainable(vlm: VLM) -> dict[str, Tensor]:
    """The parameters that training changes, by name."""
    return {
        name: parameter
        for name, parameter in vlm.model.named_parameters()
        if parameter.requires_grad
    }
