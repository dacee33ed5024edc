"""Evaluations between steps see the model that the run would end with, and change nothing of it."""

import dataclasses
import json
import random
import re

import numpy as np
import pytest
import torch

from clear_ref import load
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.curve import Curve, check_every, due_steps
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import MiniUnlearn
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import Stage, trainable
from clear_ref.loop.train import Training
from clear_ref.loop.unlearn import Unlearning
from clear_ref.methods import make_options
from clear_ref.mini.directories import WORLD
from clear_ref.model import lora
from tests.helpers.stopped_training import Stopped, stopped_after

# 6 forget records in steps of 3: two steps an epoch
RECIPE = MiniUnlearn(epochs=2, lr=1e-3, batch_size=3, accumulate=1)


@pytest.fixture(scope="module")
def rows():
    """Six forget records, pictures and text, and twelve to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def weights(vlm):
    """Every weight of the model with its adapters added, as a file of the merged model has it."""
    names = [name for name, _ in vlm.model.named_parameters() if "adapter" not in name]
    return {name: lora.merged_weight(vlm.model, name).detach().clone() for name in names}


def number_of(vlm):
    """A number that another model does not have."""
    return sum(float(tensor.detach().double().square().sum()) for tensor in trainable(vlm).values())


class Seen:
    """Measures that keep what they saw."""

    def __init__(self):
        self.weights = {}
        self.threads = []

    def __call__(self, vlm, step):
        self.weights[step] = weights(vlm)
        self.threads.append(torch.get_num_threads())
        return {"number": number_of(vlm)}


def run(directory, method, rank, rows, out, curve=None, resume=False):
    vlm = load(directory)
    recipe = dataclasses.replace(RECIPE, lora_rank=rank)
    prepare(vlm, recipe, 0)
    phrases, options = read_phrases(WORLD), make_options(method, {})
    settings = Unlearning(
        method, "paper", options, recipe, rows, phrases, 0, out=out, resume=resume
    )
    unlearning.unlearn(vlm, settings, curve)
    return vlm


def trace(out):
    """The lines of trace.jsonl without seconds."""
    lines = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Rows:
    """Stands for a plan of five records."""

    def __len__(self):
        return 5


@pytest.mark.parametrize(
    "every, phases, expected",
    [
        ("epoch", (), {3, 6, 9}),
        ("2", (), {2, 4, 6, 8, 9}),
        ("100", (), {9}),
        # one phase in the first epoch only: 6, 3 and 3 steps
        ("epoch", ("first", "all"), {6, 9, 12}),
        ("5", ("first", "all"), {5, 10, 12}),
    ],
)
def test_the_steps_of_evaluations_by_hand(every, phases, expected):
    """Five records in steps of two, three epochs."""
    epochs = {"first": 1, "all": None}
    parts = tuple(Stage(name, {}, None, epochs=epochs[name]) for name in phases)
    recipe = dataclasses.replace(RECIPE, epochs=3, batch_size=2)
    one = Training(Rows(), Stage("s", {}, None, phases=parts), recipe, 0)
    assert due_steps(one, every) == expected and one.n_steps() == max(expected)


@pytest.mark.parametrize("every", ["0", "-1", "1.5", "epochs", "²"])
def test_other_intervals_are_refused(every):
    with pytest.raises(UserError, match="--evaluate-every is .*; expected epoch, or after how"):
        check_every(every, "--evaluate-every")


@pytest.mark.slow
@pytest.mark.parametrize("method, rank", [("scrub", 2), ("sku", 0), ("dpo", 2)])
def test_training_with_evaluations_is_the_training_without_byte_for_byte(
    method, rank, tiny_directory, rows, tmp_path
):
    """Weights, trace, random states and threads; the last evaluation saw the end of the run.

    That is sku's negated model too, and dpo's second stage alone.
    """
    plain = run(tiny_directory, method, rank, rows, tmp_path / "plain")
    seen = Seen()
    curve = Curve(tmp_path / "curve", "1", seen)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    watched = run(tiny_directory, method, rank, rows, tmp_path / "curve", curve)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
    assert same(trainable(plain), trainable(watched)) and watched.model.training is False
    assert trace(tmp_path / "plain") == trace(tmp_path / "curve")
    assert set(seen.threads) == {torch.get_num_threads()} and torch.get_num_threads() == 2
    lines = [json.loads(line) for line in (tmp_path / "curve/curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4] == list(seen.weights)
    assert {line["stage"] for line in lines} == {method}
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1]
    assert same(seen.weights[4], weights(watched))
    assert same(seen.weights[0], load(tiny_directory).weights())
    assert not same(seen.weights[4], seen.weights[2])


@pytest.mark.slow
@pytest.mark.parametrize("method, rank", [("sku", 2), ("sku", 0)])
def test_the_run_ends_with_the_weights_of_the_best_evaluation(
    method, rank, tiny_directory, rows, tmp_path
):
    """The second one of four; those of the others are not left behind."""
    seen = Seen()
    out = tmp_path / "r"
    curve = Curve(out, "1", seen, lambda lines: min(1, len(lines) - 1))
    vlm = run(tiny_directory, method, rank, rows, out, curve)
    assert curve.best_line()["step"] == 2 and same(weights(vlm), seen.weights[2])
    kept = sorted(path.name for path in (out / "checkpoint").glob("best-*"))
    assert kept == ["best-000002.json", "best-000002.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "old, new, said",
    [
        (r'"number": [^,}]*', '"number": NaN', ":2: holds a number that is not finite"),
        (r'"number": [^,}]*', '"number": {"a": [1e999]}', ":2: holds a number that is not finite"),
        (r'"number"', '"numbers"', ":2: number is in only one of this line and the first one"),
        (r".*\n", "", ": has no line of step 1; expected one of each evaluation up to step 3"),
    ],
)
def test_a_damaged_line_is_named(old, new, said, tiny_directory, rows, tmp_path):
    """The line of step 1 of a run that was stopped."""
    with stopped_after(3), pytest.raises(Stopped):
        run(tiny_directory, "scrub", 2, rows, tmp_path, Curve(tmp_path, "1", Seen()))
    path = tmp_path / "curve.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = re.sub(old, new, lines[1], count=1)
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=re.escape(f"{path}{said}") + ".*: start a new run"):
        run(tiny_directory, "scrub", 2, rows, tmp_path, Curve(tmp_path, "1", Seen()), True)
    assert path.read_text() == "".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("method, rank, stop", [("scrub", 2, 3), ("dpo", 2, 7)])
def test_a_stopped_run_ends_with_the_same_curve_and_the_same_weights(
    method, rank, stop, tiny_directory, rows, tmp_path
):
    """Stopped inside an epoch, after an evaluation whose steps are made again; dpo has four steps
    of its reference before its own.
    """

    def best(lines):
        numbers = [line["number"] for line in lines]
        return numbers.index(min(numbers))

    straight = Curve(tmp_path / "straight", "1", Seen(), best)
    expected = run(tiny_directory, method, rank, rows, tmp_path / "straight", straight)
    out = tmp_path / "stopped"
    with stopped_after(stop), pytest.raises(Stopped):
        run(tiny_directory, method, rank, rows, out, Curve(out, "1", Seen(), best))
    n_lines = len((out / "curve.jsonl").read_text().splitlines())
    assert n_lines == 4
    resumed = run(tiny_directory, method, rank, rows, out, Curve(out, "1", Seen(), best), True)
    files = [tmp_path / name / "curve.jsonl" for name in ("straight", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert same(trainable(expected), trainable(resumed))
    # Once more, with nothing left to train: the kept weights are there.
    again = run(tiny_directory, method, rank, rows, out, Curve(out, "1", Seen(), best), True)
    assert same(trainable(expected), trainable(again))
