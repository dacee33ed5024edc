"""--shard on under torchrun: a method's run is that of one process, and what needs whole weights
refuses it in one line.

Run: python -m pytest tests/commands/test_shard.py
"""

import json

import pytest

from clear_ref.model.weights import read_tensors
from tests.helpers import warm_processes
from tests.helpers.commands import call, small_copy

SMALL = ("--recipe", "mini", "--epochs", "1", "--limit", "1", "--fresh")
TASKS = ("--tasks", "eval_log_forget,eval_log", "--max-new-tokens", "4")
pytestmark = pytest.mark.slow


def losses(directory):
    """The loss of every step of a run."""
    lines = (directory / "trace.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_run_with_shared_out_weights_is_that_of_one_process(tiny_directory, tmp_path, capsys):
    """Equal losses in fp32, 2^-24 for each of some hundred summands after two steps of AdamW: 1e-3;
    the adapter's file has the same tensors, whole; the base, which is not trained, equal scores.
    """
    data = small_copy(tmp_path / "data")
    arguments = ("scrub", "--model", tiny_directory, "--data", data, *SMALL, *TASKS)
    assert call(capsys, *arguments, "--out", tmp_path / "one")[0] == 0
    sharded = (*arguments, "--shard", "on", "--out", tmp_path / "two")
    done = warm_processes.run("clear_ref.run", *sharded, n=2)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    shapes = [
        {name: each.shape for name, each in read_tensors(run / "adapter_model.safetensors").items()}
        for run in (tmp_path / "one" / "adapter", tmp_path / "two" / "adapter")
    ]
    assert shapes[0] == shapes[1] != {}
    base = [
        json.loads((tmp_path / run / "metrics.json").read_text(encoding="utf-8"))["models"]["base"]
        for run in ("one", "two")
    ]
    assert base[0] == base[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (("finetune", "--lora-rank", "2"), "leave one of --shard and --lora-rank out"),
        (("evaluate", "MODEL", "--robustness"), "--robustness rounds and trains whole weights"),
    ],
)
def test_what_needs_whole_weights_refuses(words, message, tiny_directory, tmp_path):
    model = str(tiny_directory)
    given = [model if word == "MODEL" else word for word in words]
    if words[0] == "finetune":
        given += ["--model", model]
    out = tmp_path / "run"
    given += ["--data", "mini", "--shard", "on", "--out", out]
    done = warm_processes.run("clear_ref.run", *given, n=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("clear_ref: --shard on")]
    assert done.returncode == 1 and len(lines) == 1 and message in lines[0]
    assert not out.exists()
