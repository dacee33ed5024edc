"""One process in a run directory: a second one is refused by name, a kill leaves no lock."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from clear_ref.commands import many_runs
from clear_ref.common.atomic import UNFINISHED
from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import alone_in_its_directory, choose, holds_files
from clear_ref.common.run_lock import LOCK, locked

HOLDER = """
import sys, time
from pathlib import Path
from clear_ref.common.atomic import atomic_file
from clear_ref.common.run_lock import locked
with locked(Path(sys.argv[1])), atomic_file(Path(sys.argv[1]) / "settings.json"):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / run and is in the middle of a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_is_named(tmp_path, holder):
    run = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{run}: process {holder.pid} on .*, 20.* runs there"):
            with locked(run):
                pass
    assert holder.poll() is None and (run / LOCK).exists()


@pytest.mark.slow
def test_a_kill_leaves_no_lock_and_a_directory_that_can_be_used(tmp_path, holder):
    run = tmp_path / "run"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock, unfinished = sorted(each.name for each in run.iterdir())
    assert lock == LOCK and unfinished.endswith(UNFINISHED)
    assert not holds_files(run)
    assert choose(str(run), "name", {}, resume=False) == run
    with locked(run):
        assert [each.name for each in run.iterdir()] == [LOCK]
        assert re.match(rf"process {os.getpid()} on ", (run / LOCK).read_text())
    assert not list(run.iterdir())


def test_the_lock_ends_with_an_error_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass


def test_a_run_writes_its_settings_first_and_is_alone(tmp_path):
    class Run:
        out = tmp_path / "run"
        record = {"command": "unlearn"}

    @alone_in_its_directory
    def do(run, number, *, text):
        assert sorted(each.name for each in run.out.iterdir()) == [LOCK, "settings.json"]
        with pytest.raises(UserError, match=f"process {os.getpid()}"), locked(run.out):
            pass
        return number, text

    assert do(Run(), 1, text="a") == (1, "a")
    assert [each.name for each in Run.out.iterdir()] == ["settings.json"]


def test_a_stop_removes_what_the_runs_leave_that_it_ends(tmp_path, monkeypatch):
    """Of two runs of `all` one is in a fork, which is killed: its lock and its file go too."""
    inputs = SimpleNamespace(device=torch.device("cpu"))
    runs = [SimpleNamespace(out=tmp_path / name, inputs=inputs, settings=None) for name in "ab"]
    unfinished = tmp_path / "b" / f".x{UNFINISHED}"

    def unlearn(run, logs, shared):
        with locked(run.out):
            if run.out.name == "b":
                unfinished.touch()
                time.sleep(60)
            while not unfinished.exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(many_runs, "unlearn", unlearn)
    monkeypatch.setattr(many_runs, "kept_results", lambda *given, **named: None)
    monkeypatch.setattr(many_runs, "process_count", lambda device: 2)
    with pytest.raises(KeyboardInterrupt):
        many_runs.run_in_processes("runs", runs, {}, print)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
