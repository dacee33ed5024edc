"""Torch dtypes and devices by name."""

import torch

from .errors import UserError
from .files import one_line

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a name; UserError for any other."""
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def device_of(name: str) -> torch.device:
    """The torch device of a name; UserError for one that is not there."""
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("nothing here has been tried on it")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device is {name!r}, which cannot be used here ({one_line(error, 100)}); "
            "expected cpu, or cuda where there is a GPU"
        ) from None
    return device
