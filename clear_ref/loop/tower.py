"""The vision tower's output for pictures, kept while its weights are frozen.

A picture's output does not depend on the question. Adapters in the tower change the student's
output in every step, and leave the frozen model's alone; without them both have the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from clear_ref.model import lora
from clear_ref.model.base_model import Model
from clear_ref.model.vlm import VLM

from .frozen_weights import FrozenWeights, frozen_tensors
from .kept import TOWER, Kept
from .teacher import Teacher


class TowerOutputs:
    """What the tower of a model gives, kept: for Model.kept_tower."""

    def __init__(self, vlm: VLM, tower: nn.Module, kept: Kept) -> None:
        self.model: Model = vlm.model
        self.kept = kept
        self._adapters = list(lora.adapters(tower).values())
        self._tower = tower
        self._config = sorted(vlm.config_json.items())
        self._weights: dict[str, FrozenWeights] = {}  # by mode of the adapters

    def __call__(self, compute: Callable[[], Tensor], pixels: Tensor, *more: object) -> Tensor:
        """compute(), or the kept result for equal pictures.

        more  what the output depends on beside the pixels
        """
        mode = self._adapters[0].mode if self._adapters else "off"
        trained = any(parameter.requires_grad for parameter in self._tower_weights())
        if mode == "on" or trained:
            return compute()
        if mode not in self._weights:
            tensors = frozen_tensors(self._tower, mode)
            self._weights[mode] = FrozenWeights(tensors, self._config, mode)
        name = self._weights[mode].name(self.kept, TOWER, pixels.device.type, pixels, *more)
        output = self.kept.get(name, pixels.device)
        if output is None:
            output = compute()
            self.kept.put(name, output)
        return output

    def _tower_weights(self) -> list[Tensor]:
        named = self._tower.named_parameters()
        return [parameter for name, parameter in named if ".adapter." not in name]


def tower_outputs(vlm: VLM, teacher: Teacher | None, kept: Kept | None) -> list[TowerOutputs]:
    """Those of the student, and of the teacher if it is a copy; [] if nothing is kept.

    Weights that are shared out over processes are always computed with.
    """
    copied = None if teacher is None else teacher.copy
    vlms = [vlm] if copied is None else [vlm, copied]
    if kept is None or any(each.is_shared_out for each in vlms):
        return []
    towers = [(each, each.model.vision) for each in vlms]
    return [TowerOutputs(each, tower, kept) for each, tower in towers if tower is not None]


@contextmanager
def kept_towers(outputs: list[TowerOutputs]) -> Iterator[None]:
    """Inside the block the models take what their towers give from the kept outputs."""
    for each in outputs:
        each.model.kept_tower = each
    try:
        yield
    finally:
        for each in outputs:
            each.model.kept_tower = None
