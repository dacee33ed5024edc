"""A step that is not finite names term, batch, records and parameter; nothing before it is lost.

The records that make a loss not finite are chosen here, so the line is known by hand.
"""

import dataclasses
import json
import re

import pytest
import torch

from clear_ref import load
from clear_ref.common.errors import RunFailed
from clear_ref.data.prompts import read_phrases
from clear_ref.loop.plan import FinetunePlan, UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import MiniUnlearn
from clear_ref.loop.rows import split_rows
from clear_ref.loop.saving import Saving
from clear_ref.loop.stage import Stage, trainable
from clear_ref.loop.train import Training, train
from clear_ref.losses.reductions import sequence_sum, token_mean
from clear_ref.methods import Loss, Need
from clear_ref.mini.directories import WORLD

RECIPE = MiniUnlearn(epochs=2, lr=1e-3, batch_size=3, accumulate=1, lora_rank=2)
NEEDS = {"forget": Need(), "retain": Need()}


def rows():
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def plan():
    return UnlearnPlan(*rows(), ("forget", "retain"), read_phrases(WORLD), 0)


class Broken:
    """A loss that `spoil` makes not finite for one forget record, while `on`."""

    def __init__(self, vlm, index, spoil):
        self.on = True
        self.spoil = spoil
        record = plan().records(0, index)["forget"]
        labels = vlm.encode([record]).labels[0]
        self.answer = labels[labels != -100]

    def __call__(self, batches):
        forget = batches["forget"]
        sums = sequence_sum(forget, "nll")
        if self.on:
            for row, labels in enumerate(forget.labels):
                if torch.equal(labels[labels != -100], self.answer):
                    sums = torch.cat((sums[:row], self.spoil(sums[row : row + 1]), sums[row + 1 :]))
        forget_term = -sums.sum() / forget.n_sequences
        return Loss.of(forget_nll=forget_term, retain_nll=token_mean(batches["retain"], "nll"))


def to_nan(nll):
    return nll * float("nan")


def infinite_slope(nll):
    """The value is 0; the derivative of the square root at 0 is infinite."""
    return torch.sqrt(nll - nll.detach())


def prepared(directory):
    vlm = load(directory)
    prepare(vlm, RECIPE, 0)
    return vlm


def failing(vlm, loss, out=None, resume=False, **recipe):
    """The line of a training that fails."""
    chosen = dataclasses.replace(RECIPE, **recipe)
    with pytest.raises(RunFailed) as failure:
        train(vlm, Training(plan(), Stage("made", NEEDS, loss), chosen, 0, out, resume, Saving(1)))
    return str(failure.value)


def named(said, rows):
    """The numbers of those of the rows that a line names."""
    places = re.findall(r"[^ ;,]+:\d+", said)
    return [number for number, row in enumerate(rows) if row.where in places]


def strict_json(text):
    def refuse(value):
        raise AssertionError(f"{value} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("records_at_once", [1, 3])
def test_the_line_names_term_batch_and_record(records_at_once, tiny_directory, tmp_path):
    """Record 4 is in one of the two steps of the first epoch; the other forget records are fine."""
    vlm = prepared(tiny_directory)
    said = failing(vlm, Broken(vlm, 4, to_nan), tmp_path, records_at_once=records_at_once)
    [index] = (tmp_path / "checkpoint").glob("state*.json")
    step = json.loads(index.read_text())["step"] + 1
    assert step in (1, 2)
    assert said.startswith(
        f"made, step {step}: loss is nan, gradient norm nan; term forget_nll is "
    )
    assert "retain_nll" not in said
    assert f"; batch forget, {rows()[0][4].where}; the gradient of " in said
    assert named(said, rows()[0]) == [4] and named(said, rows()[1]) == []
    assert f"saved in {tmp_path / 'checkpoint'}: --resume --out DIR makes the step again" in said
    *before, last = map(strict_json, (tmp_path / "trace.jsonl").read_text().splitlines())
    assert [line["step"] for line in before] == list(range(1, step)) and last["step"] == step
    assert last["loss"] == last["terms"]["forget_nll"] == "nan"
    assert type(last["terms"]["retain_nll"]) is float
    [guard] = last["guards"]
    assert guard["guard"] == "not_finite" and guard["reason"] in said
    assert (tmp_path / "trace.csv").read_text().splitlines()[-1].endswith(",not_finite")


def test_the_state_before_the_step_is_saved_and_the_resumed_run_is_the_straight_one(
    tiny_directory, tmp_path
):
    """The same step fails again until its cause is gone; then nothing of the failure is left."""
    vlm = prepared(tiny_directory)
    broken = Broken(vlm, 4, to_nan)
    first = failing(vlm, broken, tmp_path / "failed")
    assert failing(prepared(tiny_directory), broken, tmp_path / "failed", resume=True) == first
    broken.on = False
    ends = []
    for name, resume in (("straight", False), ("failed", True)):
        vlm = prepared(tiny_directory)
        training = Training(
            plan(), Stage("made", NEEDS, broken), RECIPE, 0, tmp_path / name, resume
        )
        train(vlm, training)
        lines = [json.loads(line) for line in (tmp_path / name / "trace.jsonl").open()]
        ends.append((trainable(vlm), [{**line, "seconds": 0} for line in lines]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(tensor, ends[1][0][name]) for name, tensor in ends[0][0].items())


def test_a_gradient_that_is_not_finite_names_its_term_and_record(tiny_directory):
    vlm = prepared(tiny_directory)
    said = failing(vlm, Broken(vlm, 1, infinite_slope))
    assert re.search(r": loss is -?[0-9.e-]+, gradient norm nan; ", said)
    assert "; the gradient of term forget_nll is not finite; " in said
    assert named(said, rows()[0]) == [1] and named(said, rows()[1]) == []
    assert "values that are not finite" in said and "look at these records" in said


@pytest.mark.parametrize(
    "value, words",
    [
        (
            float("inf"),
            "the gradient of {name} has {n} of {n} values that are not finite, and 0 other",
        ),
        (1e30, "all gradients are finite, the largest is 1e+30 in {name}"),
    ],
)
def test_a_parameter_whose_gradient_alone_is_too_large_is_named(value, words, tiny_directory):
    """Hidden states and their gradients are finite: all records of the step are named.

    1e30 squared is above float32's 3.4e38, so the norm is infinite.
    """
    vlm = prepared(tiny_directory)
    name, parameter = next((n, p) for n, p in trainable(vlm).items() if n.endswith("lora_B"))
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
    loss = Broken(vlm, 0, to_nan)
    loss.on = False
    said = failing(vlm, loss)
    assert "gradient norm inf; batch forget, " in said
    assert words.format(name=name, n=parameter.numel()) in said
    assert len(named(said, rows()[0])) == 3


def test_weights_that_are_not_finite_name_every_record(tiny_directory):
    vlm = prepared(tiny_directory)
    name = next(name for name in trainable(vlm) if "language" in name and "lora_A" in name)
    trainable(vlm)[name].data.fill_(float("nan"))
    loss = Broken(vlm, 0, to_nan)
    loss.on = False
    said = failing(vlm, loss)
    assert "term forget_nll is nan; term retain_nll is nan; batch forget, " in said
    assert "; batch retain, " in said and len(named(said, rows()[0])) == 3


def test_the_row_of_a_record_is_that_of_its_answer():
    """For every batch of either plan the row's text is the record's answer."""
    forget, retain = rows()
    batches = ("forget", "retain", "idk", "random1", "random2")
    made = UnlearnPlan(forget, retain, batches, read_phrases(WORLD), 0)
    for epoch, index in ((0, 0), (1, 5)):
        for name, record in made.records(epoch, index).items():
            row = made.row_of(name, epoch, index)
            answer = row.values.get("caption") or row.values["answer"]
            assert record.answer == answer or (name == "idk" and record.image == row.image)
    named = tuple(row for row in forget if row.values.get("name"))
    both = FinetunePlan(retain, read_phrases(WORLD), 0, named, tuple(forget), 2)
    for index in range(len(both)):
        row = both.row_of("retain", 1, index)
        answers = row.values.get("caption"), row.values.get("answer"), row.values.get("name")
        assert both.records(1, index)["retain"].answer in answers
