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

from .kept import Kept, digest
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
        self.kept = kept
        self._versions: list[int] = []
        self._weights = ""
        self._tensors: list[Tensor] = []
        self.copy: VLM | None = None
        if not lora.adapters(vlm.model):
            self.copy = copy.copy(vlm)
            self.copy.model = copy.deepcopy(vlm.model).requires_grad_(False)

    @torch.no_grad()
    def hidden_of_all(
        self, batches: list[Batch], layer: int | None = None, start: int = 0
    ) -> list[Tensor]:
        """[B, T - start, D] of the frozen model for each batch of a group; not to be changed."""
        if self.kept is None or (self.copy or self.vlm).is_shared_out:
            return self._computed(batches, layer, start)
        n_prompt = prompt_length(batches[0]) if len(batches) > 1 else 0
        names = [self._name(batch, n_prompt, layer, start) for batch in batches]
        known = [self.kept.get(name, batches[0].input_ids.device) for name in names]
        found = [hidden for hidden in known if hidden is not None]
        if len(found) == len(batches):
            return found
        computed = self._computed(batches, layer, start)
        for name, before, hidden in zip(names, known, computed, strict=True):
            if before is None:
                self.kept.put(name, hidden)
        return computed

    def _computed(self, batches: list[Batch], layer: int | None, start: int) -> list[Tensor]:
        if self.copy is not None:
            return hidden_of_all(self.copy, batches, layer, start)
        with lora.mode(self.vlm.model, self.mode):
            return hidden_of_all(self.vlm, batches, layer, start)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the frozen model's hidden states.

        LoRA never adapts the output layer: with adapters it is the student's.
        """
        return (self.copy or self.vlm).head(hidden)

    def _name(self, batch: Batch, n_prompt: int, layer: int | None, start: int) -> str:
        """The name of a batch's hidden states.

        n_prompt  positions of the prompt that the group has in common; 0: the batch is alone
        """
        assert self.kept is not None
        return digest(
            self.kept.identity,
            self._weights_name(),
            batch.input_ids.device.type,
            torch.get_num_threads(),
            n_prompt,
            layer,
            start,
            batch.input_ids,
            batch.attention_mask,
            batch.pixel_values,
            batch.image_grid_thw,
        )

    def _weights_name(self) -> str:
        """Digest of config and frozen weights; made again if a weight was changed in place."""
        tensors = self._frozen_tensors()
        versions = [tensor._version for tensor in tensors]
        if versions != self._versions:
            config = sorted(self.vlm.config_json.items())
            self._weights = digest(config, self.mode, *tensors)
            self._versions = versions
        return self._weights

    def _frozen_tensors(self) -> list[Tensor]:
        """The weights and buffers that a forward reads, and the scale of each adapter."""
        if self._tensors:
            return self._tensors
        model = (self.copy or self.vlm).model
        named = [*model.named_parameters(), *model.named_buffers()]
        self._tensors = [tensor for name, tensor in named if ".adapter." not in name]
        for adapter in lora.adapters(model).values() if self.mode == "reference" else ():
            assert adapter.reference is not None
            self._tensors += [*adapter.reference, torch.tensor(adapter.scale)]
        return self._tensors
