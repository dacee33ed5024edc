"""The frozen model that KL terms and log-ratios compare with."""

import copy
from typing import Literal

import torch
from torch import Tensor

from clear_ref.data.batches import Batch
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .prefix import hidden_of_all


class Teacher:
    """The frozen model.

    With adapters: the same weights, with the adapters in `mode`: "off", or "reference", as
    lora.freeze_reference saved them. Without adapters: a copy of the model as it is now.
    """

    def __init__(self, vlm: VLM, mode: Literal["off", "reference"] = "off") -> None:
        self.vlm = vlm
        self.mode = mode
        self.copy: VLM | None = None
        if not lora.adapters(vlm.model):
            self.copy = copy.copy(vlm)
            self.copy.model = copy.deepcopy(vlm.model).requires_grad_(False)

    @torch.no_grad()
    def hidden_of_all(
        self, batches: list[Batch], layer: int | None = None, start: int = 0
    ) -> list[Tensor]:
        """[B, T - start, D] of the frozen model for each batch of a group."""
        if self.copy is not None:
            return hidden_of_all(self.copy, batches, layer, start)
        with lora.mode(self.vlm.model, self.mode):
            return hidden_of_all(self.vlm, batches, layer, start)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the frozen model's hidden states.

        LoRA never adapts the output layer: with adapters it is the student's.
        """
        return (self.copy or self.vlm).head(hidden)
