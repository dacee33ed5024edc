"""The frozen model that KL terms and log-ratios compare with."""

import copy

import torch

from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .prefix import hidden_of_all


class Teacher:
    """With LoRA: the same weights, adapters in `mode` (off, or reference: as `lora.freeze_reference` kept them).
    Without: a copy of the model, made now."""

    def __init__(self, vlm: VLM, mode: str = "off"):
        self.vlm, self.mode = vlm, mode
        self.copy = None
        if not lora.adapters(vlm.model):
            self.copy = copy.copy(vlm)
            self.copy.model = copy.deepcopy(vlm.model).requires_grad_(False)

    @torch.no_grad()
    def hidden_of_all(self, batches: list, layer=None, start=0) -> list[torch.Tensor]:
        """[B, T - start, D] of the frozen model for each batch of a group, as prefix.hidden_of_all."""
        if self.copy is not None:
            return hidden_of_all(self.copy, batches, layer, start)
        with lora.mode(self.vlm.model, self.mode):
            return hidden_of_all(self.vlm, batches, layer, start)

    def head(self, hidden):
        """Logits of the frozen model's hidden states. LoRA never adapts the head, so there it is the student's."""
        return (self.copy or self.vlm).head(hidden)
