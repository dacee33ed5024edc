"""Work items in forked processes: results, threads, errors."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.processes import map_in_processes


@pytest.mark.slow
def test_the_results_are_the_same_for_any_number_of_processes():
    results = [
        map_in_processes(lambda item: [item, item / 7, f"ü{item}"], list(range(7)), n)
        for n in (1, 2, 3, 20)
    ]
    assert all(other == results[0] for other in results) and results[0][3] == [3, 3 / 7, "ü3"]
    assert map_in_processes(lambda item: item, [], 4) == []


def test_the_work_really_runs_in_other_processes_with_one_thread_each():
    torch.set_num_threads(2)
    first, second = map_in_processes(lambda item: [os.getpid(), torch.get_num_threads()], [0, 1], 2)
    assert first[0] == os.getpid() != second[0]
    assert first[1] == second[1] == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("n", [1, 2])
def test_a_single_item_has_one_thread_too(n):
    """The last bits of a matrix product can depend on the number of threads.

    So the items that a resumed evaluation still has to compute get the same bits as before.
    """
    torch.set_num_threads(2)
    assert map_in_processes(lambda item: torch.get_num_threads(), ["item"], n) == [1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_reaches_the_caller_from_any_process(bad):
    def compute(item):
        if item == bad:
            raise UserError(f"item {item} is wrong")
        return item

    with pytest.raises(UserError, match=f"item {bad} is wrong"):
        map_in_processes(compute, [0, 1], 2)


def test_a_run_failure_in_a_child_process_is_a_run_failure_here():
    def compute(item):
        if item == 1:
            raise RunFailed("the loss is not finite")
        return item

    with pytest.raises(RunFailed, match="the loss is not finite"):
        map_in_processes(compute, [0, 1], 2)


def test_a_process_that_dies_fails_the_run():
    here = os.getpid()
    with pytest.raises(RunFailed, match="a child process ended with status"):
        map_in_processes(lambda item: item if os.getpid() == here else os._exit(3), [0, 1], 2)


PARENT = """
import os, sys, time
from pathlib import Path
from clear_ref.common.processes import map_in_processes
def compute(item):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60)
map_in_processes(compute, [0, 1, 2], 3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_when_their_parent_was_killed(tmp_path, sent):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 3)
    parent.send_signal(sent)
    parent.wait()
    children = [int(path.name) for path in tmp_path.iterdir() if int(path.name) != parent.pid]
    assert len(children) == 2
    wait_until(lambda: not any(runs(child) for child in children))


def wait_until(condition):
    """Until the condition holds, at most 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(process):
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
