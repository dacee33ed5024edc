"""The processes of one run that torchrun started: which one this is, and what all of them agree on.

Without torchrun there is one process, and every function here does nothing or returns what it was
given. Values travel as JSON or as tensors; nothing is pickled.

Only the first process writes files and prints. The others compute the same decisions from the same
values: what is read from a run directory is read by the first process and sent to all.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import UserError
from .transfer import attempt, result_of

Result = TypeVar("Result")
# How long a process waits for another one. An ended process is noticed at once; this is for one
# that hangs. The first process may write tens of gigabytes meanwhile.
TIMEOUT = timedelta(hours=6)
_FAILURES = "clear_ref/failures"
_store: dist.Store | None = None
_error_output: TextIO | None = None


def launched() -> int:
    """How many processes torchrun started for this run; 1 without torchrun."""
    number = os.environ.get("WORLD_SIZE", "1")
    return int(number) if "RANK" in os.environ and number.isdecimal() else 1


def size() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """True for the process that writes and prints: the first one, or the only one."""
    return number() == 0


def start() -> None:
    """Join the processes that torchrun started; nothing without torchrun, or a second time."""
    global _store
    if launched() == 1 or size() > 1:
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _store, rank, world = next(iter(dist.rendezvous("env://")))
    dist.init_process_group(backend, store=_store, rank=rank, world_size=world, timeout=TIMEOUT)


def end() -> None:
    """Leave the other processes, after all of them have come here."""
    global _store
    if size() > 1:
        gather(None)
        dist.destroy_process_group()
        _store = None


def local_device(name: str) -> str:
    """The device of this process: for cuda, the GPU with its number on this machine.

    raises  UserError if torchrun started more processes on this machine than it has GPUs
    """
    if size() == 1 or name != "cuda" or not torch.cuda.is_available():
        return name
    of_machine, n_devices = _local("WORLD_SIZE"), torch.cuda.device_count()
    if of_machine > n_devices:
        raise UserError(
            f"device is 'cuda': {of_machine} processes and {n_devices} GPUs on this machine; "
            f"expected --nproc-per-node {n_devices} or fewer, or --device cuda:N, which all share"
        )
    index = _local("RANK")
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def _local(name: str) -> int:
    """LOCAL_RANK or LOCAL_WORLD_SIZE as torchrun sets it; without it, that of one machine."""
    return int(os.environ.get(f"LOCAL_{name}", os.environ[name]))


def group_of(device: torch.device) -> dist.ProcessGroup | None:
    """The group that reduces tensors on a device; None: the default one.

    Processes that share a GPU (--device cuda:N) use gloo: nccl refuses them.
    """
    if device.type == "cuda" and device.index != _local("RANK"):
        return dist.new_group(backend="gloo", timeout=TIMEOUT)
    return None


@contextmanager
def only_first_prints() -> Iterator[None]:
    """Inside the block the other processes print nothing. It is entered before `start`."""
    if launched() == 1 or os.environ["RANK"] == "0":
        yield
        return
    global _error_output
    outputs = sys.stdout, sys.stderr
    _error_output = sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = outputs
            _error_output = None


def print_error(line: str) -> None:
    """Print the error that ends the run on stderr, in the process that comes here first."""
    if _is_first_to_fail():
        print(line, file=_error_output or sys.stderr, flush=True)


def _is_first_to_fail() -> bool:
    """True if no other process has called this."""
    if _store is None:
        return launched() == 1 or os.environ["RANK"] == "0"
    try:
        return _store.add(_FAILURES, 1) == 1
    except RuntimeError:  # torchrun has ended already
        return is_first()


def is_lost(error: BaseException) -> bool:
    """True for the error of a collective operation: another process has ended."""
    known = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return size() > 1 and isinstance(error, RuntimeError) and known


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of their numbers; it must be one for JSON."""
    if size() == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode("utf-8")), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size())]
    dist.all_gather(lengths, torch.tensor([len(data)]))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(data)] = data
    parts = [torch.zeros_like(padded) for _ in range(size())]
    dist.all_gather(parts, padded)
    return [
        json.loads(part[: int(length)].numpy().tobytes())
        for part, length in zip(parts, lengths, strict=True)
    ]


def from_first(compute: Callable[[], Result]) -> Result:
    """compute(), called in the first process alone, in all processes.

    compute  returns a value that JSON can hold
    raises   UserError or RunFailed as compute raised it, in all processes
    """
    if size() == 1:
        return compute()
    data = torch.zeros(0, dtype=torch.uint8)
    if is_first():
        text = json.dumps(attempt(compute)).encode("utf-8")
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    length = torch.tensor([len(data)])
    dist.broadcast(length, 0)
    if not is_first():
        data = torch.zeros(int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return result_of(json.loads(data.numpy().tobytes()))


def shared_out(compute: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """[compute(item) for item in items]: item i is computed by process i % size, all get all.

    raises  UserError or RunFailed as compute raised it, in all processes
    """
    own = attempt(lambda: [compute(item) for item in items[number() :: size()]])
    results: list[Any] = [None] * len(items)
    for process, answer in enumerate(gather(own)):
        results[process :: size()] = result_of(answer)
    return results


def check_equal(value: object, what: str) -> None:
    """UserError unless all processes have the same value.

    what  what it is, and what to do where it differs, for the message
    """
    values = gather(value)
    for process, other in enumerate(values):
        if other != values[0]:
            raise UserError(f"process {process} of {len(values)} has other {what}")


def total(values: Tensor) -> Tensor:
    """The sum over all processes, of a tensor of int64 or float64 on the CPU."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def largest(values: Tensor) -> Tensor:
    """The largest of all processes, elementwise, of a tensor on the CPU."""
    if size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every tensor the values that it has in the first process.

    It is sent through contiguous memory: gloo permutes a transposed tensor in silence.
    """
    if size() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().cpu().contiguous()
        dist.broadcast(sent, 0)
        if not is_first():
            tensor.detach().copy_(sent)
