"""Torch dtypes and devices by name."""

import torch

from . import distributed
from .errors import UserError
from .files import one_line

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype with this name; UserError for an unknown name."""
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def device_of(name: str) -> torch.device:
    """The torch device with this name; UserError if this machine does not have it.

    Under torchrun, cuda is the GPU with the number that the process has on its machine.
    """
    try:
        device = torch.device(distributed.local_device(name))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("this device type has not been tested")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device is {name!r}, which cannot be used here ({one_line(error, 100)}); "
            "expected cpu, or cuda on a machine with a GPU"
        ) from None
    return device
