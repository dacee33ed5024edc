"""The names of results that frozen weights give: equal names, equal bits."""

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn

from clear_ref.model import lora

from .kept import Kept, Name, digest

_numbers = count()  # of weights in this process, never used twice


class FrozenWeights:
    """Weights that no training changes.

    tensors  weights and buffers that are read
    more     other values that the results depend on, by their repr
    """

    def __init__(self, tensors: Sequence[Tensor], *more: object) -> None:
        self.tensors = tensors
        self.more = more
        self._versions: list[int] = []
        self._number = -1
        self._digest = ""

    def name(self, kept: Kept, kind: str, *inputs: object) -> Name:
        """The name of the result of that kind for these inputs, tensors and others.

        Several runs know it by the digest of the weights. One run alone needs no digest until a
        file is read or written: in one process the weights have a number.
        """
        self._look_at_versions()
        inputs_digest = digest(kept.identity, kind, torch.get_num_threads(), *inputs)

        def everywhere() -> str:
            return digest(inputs_digest, self._digest_of_weights())

        here = everywhere() if kept.shared else f"{self._number} {inputs_digest}"
        return Name(kind, here, everywhere)

    def _look_at_versions(self) -> None:
        """Another number, and no digest, if a weight was changed in place."""
        versions = [tensor._version for tensor in self.tensors]
        if versions != self._versions:
            self._versions = versions
            self._number = next(_numbers)
            self._digest = ""

    def _digest_of_weights(self) -> str:
        if not self._digest:
            self._digest = digest(*self.more, *self.tensors)
        return self._digest


def frozen_tensors(module: nn.Module, mode: lora.Mode) -> list[Tensor]:
    """Weights and buffers without adapters; in mode "reference" also these, as they were saved."""
    named = [*module.named_parameters(), *module.named_buffers()]
    tensors = [tensor for name, tensor in named if ".adapter." not in name]
    for adapter in lora.adapters(module).values() if mode == "reference" else ():
        assert adapter.reference is not None
        tensors += [*adapter.reference, torch.tensor(adapter.scale)]
    return tensors
