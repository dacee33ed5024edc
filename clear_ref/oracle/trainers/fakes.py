"""The fake models, inputs and accelerator of a case, for the trainer of another project."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from .fake_accelerator import FakeAccelerator
from .fake_model import FakeModel
from .stored_batches import TENSORS, Batch, StoredBatches

KEYS = ("input_ids", "attention_mask", "labels")

Kind = TypeVar("Kind")


class Fakes:
    """What a trainer needs on a case.

    student      a FakeModel, the model that is trained
    teacher      a FakeModel, the frozen reference model
    inputs       {batch: {input_ids, attention_mask, labels}}, as a collator gives them
    batches      the batches as conform hands them over
    accelerator  a FakeAccelerator
    """

    def __init__(self, batches: Mapping[str, Batch]) -> None:
        stored = StoredBatches(batches)
        self.student = FakeModel(stored)
        self.teacher = FakeModel(stored, is_teacher=True).eval()
        self.inputs = {name: {key: batch[key] for key in KEYS} for name, batch in batches.items()}
        self.accelerator = FakeAccelerator()
        self.batches = dict(batches)

    def trainer(self, kind: type[Kind], **attributes: Any) -> Kind:
        """An object of a trainer's class, without its __init__, with model, accelerator and these
        attributes: those that its compute_loss reads.
        """
        made = object.__new__(kind)
        made.__dict__.update(
            model=self.student,
            accelerator=self.accelerator,
            is_deepspeed_enabled=False,
            **attributes,
        )
        return made

    def gradients(self) -> dict[str, torch.Tensor]:
        """{batch: what backward has added to the gradient of its student tensor}.

        For code that calls loss.backward() itself; it returns (loss, fakes.gradients()).
        """
        found = {}
        for name, batch in self.batches.items():
            tensor = next(batch[key] for key in TENSORS if key in batch)
            found[name] = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        return found
