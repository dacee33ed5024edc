"""A stop inside an epoch loses nothing: a signal ends the training after its step, which is saved.

The resumed run has the weights, trace and curve of the straight run, byte for byte.
"""

import dataclasses
import json
import os
import signal

import pytest
import torch

from clear_ref import load
from clear_ref.common.errors import Notice, UserError
from clear_ref.common.stopping import Stopped, after_the_step, at_once, requested, signals_stop
from clear_ref.data.prompts import read_phrases
from clear_ref.loop import saving
from clear_ref.loop import train as training
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.checkpoint import Checkpoints
from clear_ref.loop.curve import Curve
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import MiniUnlearn
from clear_ref.loop.rows import split_rows
from clear_ref.loop.saving import Saving, read_saving
from clear_ref.loop.stage import trainable
from clear_ref.loop.unlearn import Unlearning
from clear_ref.methods import make_options
from clear_ref.mini.directories import WORLD
from tests.helpers import stopped_training
from tests.helpers.checkpoints import indexes, newest

# 6 forget records in steps of 2: three steps an epoch (and each phase of the original SCRUB)
RECIPE = MiniUnlearn(epochs=2, lr=1e-3, batch_size=2, accumulate=1)
METHODS = [("npo", "paper", 2), ("scrub", "original", 2), ("dpo", "paper", 2), ("sku", "paper", 0)]


@pytest.fixture(scope="module")
def rows():
    """Six forget records, pictures and text, and twelve to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def run(directory, rows, out, method="npo", semantics="paper", rank=2, curve=None, **more):
    """The trainable tensors at the end of a run."""
    vlm = load(directory)
    recipe = dataclasses.replace(RECIPE, lora_rank=rank)
    prepare(vlm, recipe, 0)
    options = make_options(method, {}, semantics)
    settings = Unlearning(
        method, semantics, options, recipe, rows, read_phrases(WORLD), 0, out=out, **more
    )
    unlearning.unlearn(vlm, settings, curve)
    return {name: tensor.detach().clone() for name, tensor in trainable(vlm).items()}


def trace(out):
    """The lines of trace.jsonl without seconds."""
    lines = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def signal_in_step(monkeypatch):
    """A function: the n-th call of step_loss from now on sends this process a signal first."""

    def prepare_signal(n, sent=signal.SIGTERM, times=1):
        calls, original = [0], training.step_loss

        def step_loss(*arguments):
            calls[0] += 1
            if calls[0] == n:
                for _ in range(times):
                    os.kill(os.getpid(), sent)
            return original(*arguments)

        monkeypatch.setattr(training, "step_loss", step_loss)
        return monkeypatch

    return prepare_signal


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics, rank", METHODS)
@pytest.mark.parametrize("n", [2, 4])
def test_a_signal_saves_the_step_and_the_resumed_run_is_the_straight_one(
    method, semantics, rank, n, tiny_directory, rows, tmp_path, signal_in_step
):
    chosen = {"method": method, "semantics": semantics, "rank": rank}
    straight = run(tiny_directory, rows, tmp_path / "straight", **chosen)
    patch = signal_in_step(n)
    with pytest.raises(Stopped) as stop, signals_stop():
        run(tiny_directory, rows, tmp_path / "stopped", **chosen)
    assert stop.value.number == signal.SIGTERM
    assert newest(tmp_path / "stopped" / "checkpoint")["step"] == n
    assert len(trace(tmp_path / "stopped")) == n
    patch.undo()
    resumed = run(tiny_directory, rows, tmp_path / "stopped", **chosen, resume=True)
    assert same(straight, resumed)
    assert trace(tmp_path / "straight") == trace(tmp_path / "stopped")


class Measured:
    """A measure that may get a signal at a step, and notes at which steps it was called."""

    def __init__(self, stops_at=None):
        self.stops_at = stops_at
        self.steps = []

    def __call__(self, vlm, step):
        if step == self.stops_at:
            os.kill(os.getpid(), signal.SIGINT)
        self.steps.append(step)
        return {"number": sum(float(t.detach().double().sum()) for t in trainable(vlm).values())}


@pytest.mark.slow
def test_a_signal_in_an_evaluation_saves_its_step_and_the_evaluation_is_made_on_resuming(
    tiny_directory, rows, tmp_path
):
    def curve(out, measure):
        return Curve(tmp_path / out, "2", measure, best=lambda lines: len(lines) - 1)

    straight = run(tiny_directory, rows, tmp_path / "straight", curve=curve("straight", Measured()))
    with pytest.raises(Stopped), signals_stop():
        run(tiny_directory, rows, tmp_path / "stopped", curve=curve("stopped", Measured(4)))
    assert newest(tmp_path / "stopped" / "checkpoint")["step"] == 4
    again = Measured()
    resumed = run(
        tiny_directory, rows, tmp_path / "stopped", curve=curve("stopped", again), resume=True
    )
    assert again.steps == [4, 6] and same(straight, resumed)
    written = [(tmp_path / out / "curve.jsonl").read_bytes() for out in ("straight", "stopped")]
    assert written[0] == written[1]
    once_more = Measured()  # the run is at its end, and its last evaluation is there
    run(tiny_directory, rows, tmp_path / "stopped", curve=curve("stopped", once_more), resume=True)
    assert once_more.steps == []


@pytest.mark.slow
@pytest.mark.parametrize("save_every, made_again", [(0, 2), (1, 0), (3, 2), (4, 1)])
def test_a_kill_loses_the_steps_since_the_last_checkpoint(
    save_every, made_again, tiny_directory, rows, tmp_path, monkeypatch
):
    """Five of six steps are made; epochs end after the third and the sixth."""
    with pytest.raises(stopped_training.Stopped), stopped_training.stopped_after(5):
        run(tiny_directory, rows, tmp_path / "killed", saving=Saving(steps=save_every))
    steps, original = [], training.step_loss
    monkeypatch.setattr(
        training, "step_loss", lambda *arguments: steps.append(1) or original(*arguments)
    )
    resumed = run(
        tiny_directory, rows, tmp_path / "killed", saving=Saving(steps=save_every), resume=True
    )
    assert len(steps) == 1 + made_again
    straight = run(tiny_directory, rows, tmp_path / "straight")
    assert same(straight, resumed)
    assert trace(tmp_path / "straight") == trace(tmp_path / "killed")


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tiny_directory, rows, tmp_path, monkeypatch
):
    """Checkpoints after steps 3 and 4 of six; the newer one is cut. The bytes are the same."""
    chosen = Saving(steps=1, keep=2)
    with pytest.raises(stopped_training.Stopped), stopped_training.stopped_after(4):
        run(tiny_directory, rows, tmp_path / "killed", saving=chosen)
    three, four = indexes(tmp_path / "killed" / "checkpoint")
    four.write_bytes(four.read_bytes()[:-9])
    with pytest.warns(Notice, match="000004.json: not JSON.*the checkpoint of step 3 is used"):
        resumed = run(tiny_directory, rows, tmp_path / "killed", saving=chosen, resume=True)
    straight = run(tiny_directory, rows, tmp_path / "straight")
    assert same(straight, resumed)
    assert trace(tmp_path / "straight") == trace(tmp_path / "killed")


@pytest.mark.slow
def test_minutes_are_counted_from_the_last_save(tiny_directory, rows, tmp_path, monkeypatch):
    """Each step takes 40 s by this clock; a save is due after 60 s, and epochs end after 3 and 6.

    So the state is saved after steps 2, 3, 5 and 6.
    """
    now, original, saved = [0.0], training.step_loss, []

    def step_loss(*arguments):
        now[0] += 40
        return original(*arguments)

    def save(checkpoints, step, *more):
        saved.append(step)

    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(training, "step_loss", step_loss)
    monkeypatch.setattr(Checkpoints, "save", save)
    run(tiny_directory, rows, tmp_path / "run", saving=Saving(minutes=1.0))
    assert saved == [2, 3, 5, 6]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("0", Saving()),
        ("50", Saving(steps=50)),
        ("10m", Saving(minutes=10.0)),
        ("0.5m", Saving(minutes=0.5)),
    ],
)
def test_steps_and_minutes_are_read(text, expected):
    assert read_saving(text, 1) == expected


@pytest.mark.parametrize(
    "text",
    ["-1", "", "m", "0m", "-3m", "1_0m", "nanm", "infm", "10 minutes", "1e3", "²", "9" * 400 + "m"],
)
def test_other_values_of_save_every_are_refused(text):
    with pytest.raises(UserError, match="^--save-every is .*; expected after how many steps"):
        read_saving(text, 1)


@pytest.mark.parametrize("keep", [0, -1, 1001])
def test_a_number_of_checkpoints_is_at_least_one(keep):
    with pytest.raises(UserError, match=f"--keep-checkpoints is {keep}; expected"):
        read_saving("0", keep)


@pytest.mark.slow
def test_a_second_signal_ends_the_step(tiny_directory, rows, tmp_path, signal_in_step):
    signal_in_step(2, signal.SIGINT, times=2)
    with pytest.raises(Stopped) as stop, signals_stop():
        run(tiny_directory, rows, tmp_path / "stopped")
    assert stop.value.number == signal.SIGINT
    assert newest(tmp_path / "stopped" / "checkpoint") is None


def test_a_signal_waits_only_where_it_is_told_to():
    before = signal.getsignal(signal.SIGTERM)
    with signals_stop():
        with pytest.raises(Stopped, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        with after_the_step():
            with pytest.raises(Stopped), at_once():
                os.kill(os.getpid(), signal.SIGINT)
            assert requested() == 0
            os.kill(os.getpid(), signal.SIGINT)
            assert requested() == signal.SIGINT
            with pytest.raises(Stopped, match="SIGINT"), at_once():  # one that waits already
                pass
    assert requested() == 0 and signal.getsignal(signal.SIGTERM) == before
