"""Guards of a training: which fire, at which step, and that they change no byte of the run.

Every stage here is made for the case, with losses whose gradients are known. The sets are six
records in steps of two: three steps an epoch.
"""

import dataclasses
import json

import pytest
import torch

from clear_ref import load
from clear_ref.common.guards import GuardNotice, collected
from clear_ref.data.prompts import read_phrases
from clear_ref.loop import guards as training_guards
from clear_ref.loop.engine import Work
from clear_ref.loop.guards import StepWatch, checksums, different, has_gradient
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import MiniUnlearn
from clear_ref.loop.rows import split_rows
from clear_ref.loop.saving import Saving
from clear_ref.loop.stage import Stage, trainable
from clear_ref.loop.teacher import Teacher
from clear_ref.loop.train import AfterStep, Training, train
from clear_ref.loop.unlearn import Unlearning, unlearn
from clear_ref.losses.reductions import token_mean
from clear_ref.methods import Loss, Need, make_options
from clear_ref.mini.directories import WORLD
from tests.helpers.stopped_training import Stopped, stopped_after

pytestmark = pytest.mark.filterwarnings("ignore::clear_ref.common.guards.GuardNotice")
RECIPE = MiniUnlearn(epochs=2, lr=1e-3, batch_size=2, accumulate=1, lora_rank=2)
NEEDS = {"forget": Need(), "retain": Need()}


def rows():
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


class WithoutAnswers(UnlearnPlan):
    """The retain batch has no answers at the given indices."""

    silent: tuple[int, ...] = ()

    def records(self, epoch, index):
        found = super().records(epoch, index)
        if index in self.silent:
            found["retain"] = dataclasses.replace(found["retain"], answer=None)
        return found


def plan(silent=()):
    made = WithoutAnswers(*rows(), ("forget", "retain"), read_phrases(WORLD), 0)
    object.__setattr__(made, "silent", silent)
    return made


def live_and_dead(batches):
    """`dead` has a value and no gradient."""
    live = -token_mean(batches["forget"], "nll")
    return Loss.of(live=live, dead=0 * token_mean(batches["retain"], "nll") + 1)


def dead_alone(batches):
    return Loss.of(dead=0 * token_mean(batches["retain"], "nll") + 1)


def trained(directory, loss, out=None, silent=(), **more):
    """(model, guards) after a training with a loss."""
    vlm = load(directory)
    recipe = dataclasses.replace(RECIPE, **more.pop("recipe", {}))
    prepare(vlm, recipe, 0)
    training = Training(plan(silent), Stage("made", NEEDS, loss), recipe, 0, out, **more)
    with collected() as found:
        train(vlm, training)
    return vlm, found


def said(guards):
    return [(guard["guard"], guard["at"]) for guard in guards]


def guards_by_step(out):
    lines = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    return {line["step"]: line["guards"] for line in lines if "guards" in line}


def test_a_part_that_is_not_counted_gives_the_names_of_its_terms():
    """A process with no other part exchanges as many numbers as the others."""
    hidden = torch.ones(1, requires_grad=True)
    terms = {"live": hidden.sum(), "dead": (0 * hidden).sum()}
    watch = StepWatch(probes=True)
    watch.see(Work({}, 1, {}, (0, 0), share=0), terms, {"forget": hidden})
    assert watch.terms == {"live": False, "dead": False}
    watch.see(Work({}, 1, {}, (0, 0), share=1), terms, {"forget": hidden})
    assert watch.terms == {"live": True, "dead": False}


def test_a_term_without_gradient_is_named_after_three_steps_and_the_other_is_not(
    tiny_directory, tmp_path
):
    """The weights move after step 1; steps 2, 3 and 4 are looked at."""
    _, found = trained(tiny_directory, live_and_dead, tmp_path)
    assert said(found) == [("zero_gradient", "made, step 4")]
    assert "term dead has a gradient of exactly 0" in found[0]["reason"]
    assert guards_by_step(tmp_path) == {4: found}


def test_a_training_without_any_gradient_is_said_after_its_first_epoch_and_at_its_end(
    tiny_directory, tmp_path
):
    """Weight decay changes lora_A; lora_B stays 0, so the model stays what it was."""
    vlm, found = trained(tiny_directory, dead_alone, tmp_path, recipe={"weight_decay": 0.1})
    assert said(found) == [("zero_gradient", "made, step 3"), ("unchanged", "made, end")]
    assert guards_by_step(tmp_path) == {3: found[:1], 6: found[1:]}
    before = load(tiny_directory)
    prepare(before, RECIPE, 0)
    names = [n for n, t in trainable(before).items() if not torch.equal(t, trainable(vlm)[n])]
    assert names and all(name.endswith("lora_A") for name in names)


def test_full_fine_tuning_without_a_change_is_said(tiny_directory):
    """A rate of 1e-20 changes no float32 weight but one that is 0, and the model has none."""

    def of_forget(batches):
        return Loss.of(live=token_mean(batches["forget"], "nll"))

    more = {"lora_rank": 0, "weight_decay": 0.0, "lr": 1e-20}
    _, found = trained(tiny_directory, of_forget, recipe=more)
    assert said(found) == [("unchanged", "made, end")]


@pytest.fixture(scope="module")
def straight_guards(tiny_directory, tmp_path_factory):
    """{step: guards} of a run with a term and a row set that do nothing."""
    out = tmp_path_factory.mktemp("straight")
    trained(tiny_directory, live_and_dead, out, silent=range(6))
    return guards_by_step(out)


@pytest.mark.slow
@pytest.mark.parametrize("stops_after", [1, 2, 5])
def test_a_resumed_run_has_the_guards_of_the_straight_one(
    stops_after, straight_guards, tiny_directory, tmp_path
):
    """Stopped within the three steps, the term is named after three steps of the resumed run."""
    options = {"silent": range(6), "saving": Saving(steps=1)}
    with pytest.raises(Stopped), stopped_after(stops_after):
        trained(tiny_directory, live_and_dead, tmp_path / "stopped", **options)
    trained(tiny_directory, live_and_dead, tmp_path / "stopped", **options, resume=True)
    straight = dict(straight_guards)
    if stops_after == 2:
        named = [each for each in straight[4] if each["guard"] == "zero_gradient"]
        straight[4] = [each for each in straight[4] if each not in named]
        straight[5] = [{**named[0], "at": "made, step 5"}, *straight[5]]
    assert straight == guards_by_step(tmp_path / "stopped")


def test_a_row_set_without_rows_is_said_once_and_once_more_if_it_is_so_in_every_step(
    tiny_directory, tmp_path
):
    """Of the records 0 to 5 one has no answer: with steps of one record, one step of each epoch."""

    def both(batches):
        return Loss.of(
            live=token_mean(batches["forget"], "nll") + token_mean(batches["retain"], "nll")
        )

    one = {"batch_size": 1}
    _, found = trained(tiny_directory, both, tmp_path / "one", silent=(4,), recipe=one)
    assert [guard["guard"] for guard in found] == ["empty_rows"]
    assert "row set answer of batch retain selects no row" in found[0]["reason"]
    in_trace = guards_by_step(tmp_path / "one")
    assert len(in_trace) == 2 and [step > 6 for step in in_trace] == [False, True]
    assert found[0]["at"] == f"made, step {min(in_trace)}"
    _, found = trained(tiny_directory, both, tmp_path / "all", silent=range(6))
    assert said(found) == [("empty_rows", "made, step 1"), ("empty_rows", "made, end")]
    assert found[1]["reason"].endswith("(in every one of 6 steps)")
    assert list(guards_by_step(tmp_path / "all")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("rank", [2, 0])
def test_a_frozen_weight_that_changes_is_named(rank, tiny_directory):
    """With adapters a weight below them; without, one of the teacher's copy."""
    vlm = load(tiny_directory)
    recipe = dataclasses.replace(RECIPE, lora_rank=rank)
    prepare(vlm, recipe, 0)
    teacher = Teacher(vlm)
    frozen = vlm.model if teacher.copy is None else teacher.copy.model
    name, weight = next(
        (name, each)
        for name, each in frozen.named_parameters()
        if not each.requires_grad and "q_proj" in name
    )

    def change(line):
        if line["step"] == 5:
            weight.data[0, 0] += 1

    def live(batches):
        return Loss.of(live=token_mean(batches["forget"], "nll"))

    stage = Stage("made", {"forget": Need(teacher=True)}, live)
    with collected() as found:
        training = Training(plan(), stage, recipe, 0)
        train(vlm, training, teacher, AfterStep(change, change, ()))
    assert said(found) == [("frozen_changed", "made, end")]
    assert name in found[0]["reason"] and ("teacher's " in found[0]["reason"]) == (rank == 0)
    assert found[0]["reason"].startswith("1 of ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, semantics, rank",
    [("scrub", "original", 2), ("rmu", "paper", 2), ("scrub", "paper", 0)],
)
def test_the_guards_change_no_byte_and_are_silent_on_a_right_run(
    method, semantics, rank, tiny_directory, monkeypatch
):
    """SCRUB's KLs have no gradient in its first step (its first pass, in the original)."""

    def run(looks):
        monkeypatch.setattr(training_guards.ZeroGradients, "are_wanted", looks)
        vlm = load(tiny_directory)
        recipe = dataclasses.replace(RECIPE, lora_rank=rank)
        prepare(vlm, recipe, 0)
        given = {"layer": 1} if method == "rmu" else {}
        options = make_options(method, given, semantics)
        settings = Unlearning(method, semantics, options, recipe, rows(), read_phrases(WORLD), 0)
        with collected() as found:
            unlearn(vlm, settings)
        return found, trainable(vlm)

    found, weights = run(training_guards.ZeroGradients.are_wanted)
    assert found == []
    other = run(lambda *_: True)[1]  # every step is looked at
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_has_gradient_by_hand():
    """d(x y)/dx = y: 0 where y is 0. A term of y alone has no gradient with respect to x."""
    x, y = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    assert not has_gradient((x * y).sum(), [x])
    assert has_gradient((x * y).sum(), [x, y])
    assert not has_gradient(y.sum(), [x])
    assert not has_gradient(torch.tensor(1.0), [x])
    assert has_gradient((x * float("nan")).sum(), [x])


def test_checksums_by_hand():
    """1.0 is 0x3f800000 in float32 and 0x3f80 in bfloat16, 2.0 is 0x40000000 and 0x4000."""
    found = checksums(
        {
            "one word": torch.tensor([1.0, 2.0]),
            "a half": torch.tensor([1.0]),
            "three": torch.tensor([1.0, 2.0, 2.0], dtype=torch.bfloat16),
            "none": torch.zeros(0),
            "not in order": torch.tensor([[1.0, 2.0], [2.0, 1.0]]).t(),
        }
    )
    assert found == {
        "one word": 0x40000000 * 2**32 + 0x3F800000,
        "a half": 0x3F800000,
        "three": 0x3F80 + 2 * 0x4000,
        "none": 0,
        "not in order": (0x40000000 + 0x3F800000) * (2**32 + 1),
    }
    weights = {"a": torch.randn(1000), "b": torch.randn(1000)}
    before = checksums(weights)
    weights["b"][999] = torch.nextafter(weights["b"][999], torch.tensor(9.0))
    assert different(before, checksums(weights)) == ["b"]


def test_guards_of_settings_are_in_the_first_line(tiny_directory, tmp_path):
    first = {"guard": "high_rate", "at": "settings", "reason": "lr is 30"}
    trained(tiny_directory, live_and_dead, tmp_path, guards=(first,))
    assert guards_by_step(tmp_path)[1] == [first]
    header, *lines = (tmp_path / "trace.csv").read_text().splitlines()
    assert header.endswith(",seconds,guards")
    assert [line.rsplit(",", 1)[1] for line in lines] == [
        "high_rate",
        "",
        "",
        "zero_gradient",
        "",
        "",
    ]


def test_a_guard_is_a_notice(tiny_directory):
    with pytest.warns(GuardNotice, match=r"warning zero_gradient \(made, step 4\): term dead"):
        trained(tiny_directory, live_and_dead)
