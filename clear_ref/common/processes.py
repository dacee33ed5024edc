"""Work items in several processes, one thread in each.

With small models, several processes are faster than several threads in one process. The results
do not depend on the number of processes or threads: every item is computed with one thread,
because the number of threads changes the last bits of matrix products. Results are sent as JSON:
from a fork to its parent through a pipe, and between processes that torchrun started through
torch.distributed. A fork ends when its parent has ended, by a kill too. Under torchrun no process
is forked.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from . import distributed
from .errors import RunFailed
from .transfer import attempt, result_of

Item = TypeVar("Item")
Result = TypeVar("Result")
# Under torchrun: items of each process between two exchanges of results.
ITEMS_PER_EXCHANGE = 8


def process_count(device: torch.device, together: bool = False) -> int:
    """Number of processes for work on a device.

    Under torchrun: as many as it started. Otherwise on the CPU torch's thread count, else 1.
    together  all processes of torchrun are needed for each item (a model that is shared out): 1
    """
    if distributed.size() > 1:
        return 1 if together else distributed.size()
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def one_thread() -> Iterator[None]:
    """While it is entered torch computes with one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def map_in_processes(
    compute: Callable[[Item], Result],
    items: Sequence[Item],
    n_processes: int,
    keep: Callable[[Item, Result], object] | None = None,
) -> list[Result]:
    """[compute(item) for item in items], computed by n_processes processes.

    Item i goes to process i % n_processes. Without torchrun, process 0 is this one, the others are
    forks of it; under torchrun all its processes call this with the same items, and all get all
    results; with n_processes = 1 each of them computes all items, at the same time. Every process
    computes with one thread, also if there is only one item or one process.

    compute  must return a value that JSON can hold; other changes that a fork makes in memory
             are lost
    keep     called with each item and its result as soon as it is known, to write it to disk: in
             the process that computed it, or under torchrun in the first one
    raises   UserError or RunFailed as compute raised it, in any process; RunFailed if a fork ends
             without an answer
    """

    def computed(item: Item) -> Result:
        result = compute(item)
        if keep is not None and distributed.is_first():
            keep(item, result)
        return result

    with one_thread():
        if distributed.size() > 1 and n_processes > 1:
            return _under_torchrun(compute, items, keep)
        return _in_forks(computed, items, max(1, min(n_processes, len(items))))


def _under_torchrun(
    compute: Callable[[Item], Result],
    items: Sequence[Item],
    keep: Callable[[Item, Result], object] | None,
) -> list[Result]:
    """map_in_processes among the processes that torchrun started."""
    results: list[Result] = []
    at_once = distributed.size() * ITEMS_PER_EXCHANGE
    for start in range(0, len(items), at_once):
        some = items[start : start + at_once]
        found = distributed.shared_out(compute, some)
        if keep is not None and distributed.is_first():
            for item, result in zip(some, found, strict=True):
                keep(item, result)
        results += found
    return results


def _in_forks(
    compute: Callable[[Item], Result], items: Sequence[Item], n_processes: int
) -> list[Result]:
    """map_in_processes among this process and forks of it."""
    children: list[tuple[int, int]] = []  # process id and pipe of each fork still running
    results: list[Any] = [None] * len(items)
    life, own_end = os.pipe()  # its writing end is open in this process alone
    try:
        for number in range(1, n_processes):
            children.append(_fork(compute, items[number::n_processes], life, own_end))
        results[0::n_processes] = [compute(item) for item in items[0::n_processes]]
        for number in range(1, n_processes):
            results[number::n_processes] = _results_of(*children.pop(0))
    finally:
        os.close(life)
        os.close(own_end)
        for process, pipe in children:  # only after an error
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(pipe)
    return results


def _fork(
    compute: Callable[[Item], object], items: Sequence[Item], life: int, parents_end: int
) -> tuple[int, int]:
    """Fork a child process that computes the items; returns its process id and its pipe.

    life  reading end of a pipe whose writing end, parents_end, only the parent keeps open
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    status = 1
    try:
        os.close(reader)
        os.close(parents_end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent ends
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, args=(life,), daemon=True).start()
        answer = attempt(lambda: [compute(item) for item in items])
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            json.dump(answer, pipe)
        status = 0
    finally:
        os._exit(status)  # exit without the cleanup handlers that the parent will run itself


def _end_with_parent(life: int) -> None:
    """End this process when the parent has ended: the pipe then has no writer left."""
    os.read(life, 1)
    os._exit(1)


def _results_of(process: int, pipe: int) -> list[Any]:
    """The results of a child process; waits until it has ended."""
    with os.fdopen(pipe, encoding="utf-8", closefd=False) as stream:
        text = stream.read()
    _, status = os.waitpid(process, 0)
    os.close(pipe)
    if status:
        raise RunFailed(
            f"a child process ended with status {status}; it may have run out of memory"
        )
    return result_of(json.loads(text))
