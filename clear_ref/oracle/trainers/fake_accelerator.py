"""An accelerator that changes nothing and keeps the losses that it should differentiate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class FakeAccelerator:
    """One process on the CPU. losses: what backward got, in order; backward differentiates nothing.

    The methods have the names of Hugging Face's Accelerator.
    """

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.device = torch.device("cpu")
        self.mixed_precision = "no"
        self.gradient_accumulation_steps = 1
        self.num_processes = 1
        self.process_index = 0
        self.is_main_process = True
        self.is_local_main_process = True
        self.sync_gradients = True

    def backward(self, loss: torch.Tensor, **options: object) -> None:
        """Keeps the loss."""
        self.losses.append(loss)

    def prepare(self, *objects: Any, **options: object) -> Any:
        """The objects as they are; one object alone, not as a tuple."""
        return objects[0] if len(objects) == 1 else objects

    def prepare_model(self, model: Any, **options: object) -> Any:
        """The model as it is."""
        return model

    def unwrap_model(self, model: Any, **options: object) -> Any:
        """The model as it is."""
        return model

    def gather(self, tensor: Any) -> Any:
        """The tensor as it is."""
        return tensor

    def gather_for_metrics(self, tensor: Any) -> Any:
        """The tensor as it is."""
        return tensor

    @contextmanager
    def accumulate(self, *models: object) -> Iterator[None]:
        """A context without effect."""
        yield

    @contextmanager
    def autocast(self, **options: object) -> Iterator[None]:
        """A context without effect."""
        yield

    @contextmanager
    def no_sync(self, *models: object) -> Iterator[None]:
        """A context without effect."""
        yield

    def clip_grad_norm_(self, *args: object, **options: object) -> torch.Tensor:
        """0: there is no gradient to clip yet."""
        return torch.zeros(())

    def clip_grad_value_(self, *args: object, **options: object) -> None:
        """Nothing: there is no gradient to clip yet."""

    def wait_for_everyone(self) -> None:
        """Nothing: there is one process."""

    def print(self, *args: object, **options: object) -> None:
        """Prints nothing."""

    def log(self, *args: object, **options: object) -> None:
        """Logs nothing."""
