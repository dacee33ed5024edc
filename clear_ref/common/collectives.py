"""Exchange between the processes that torchrun started: texts as bytes, and tensors.

distributed.py imports this file when a run has several processes: without them torch, which takes
seconds to import, may not be needed. Functions on tensors change nothing in a run of one process.
"""

import os
import time
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

# Its functions have the group as the default of an argument. Imported after `join`, as the
# optimisers import it, they would keep the group, and `leave` would not end the group's threads.
import torch.distributed.nn.functional
from torch import Tensor

from . import distributed

# How long a process waits for another one. An ended process is noticed at once; this is for one
# that hangs. The first process may write tens of gigabytes meanwhile.
TIMEOUT = timedelta(hours=6)
FREEING = 0.2  # seconds; what waits for the interpreter needs less than one of a thousand


def join() -> dist.Store:
    """Join the processes that torchrun started; returns what they share."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, world = next(iter(dist.rendezvous("env://")))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    return store


def leave() -> None:
    """Leave the other processes.

    A thread of gloo that is the last to hold an operation frees its tensors, for which it waits for
    the interpreter; if that ends meanwhile, the process aborts. Without a group its threads have
    ended. FSDP keeps the group: then its threads get the time that they need.
    """
    dist.destroy_process_group()
    time.sleep(FREEING)


def gather_bytes(data: bytes) -> list[bytes]:
    """The data of every process, in the order of their numbers."""
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(distributed.size())]
    dist.all_gather(lengths, torch.tensor([len(own)]))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(own)] = own
    parts = [torch.zeros_like(padded) for _ in range(distributed.size())]
    dist.all_gather(parts, padded)
    return [
        part[: int(length)].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)
    ]


def bytes_of_first(own: bytes) -> bytes:
    """The data of the first process, in all processes."""
    data = torch.zeros(0, dtype=torch.uint8)
    if distributed.is_first():
        data = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    length = torch.tensor([len(data)])
    dist.broadcast(length, 0)
    if not distributed.is_first():
        data = torch.zeros(int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return data.numpy().tobytes()


def is_lost(error: BaseException) -> bool:
    """True for the error of a collective operation: another process has ended."""
    known = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return isinstance(error, RuntimeError) and known


def group_of(device: torch.device) -> dist.ProcessGroup | None:
    """The group that reduces tensors on a device; None: the default one.

    Processes that share a GPU (--device cuda:N) use gloo: nccl refuses them.
    """
    if device.type == "cuda" and device.index != local("RANK"):
        return dist.new_group(backend="gloo", timeout=TIMEOUT)
    return None


def local(name: str) -> int:
    """LOCAL_RANK or LOCAL_WORLD_SIZE as torchrun sets it; without it, that of one machine."""
    return int(os.environ.get(f"LOCAL_{name}", os.environ[name]))


def total(values: Tensor) -> Tensor:
    """The sum over all processes, of a tensor of int64 or float64 on the CPU."""
    if distributed.size() > 1:
        dist.all_reduce(values)
    return values


def largest(values: Tensor) -> Tensor:
    """The largest of all processes, elementwise, of a tensor on the CPU."""
    if distributed.size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every tensor the values that it has in the first process.

    It is sent through contiguous memory: gloo permutes a transposed tensor in silence.
    """
    if distributed.size() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().cpu().contiguous()
        dist.broadcast(sent, 0)
        if not distributed.is_first():
            tensor.detach().copy_(sent)
