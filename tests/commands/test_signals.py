"""TERM and Ctrl-C end a command with one line, status 143 or 130, and a state that resumes."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.checkpoints import newest

ARGUMENTS = ["npo", "--epochs", "3", "--save-every", "1", "--limit", "2", "--max-new-tokens", "4"]
ARGUMENTS += ["--tasks", "eval_log_forget", "--quiet"]


def command(out, *more):
    return [sys.executable, "-m", "clear_ref.run", *ARGUMENTS, "--out", str(out), *more]


def wait_for(path, process):
    """Until the file is there, at most two minutes."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("sent, status, said", [("SIGTERM", 143, "stopped by SIGTERM")])
def test_a_stopped_run_is_resumed(tmp_path, sent, status, said):
    out = tmp_path / "run"
    process = subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    wait_for(out / "checkpoint" / "state-npo-000001.json", process)
    process.send_signal(getattr(signal, sent))
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    lines = [line for line in err.splitlines() if line]
    assert lines[-1].startswith(f"clear_ref: {said}; --resume --out DIR continues")
    assert not any("Traceback" in line for line in lines)
    state = newest(out / "checkpoint")
    assert len((out / "trace.jsonl").read_text().splitlines()) == state["step"] < state["n_steps"]
    assert not (out / "metrics.json").exists() and not (out / ".lock").exists()
    done = subprocess.run(
        command(out, "--resume"), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (out / "trace.jsonl").read_text().splitlines()]
    assert steps == list(range(1, state["n_steps"] + 1))


@pytest.mark.slow
def test_ctrl_c_before_the_training_is_one_line_too(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    wait_for(out / ".lock", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "clear_ref: interrupted; --resume" in err
    assert "Traceback" not in err and not (out / ".lock").exists()


@pytest.mark.slow
def test_a_negative_number_of_steps_is_refused(tmp_path):
    done = subprocess.run(
        command(tmp_path / "run", "--save-every", "-1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--save-every is '-1'; expected after how many" in done.stderr
    assert not (tmp_path / "run").exists()
