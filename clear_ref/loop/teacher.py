"""The frozen model that KL terms and log-ratios compare with.

Its hidden states can be kept (kept.py). Their bits depend on the weights and the config; on the
ids, padding and pictures of the whole batch, because a matrix product of another shape may add up
in another order; on whether a common prompt is computed once (prefix.py), and where that ends; on
the layer, the first row, the device and the number of threads. A result's name holds all of these;
question, answer, template, mask and dtype are in it by the ids, the first row and the weights.
"""

import copy
from typing import Literal

import torch
from torch import Tensor

from clear_ref.data.batches import Batch
from clear_ref.model import lora
from clear_ref.model.vlm import VLM

from .frozen_weights import FrozenWeights, frozen_tensors
from .kept import HIDDEN, LOGITS, Kept, Name
from .prefix import hidden_of_all, prompt_length


class Teacher:
    """The frozen model.

    With adapters: the same weights, with the adapters in `mode`: "off", or "reference", as
    lora.freeze_reference saved them. Without adapters: a copy of the model as it is now.

    kept  results that are used again; None: every call computes. Weights that FSDP2 shares out are
          always computed with: all processes must take part
    """

    def __init__(
        self, vlm: VLM, mode: Literal["off", "reference"] = "off", kept: Kept | None = None
    ) -> None:
        self.vlm = vlm
        self.mode = mode
        self.kept = kept or Kept()
        self.keeps = kept is not None
        self._weights: FrozenWeights | None = None
        self.copy: VLM | None = None
        self._adapters = list(lora.adapters(vlm.model).values())
        if not self._adapters:
            self.copy = copy.copy(vlm)
            self.copy.model = copy.deepcopy(vlm.model).requires_grad_(False)

    @torch.no_grad()
    def hidden_of_all(
        self, batches: list[Batch], layer: int | None = None, start: int = 0
    ) -> list[Tensor]:
        """[B, T - start, D] of the frozen model for each batch of a group; not to be changed."""
        if not self._keeps():
            return self._computed(batches, layer, start, 0)
        n_prompt = prompt_length(batches[0]) if len(batches) > 1 else 0
        results: dict[int, Tensor] = {}
        missing: dict[int, Name] = {}
        for index, batch in enumerate(batches):
            name = self._name(batch, n_prompt, layer, start)
            hidden = self.kept.get(name, batch.input_ids.device)
            if hidden is None:
                missing[index] = name
            else:
                results[index] = hidden
        if missing:
            left = [batches[index] for index in missing]
            computed = self._computed(left, layer, start, n_prompt)
            for (index, name), hidden in zip(missing.items(), computed, strict=True):
                results[index] = hidden
                self.kept.put(name, hidden)
        return [results[index] for index in range(len(batches))]

    def _keeps(self) -> bool:
        return self.keeps and not (self.copy or self.vlm).is_shared_out

    def _computed(
        self, batches: list[Batch], layer: int | None, start: int, n_prompt: int
    ) -> list[Tensor]:
        if self.copy is not None:
            return hidden_of_all(self.copy, batches, layer, start, n_prompt)
        with lora.mode_of(self._adapters, self.mode):
            return hidden_of_all(self.vlm, batches, layer, start, n_prompt)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the frozen model's hidden states, without gradient; not to be changed.

        LoRA never adapts the output layer: with adapters it is the student's. On a CPU they are
        kept too: there the product takes longer than the rows' digest, on a GPU it does not.
        """
        vlm = self.copy or self.vlm
        if not self._keeps() or hidden.device.type != "cpu" or not len(hidden):
            return vlm.head(hidden)
        name = self._frozen_weights().name(self.kept, LOGITS, hidden)
        logits = self.kept.get(name, hidden.device)
        if logits is None:
            logits = vlm.head(hidden)
            self.kept.put(name, logits)
        return logits

    def _name(self, batch: Batch, n_prompt: int, layer: int | None, start: int) -> Name:
        """The name of a batch's hidden states.

        n_prompt  positions of the prompt that the group has in common; 0: the batch is alone
        """
        return self._frozen_weights().name(
            self.kept,
            HIDDEN,
            batch.input_ids.device.type,
            n_prompt,
            layer,
            start,
            batch.input_ids,
            batch.attention_mask,
            batch.pixel_values,
            batch.image_grid_thw,
        )

    def _frozen_weights(self) -> FrozenWeights:
        """The weights and buffers that a forward reads, and the scale of each adapter."""
        if self._weights is None:
            model = (self.copy or self.vlm).model
            config = sorted(self.vlm.config_json.items())
            self._weights = FrozenWeights(frozen_tensors(model, self.mode), config, self.mode)
        return self._weights
