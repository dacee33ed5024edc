"""The processes of one run that torchrun started: which one this is, and what all of them agree on.

Without torchrun there is one process, and every function here does nothing or returns what it was
given. Values travel as JSON or as tensors; nothing is pickled.

Only the first process writes files and prints. The others compute the same decisions from the same
values: what is read from a run directory is read by the first process and sent to all.

torch is imported only where there are several processes (collectives.py).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from .errors import UserError
from .transfer import attempt, result_of

if TYPE_CHECKING:
    import torch.distributed as dist

Result = TypeVar("Result")
_FAILURES = "clear_ref/failures"
_store: dist.Store | None = None
_error_output: TextIO | None = None


def launched() -> int:
    """How many processes torchrun started for this run; 1 without torchrun."""
    number = os.environ.get("WORLD_SIZE", "1")
    return int(number) if "RANK" in os.environ and number.isdecimal() else 1


def size() -> int:
    """The number of processes of this run."""
    group: Any = sys.modules.get("torch.distributed")  # not imported: no process has joined
    return (
        group.get_world_size() if group and group.is_available() and group.is_initialized() else 1
    )


def number() -> int:
    """The number of this process, from 0."""
    return sys.modules["torch.distributed"].get_rank() if size() > 1 else 0


def _collectives() -> Any:
    """The module collectives.py, which imports torch."""
    return importlib.import_module(".collectives", __package__)


def is_first() -> bool:
    """True for the process that writes and prints: the first one, or the only one."""
    return number() == 0


def start() -> None:
    """Join the processes that torchrun started; nothing without torchrun, or a second time."""
    global _store
    if launched() == 1 or size() > 1:
        return
    _store = _collectives().join()
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()


def _end_with_launcher(launcher: int) -> None:
    """Send this process SIGTERM if torchrun has ended without ending it, as after a SIGKILL.

    Otherwise the processes would train to the end, and hold the lock of the directory. With it they
    save the state after the step that runs.
    """
    while os.getppid() == launcher:
        time.sleep(1.0)
    if _store is not None:
        os.kill(os.getpid(), signal.SIGTERM)


def end() -> None:
    """Leave the other processes, after all of them have come here."""
    global _store
    if size() > 1:
        gather(None)
        _collectives().leave()
        _store = None


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
    return size() > 1 and _collectives().is_lost(error)


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of their numbers; it must be one for JSON."""
    if size() == 1:
        return [value]
    data = json.dumps(value).encode("utf-8")
    return [json.loads(each) for each in _collectives().gather_bytes(data)]


def from_first(compute: Callable[[], Result]) -> Result:
    """compute(), called in the first process alone, in all processes.

    compute  returns a value that JSON can hold
    raises   UserError or RunFailed as compute raised it, in all processes
    """
    if size() == 1:
        return compute()
    own = json.dumps(attempt(compute)).encode("utf-8") if is_first() else b""
    return result_of(json.loads(_collectives().bytes_of_first(own)))


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
