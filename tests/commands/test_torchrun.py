"""torchrun -m clear_ref.run: one output, one directory, errors in one line, resume by any number.

Run: python -m pytest tests/commands/test_torchrun.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clear_ref.common import distributed
from clear_ref.evaluation import evaluate
from clear_ref.loop import train as training
from tests.helpers import warm_processes
from tests.helpers.checkpoints import newest
from tests.helpers.commands import call, replaced, small_copy
from tests.helpers.torchrun import COMMAND, ROOT, torchrun

SMALL = ("--recipe", "mini", "--epochs", "2", "--limit", "1", "--fresh")
LEFT_OUT = ("seconds", "stage", "guards")
TASKS = ("--tasks", "eval_log_forget,eval_log", "--max-new-tokens", "4")


@pytest.fixture(scope="module")
def world(tiny_directory, tmp_path_factory):
    """Options that name a tiny model and data with six forget records."""
    data = small_copy(tmp_path_factory.mktemp("world") / "data")
    return ("--model", tiny_directory, "--data", data, *SMALL, *TASKS)


def errors(text):
    """The errors that clear_ref wrote: without notice of --tasks, warnings, torchrun's report."""
    lines = [line for line in text.splitlines() if line.startswith("clear_ref: ")]
    notices = "the table has no column", "clear_ref: warning "
    return [line for line in lines if not any(notice in line for notice in notices)]


def wait_for(condition):
    """Until the condition is true, at most three minutes."""
    until = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def is_running(process):
    """True unless the process has ended; one that nobody waits for may stay as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def steps_of(trace):
    """{name: number} of every step of a trace, without its time."""
    steps = []
    for text in trace.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        line |= line.pop("terms")
        steps.append({name: line[name] for name in line if name not in LEFT_OUT})
    return steps


@pytest.mark.slow
def test_all_with_two_processes_is_all_with_one(world, tmp_path, capsys):
    """Two seeds of a method: one line of JSON, equal logs of the base, equal steps in fp32.

    fp32: 2^-24 for each of a few hundred summands, and four steps of AdamW, which divides small
    gradients by their size: 1e-3 of each loss.
    """
    arguments = ("all", "--methods", "npo", "--seeds", "0,1", "--json", *world)
    status, out, _ = call(capsys, *arguments, "--out", tmp_path / "one")
    done = torchrun(2, "-m", "clear_ref.run", *arguments, "--out", tmp_path / "two")
    assert status == done.returncode == 0, done.stderr
    assert errors(done.stderr) == []
    [line] = done.stdout.splitlines()
    found, expected = json.loads(line), json.loads(out)
    assert [run["method"] for run in found["runs"]] == [run["method"] for run in expected["runs"]]
    assert found["models"]["base"] == expected["models"]["base"]
    for name in ("npo-paper-both-seed0", "npo-paper-both-seed1"):
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
        pairs = zip(steps_of(one / "trace.jsonl"), steps_of(two / "trace.jsonl"), strict=True)
        for wanted, step in pairs:
            assert step == pytest.approx(wanted, rel=1e-3)
        settings = json.loads((two / "settings.json").read_text(encoding="utf-8"))
        assert settings.pop("processes") == 2
        assert "processes" not in json.loads((one / "settings.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_killed_process_ends_all_with_one_line_and_one_process_resumes(world, tmp_path, capsys):
    """The trace then has every step once; the first epoch is that of the two processes.

    The other process finds the connection closed, and torchrun sends it SIGTERM, in either order:
    its one line says what it met first. It says nothing if it ended before it could.
    """
    arguments = ("scrub", *world, "--out", tmp_path / "run")
    done = warm_processes.run("tests.helpers.killed_process", 3, *arguments, n=2)
    assert done.returncode == 1
    said = errors(done.stderr)
    assert len(said) < 2
    for line in said:
        assert "another of its processes has ended" in line or "stopped by SIGTERM" in line
        assert "--resume --out DIR continues after the last finished part" in line
    state = newest(tmp_path / "run" / "checkpoint")
    assert (state["step"], state["epoch"]) == (2, 1)
    first = steps_of(tmp_path / "run" / "trace.jsonl")
    status, _, _ = call(capsys, *arguments, "--resume")
    steps = steps_of(tmp_path / "run" / "trace.jsonl")
    assert status == 0 and steps[:2] == first[:2]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_killed_torchrun_ends_its_processes_with_a_saved_state(world, tmp_path):
    """SIGKILL of torchrun alone reaches none of them; the trace then has the steps of the state."""
    options = (*replaced(world, epochs="9999"), "--save-every", "1")
    arguments = ("npo", *options, "--out", tmp_path / "run")
    launcher = subprocess.Popen(
        [*COMMAND, "2", "-m", "clear_ref.run", *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    path = tmp_path / "run" / "trace.jsonl"
    wait_for(lambda: path.exists() or launcher.poll() is not None)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    launcher.kill()
    assert launcher.wait() == -signal.SIGKILL and len(children) == 2
    wait_for(lambda: not any(is_running(child) for child in children))
    steps = [line["step"] for line in steps_of(path)]
    assert not (tmp_path / "run" / ".lock").exists()
    assert (tmp_path / "run" / "checkpoint" / f"state-npo-{steps[-1]:06}.json").exists()


@pytest.mark.slow
def test_wrong_input_is_one_line_for_all_processes(world, tmp_path):
    done = warm_processes.run("clear_ref.run", "scrub", *world, "--out", ROOT, n=2)
    assert done.returncode == 1 and done.stdout == ""
    assert errors(done.stderr) == [
        f"clear_ref: --out {ROOT}: holds files but no run; choose another directory"
    ]


def test_a_command_for_one_process_says_so(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    monkeypatch.setitem(os.environ, "RANK", "0")
    status, out, error = call(capsys, "doctor")
    assert (status, out) == (2, "")
    assert error == (
        "clear_ref: doctor runs in one process; start it without torchrun, which is for METHOD, "
        "all, finetune, evaluate and visual\n"
    )


def test_the_other_processes_print_nothing(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    monkeypatch.setitem(os.environ, "RANK", "1")
    assert call(capsys, "doctor") == (2, "", "")


def test_without_torchrun_there_is_one_process():
    assert (distributed.size(), distributed.number(), distributed.is_first()) == (1, 0, True)
    assert distributed.gather([1]) == [[1]] and distributed.from_first(lambda: (1, 2)) == (1, 2)


@pytest.mark.slow
def test_a_stop_in_an_evaluation_between_steps_loses_nothing(world, tmp_path, capsys):
    """TERM to torchrun, which passes it on, in the evaluation after step 1 of 2.

    Two groups of four are done (and four of the base before). The state after the step was saved
    before the evaluation. One process goes on: it makes step 2 and evaluates the two groups that
    are left, then four after step 2 and four at the end.
    """
    out = tmp_path / "run"
    arguments = ("npo", *replaced(world, limit="2", epochs="1"), "--eval-batch", "1")
    arguments = tuple(map(str, (*arguments, "--evaluate-every", "1", "--out", out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "tests.helpers.slow_evaluation", "3", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    kept = out / "checkpoint" / "evaluation" / "step 1"
    deadline = time.monotonic() + 300
    while len(list(kept.glob("*.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0 and not (out / ".lock").exists()
    [line] = errors(stderr)
    assert line.startswith("clear_ref: stopped by SIGTERM; --resume --out DIR continues")
    assert newest(out / "checkpoint")["step"] == 1
    groups, steps = [], []
    with pytest.MonkeyPatch.context() as patch:
        for module, name, calls in (
            (evaluate, "group_logs", groups),
            (training, "step_loss", steps),
        ):
            original = getattr(module, name)
            patch.setattr(
                module,
                name,
                lambda *these, calls=calls, original=original: calls.append(1) or original(*these),
            )
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the groups are computed in this process
        status = call(capsys, *arguments, "--resume")[0]
        torch.set_num_threads(before)
    assert status == 0 and (len(steps), len(groups)) == (1, 2 + 4 + 4)
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == [0, 1, 2]
