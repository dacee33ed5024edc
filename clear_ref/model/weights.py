"""Weights in and out of safetensors files, exactly: a missing, extra or misshapen tensor is an error that names it."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import UserError
from ..files import write_bytes

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a name; UserError for any other."""
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def device_of(name: str) -> torch.device:
    """The torch device of a name; UserError for one that is not there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device is {name!r}, which cannot be used here ({str(error).splitlines()[0]}); "
                        "expected cpu, or cuda where there is a GPU") from None
    return device


def read_tensors(path) -> dict[str, torch.Tensor]:
    """Every tensor of one safetensors file; UserError if it is missing, truncated or none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; expected the model's weights in safetensors form")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch or write it again") from None


def fill(target: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], where) -> None:
    """Copy `tensors` into `target` name by name, converting the dtype; nothing is copied unless everything fits.

    raises  UserError that lists the first missing, extra and misshapen names
    """
    missing = sorted(set(target) - set(tensors))
    extra = sorted(set(tensors) - set(target))
    shapes = [f"{name} is {list(tensors[name].shape)}, expected {list(target[name].shape)}"
              for name in sorted(set(target) & set(tensors)) if tensors[name].shape != target[name].shape]
    faults = [f"{kind} {len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
              for kind, names in (("missing", missing), ("unexpected", extra), ("misshapen", shapes)) if names]
    if faults:
        raise UserError(f"{where}: tensors do not fit the model: {'; '.join(faults)}; is this the directory of that model?")
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(tensors[name])


def write_tensors(path, tensors: dict[str, torch.Tensor]) -> None:
    """Write one safetensors file, names sorted, whole or not at all."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    write_bytes(path, save(ready, metadata={"format": "pt"}))
