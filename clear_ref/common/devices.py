"""Torch dtypes and devices by name."""

import torch

from . import collectives, distributed
from .errors import UserError
from .files import one_line
from .settings import DTYPES


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype with this name; UserError for an unknown name."""
    if name not in DTYPES:
        raise UserError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def device_of(name: str) -> torch.device:
    """The torch device with this name; UserError if this machine does not have it.

    Under torchrun, cuda is the GPU with the number that the process has on its machine.
    """
    try:
        device = torch.device(local_device(name))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("this device type has not been tested")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device is {name!r}, which cannot be used here ({one_line(error, 100)}); "
            "expected cpu, or cuda on a machine with a GPU"
        ) from None
    return device


def local_device(name: str) -> str:
    """The device of this process: for cuda, the GPU with its number on this machine.

    raises  UserError if torchrun started more processes on this machine than it has GPUs
    """
    if distributed.size() == 1 or name != "cuda" or not torch.cuda.is_available():
        return name
    of_machine, n_devices = collectives.local("WORLD_SIZE"), torch.cuda.device_count()
    if of_machine > n_devices:
        raise UserError(
            f"device is 'cuda': {of_machine} processes and {n_devices} GPUs on this machine; "
            f"expected --nproc-per-node {n_devices} or fewer, or --device cuda:N, which all share"
        )
    index = collectives.local("RANK")
    torch.cuda.set_device(index)
    return f"cuda:{index}"
