"""--help, wrong input, explain without a batch and score do not import torch, and print the same.

They are run in a process in which importing torch fails, and compared byte by byte with what the
same command prints where torch is there. The public names are imported when they are first used.

Run: python -m pytest tests/commands/test_without_torch.py
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clear_ref
from clear_ref import losses, oracle
from clear_ref.commands.parser import COMMANDS
from clear_ref.methods.table import LOSSES
from clear_ref.run import main
from tests.helpers.made_runs import log as log_of
from tests.helpers.made_runs import write_logs

ROOT = Path(__file__).parents[2]
# Reads argument lists from stdin; prints [exit status, stdout, stderr] of each.
RUN_ALL = """
import contextlib, io, json, sys
sys.modules["torch"] = None  # importing it raises
from clear_ref.run import main
found = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
    found.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""
HELP = [[], ["scrub"], ["rmu"], *([command] for command in COMMANDS)]
WRONG = [
    [],
    ["scrb"],
    ["simnpo"],
    ["scrub", "--lrr", "3"],
    ["scrub", "--lr"],
    ["doctor", "--forget", "10"],
    ["explain", "scrub", "--seed", "1"],
    ["explain", "nothing"],
    ["score", "a directory that is not there"],
]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The argument lists: those of --help, of wrong input, of explain and score."""
    log = tmp_path_factory.mktemp("logs")
    write_logs(log, {"eval_log_forget": right_answers("eval_log_forget")})
    explained = [["explain", method] for method in LOSSES]
    return [
        ["--version"],
        *([*command, "--help"] for command in HELP),
        *WRONG,
        *explained,
        ["explain", "npo", "--semantics", "released", "--json"],
        ["explain", "--mistakes"],
        ["score", str(log)],
        ["score", str(log), "--metrics", "all", "--json"],
    ]


def right_answers(task):
    """A log of a model that generates every answer."""
    found = log_of(task, 0.6, str)
    for record, (prompt, _, answer) in found["generated_text"].items():
        found["generated_text"][record] = [prompt, answer, answer]
        found["rougeL_recall"][record] = 1.0
    return found


def with_torch(arguments, capsys):
    """[exit status, stdout, stderr] of the same command in this process."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    return [status, *capsys.readouterr()]


def without_torch(commands):
    """[exit status, stdout, stderr] of each command in a process that cannot import torch."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_commands_that_compute_nothing_print_the_same_bytes_without_torch(commands, capsys):
    found = without_torch(commands)
    assert len(found) == len(commands)
    for arguments, one in zip(commands, found, strict=True):
        assert one == with_torch(arguments, capsys), arguments
        assert one[0] == (2 if arguments in WRONG else 0), (arguments, one)


def test_a_command_that_needs_torch_fails_in_that_process():
    """So the process of the test above cannot import it."""
    [[status, printed, error]] = without_torch([["doctor", "--debug"]])
    assert status == 1 and printed == "" and "torch" in error


@pytest.mark.slow
def test_an_evaluation_does_not_import_torch_compile(tmp_path):
    """Training does: torch's optimisers import it. It takes more than a second."""
    command = ["evaluate", "mini", "--tasks", "eval_log_forget", "--limit", "1"]
    code = (
        "import sys; from clear_ref.run import main; status = main(sys.argv[1:]); "
        "print(status, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--out", "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False"


@pytest.mark.parametrize("package", [clear_ref, losses, oracle], ids=lambda one: one.__name__)
def test_public_names_are_found_and_other_names_are_not(package):
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name) is not None, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
    scope: dict[str, object] = {}
    exec(f"from {package.__name__} import *", scope)
    assert set(package.__all__) <= scope.keys()


def test_public_names_are_what_their_module_defines():
    for name, module in (
        ("VLM", "model.vlm"),
        ("load", "mini.load"),
        ("token_terms", "losses.terms"),
        ("method_loss", "methods"),
    ):
        home = importlib.import_module(f"clear_ref.{module}")
        assert getattr(clear_ref, name) is getattr(home, name)
    assert clear_ref.metrics is importlib.import_module("clear_ref.evaluation.metrics")
