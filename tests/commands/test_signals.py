"""TERM and Ctrl-C end a command with one line, status 143 or 130, and a state that resumes."""

import json
import signal
import subprocess
import sys
import time

import pytest

from clear_ref import run
from tests.helpers import warm_processes
from tests.helpers.checkpoints import newest
from tests.helpers.commands import small_copy

ARGUMENTS = ["npo", "--epochs", "20", "--save-every", "1", "--limit", "2", "--max-new-tokens", "4"]
ARGUMENTS += ["--tasks", "eval_log_forget", "--quiet"]


@pytest.fixture(scope="module")
def world(tiny_directory, tmp_path_factory):
    """Options that name a tiny model and data with six forget records."""
    data = small_copy(tmp_path_factory.mktemp("world") / "data")
    return ("--model", str(tiny_directory), "--data", str(data), "--recipe", "mini")


def wait_for(path, process):
    """Until the file is there, at most two minutes."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("sent, status, said", [("SIGTERM", 143, "stopped by SIGTERM")])
def test_a_stopped_run_is_resumed(world, tmp_path, sent, status, said):
    """Each step of the first process waits, so that it has not ended when the signal comes."""
    out = tmp_path / "run"
    arguments = (*ARGUMENTS, *world, "--out", out)
    process = warm_processes.start("tests.helpers.slow_training", 0.1, *arguments, cwd=tmp_path)
    wait_for(out / "checkpoint" / "state-npo-000001.json", process)
    process.send_signal(getattr(signal, sent))
    process.wait(60)
    assert process.returncode == status
    lines = [line for line in process.stderr.splitlines() if line]
    assert lines[-1].startswith(f"clear_ref: {said}; --resume --out DIR continues")
    assert not any("Traceback" in line for line in lines)
    state = newest(out / "checkpoint")
    assert len((out / "trace.jsonl").read_text().splitlines()) == state["step"] < state["n_steps"]
    assert not (out / "metrics.json").exists() and not (out / ".lock").exists()
    done = warm_processes.run("clear_ref.run", *arguments, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (out / "trace.jsonl").read_text().splitlines()]
    assert steps == list(range(1, state["n_steps"] + 1))


@pytest.mark.slow
def test_ctrl_c_before_the_training_is_one_line_too(world, tmp_path):
    """A new interpreter, as the user starts it."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "clear_ref.run", *ARGUMENTS, *world, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    wait_for(out / ".lock", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "clear_ref: interrupted; --resume" in err
    assert "Traceback" not in err and not (out / ".lock").exists()


def test_a_negative_number_of_steps_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert run.main(["npo", "--save-every", "-1", "--out", str(out)]) == 2
    assert "--save-every is '-1'; expected after how many" in capsys.readouterr().err
    assert not out.exists()
