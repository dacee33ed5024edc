"""Training: a step does not depend on how it is cut; stop and resume equal a straight run.

Also: the schedule, and that draws are pure functions of their arguments.
Run: python -m pytest tests/loop/test_loop.py
"""

import dataclasses
import json

import pytest
import torch

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.data import draws
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.data.torch_draws import torch_generator
from clear_ref.loop import train as training
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.plan import UnlearnPlan, order
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import MiniUnlearn, Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import Stage, trainable
from clear_ref.loop.step import step_loss
from clear_ref.loop.teacher import Teacher
from clear_ref.loop.train import Training, learning_rate
from clear_ref.loop.unlearn import Unlearning
from clear_ref.methods import METHODS, make_options, needs, variant
from clear_ref.mini.directories import WORLD
from clear_ref.model import lora
from tests.helpers.stopped_training import Stopped, stopped_after

OPTIONS = {"rmu": {"layer": 1, "c": 2.0}}


@pytest.fixture(scope="module")
def rows():
    """Six forget records, pictures and text, and twelve to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def options_of(method):
    return make_options(method, OPTIONS.get(method, {}))


def run(vlm, method, rows, recipe, seed=0, out=None, resume=False):
    prepare(vlm, recipe, seed)
    settings = Unlearning(
        method,
        "paper",
        options_of(method),
        recipe,
        rows,
        read_phrases(WORLD),
        seed,
        out=out,
        resume=resume,
    )
    return unlearning.unlearn(vlm, settings)


def gradients(vlm, method, rows, recipe):
    """Loss, named terms and gradients of one step of six records.

    The adapters are not zero, so the teacher differs from the student.
    """
    prepare(vlm, recipe, 0)
    with torch.no_grad():
        for name, adapter in lora.adapters(vlm.model).items():
            adapter.lora_B.normal_(0, 0.1, generator=torch_generator(3, name))
    chosen, options = variant(method), options_of(method)
    wanted = needs(method, "paper", options)
    plan = UnlearnPlan(*rows, tuple(wanted), read_phrases(WORLD), 0)
    stage = Stage(
        method,
        wanted,
        lambda batches: chosen.loss(batches, options),
        getattr(options, "layer", None),
    )
    value, terms, n_tokens = step_loss(
        vlm, plan, stage, Teacher(vlm), recipe, 0, [4, 0, 2, 5, 1, 3]
    )
    found = {name: p.grad.clone() for name, p in trainable(vlm).items() if p.grad is not None}
    vlm.model.zero_grad()
    return value, terms, n_tokens, found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_records_at_once_never_changes_a_step(method, tiny_directory, rows):
    """Six records in parts of 1, of 4 or of 6 give the same loss, terms and gradients (float64)."""
    from clear_ref import load

    found = [
        gradients(
            load(tiny_directory, "float64"), method, rows, Recipe(records_at_once=n, lora_rank=2)
        )
        for n in (1, 4, 6)
    ]
    for value, terms, n_tokens, grads in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-12, abs=1e-13) and n_tokens == found[0][2]
        assert terms == pytest.approx(found[0][1], rel=1e-11, abs=1e-13)
        assert grads.keys() == found[0][3].keys() and grads
        for name, grad in grads.items():
            scale = max(float(found[0][3][name].norm()), 1e-6)
            assert float((grad - found[0][3][name]).norm()) < 1e-9 * scale, name


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_through_the_model_is_the_slope_of_the_loss(method, tiny, rows):
    """Float64 central differences along a random unit direction of all adapters.

    The truncation error h^2 and the rounding error 1e-16/h are small.
    """
    recipe = Recipe(records_at_once=6, lora_rank=2)
    _, _, _, grads = gradients(tiny, method, rows, recipe)
    chosen, options = variant(method), options_of(method)
    wanted = needs(method, "paper", options)
    plan = UnlearnPlan(*rows, tuple(wanted), read_phrases(WORLD), 0)
    stage = Stage(
        method,
        wanted,
        lambda batches: chosen.loss(batches, options),
        getattr(options, "layer", None),
    )
    teacher, values = Teacher(tiny), {}
    direction = {
        name: torch.randn(p.shape, dtype=p.dtype, generator=torch_generator(5, name))
        for name, p in trainable(tiny).items()
    }
    length = sum(float(d.square().sum()) for d in direction.values()) ** 0.5
    direction = {name: d / length for name, d in direction.items()}
    start = {name: p.detach().clone() for name, p in trainable(tiny).items()}
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            for name, p in trainable(tiny).items():
                p.copy_(start[name] + h * direction[name])
        values[h] = step_loss(tiny, plan, stage, teacher, recipe, 0, [4, 0, 2, 5, 1, 3])[0]
        tiny.model.zero_grad()
    slope = (values[1e-5] - values[-1e-5]) / 2e-5
    expected = sum(float((grads[name] * direction[name]).sum()) for name in grads)
    assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7) and abs(expected) > 1e-6


@pytest.mark.slow
def test_batch_size_and_accumulation_cut_the_same_step_to_the_same_bytes(tiny_directory, rows):
    """fp32: 1 x 3 and 3 x 1 train to equal bits, one record at a time or two together."""
    from clear_ref import load

    for at_once in (1, 2):
        found = []
        for size, times in ((1, 3), (3, 1)):
            vlm = load(tiny_directory)
            run(
                vlm,
                "scrub",
                rows,
                Recipe(
                    epochs=2,
                    lr=1e-3,
                    batch_size=size,
                    accumulate=times,
                    lora_rank=2,
                    records_at_once=at_once,
                ),
            )
            found.append(trainable(vlm))
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [8, 0])
def test_threads_never_change_a_bit(rank, tiny_directory, rows):
    """Adapters, and every weight: the number of threads comes from the recipe alone."""
    from clear_ref import load

    found = []
    for threads in (1, 3, 2):
        torch.set_num_threads(threads)
        vlm = load(tiny_directory)
        run(vlm, "kl", rows, MiniUnlearn(epochs=2, records_at_once=3, lora_rank=rank))
        assert torch.get_num_threads() == threads
        found.append(trainable(vlm))
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


@pytest.mark.slow
def test_another_seed_is_another_run(tiny_directory, rows):
    from clear_ref import load

    found = []
    for seed in (0, 1):
        vlm = load(tiny_directory)
        run(vlm, "grad_diff", rows, MiniUnlearn(epochs=1), seed)
        found.append(trainable(vlm))
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.slow
@pytest.mark.parametrize("method, rank", [("scrub", 2), ("dpo", 2), ("dpo", 0), ("sku", 0)])
@pytest.mark.parametrize("stop", [2, 5, 8])
def test_stop_and_resume_is_the_straight_run_byte_for_byte(
    method, rank, stop, tiny_directory, rows, tmp_path
):
    """Stopped after `stop` optimiser steps, then resumed: equal weights, equal trace.

    dpo is stopped in its first or in its second stage.
    """
    from clear_ref import load

    recipe = MiniUnlearn(epochs=3, batch_size=3, lora_rank=rank)
    straight = load(tiny_directory)
    run(straight, method, rows, recipe, out=tmp_path / "straight")
    try:
        with stopped_after(stop):
            run(load(tiny_directory), method, rows, recipe, out=tmp_path / "stopped")
        assert stop >= 6 and method != "dpo"
    except Stopped:
        pass
    resumed = load(tiny_directory)
    run(resumed, method, rows, recipe, out=tmp_path / "stopped", resume=True)
    expected = trainable(straight)
    assert all(torch.equal(expected[name], tensor) for name, tensor in trainable(resumed).items())
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (tmp_path / name / "trace.jsonl").read_text().splitlines()
        ]
        for name in ("straight", "stopped")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == (12 if method == "dpo" else 6)


@pytest.mark.slow
def test_sku_ends_at_its_start_minus_the_trained_change(tiny_directory, rows, monkeypatch):
    """Stage 2 is 2 theta_0 - theta_1 for whole weights; with adapters B A changes its sign."""
    from clear_ref import load

    for rank in (0, 2):
        ends = []
        for finish in (None, "negate_delta"):
            monkeypatch.setattr(
                unlearning.table,
                "second_stage",
                lambda method, semantics="paper", value=finish: value,
            )
            vlm = load(tiny_directory, "float64")
            start = {name: tensor.clone() for name, tensor in vlm.weights().items()}
            run(vlm, "sku", rows, MiniUnlearn(epochs=1, lora_rank=rank))
            vlm.merge_lora()
            ends.append({name: tensor - start[name] for name, tensor in vlm.weights().items()})
        for name in start:
            assert torch.allclose(ends[0][name], -ends[1][name], rtol=0, atol=1e-12), name
        assert any(float(delta.abs().max()) > 1e-4 for delta in ends[0].values())


@pytest.mark.slow
def test_dpo_compares_with_the_base_tuned_on_refusals(tiny_directory, rows, monkeypatch):
    """After the first stage the student is back at its start, the teacher is not.

    The teacher gives refusals a higher likelihood.
    """
    from clear_ref import load

    seen = {}

    def inspect(vlm, run, teacher=None, after_step=None):
        if run.stage.name == "dpo":
            seen["student"] = {name: p.detach().clone() for name, p in trainable(vlm).items()}
            seen["teacher"] = teacher
            return 0
        return training.train(vlm, run, teacher)

    monkeypatch.setattr(unlearning, "train", inspect)
    vlm = load(tiny_directory)
    recipe = MiniUnlearn(epochs=3, lr=5e-3, lora_rank=2)
    names = prepare(vlm, recipe, 0)
    start = {name: p.detach().clone() for name, p in trainable(vlm).items()}
    own = read_phrases(WORLD)
    run = Unlearning("dpo", "paper", make_options("dpo", {}), recipe, rows, own, 0)
    unlearning.unlearn(vlm, run)
    assert names and all(torch.equal(start[name], seen["student"][name]) for name in start)
    batch = vlm.encode([UnlearnPlan(*rows, ("idk",), own, 0).records(0, 0)["idk"]])
    mask = batch.labels[0, 1:] != -100

    def refusal_nll(hidden):
        logits = vlm.head(hidden[0, :-1][mask])
        return float(torch.nn.functional.cross_entropy(logits, batch.labels[0, 1:][mask]))

    assert (
        refusal_nll(seen["teacher"].hidden_of_all([batch])[0])
        < refusal_nll(vlm.hidden(batch)) - 0.1
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tiny, rows):
    plan = UnlearnPlan(*rows, ("retain",), read_phrases(WORLD), 0)
    recipe = Recipe(lora_rank=2, epochs=1)
    prepare(tiny, recipe, 0)
    from clear_ref.methods import Loss, Need

    stage = Stage(
        "broken",
        {"retain": Need()},
        lambda s: Loss.of(bad=s["retain"].terms("answer").nll.sum() * float("nan")),
    )
    with pytest.raises(RunFailed, match="broken, step 1: loss is nan"):
        training.train(tiny, Training(plan, stage, recipe, 0))


def test_the_schedule_by_hand():
    """lr 1, 10 steps, warm-up over the first 4: 1/5 .. 4/5, then 6/6, 5/6 .. 1/6 of the peak."""
    recipe = dataclasses.replace(Recipe(), lr=1.0, warmup_epochs=1.0)
    rates = [learning_rate(recipe, step, 10, 4) for step in range(10)]
    assert rates == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rel=1e-15
    )


def test_draws_are_pure_functions_and_differ_in_every_argument():
    assert draws.choice(0, "a", 1, 2, 10**9) == draws.choice(0, "a", 1, 2, 10**9)
    others = {
        draws.choice(*arguments, 10**9)
        for arguments in (
            (0, "a", 1, 2),
            (1, "a", 1, 2),
            (0, "b", 1, 2),
            (0, "a", 2, 2),
            (0, "a", 1, 3),
        )
    }
    assert len(others) == 5
    assert sorted(order(0, 3, 50)) == list(range(50)) and order(0, 3, 50) != order(0, 4, 50)
    assert len(set(draws.sample(0, "s", 0, 0, 5, 5))) == 5


def test_draws_are_what_they_were():
    """Stored values: a change of NumPy, Python or this code that moves a draw moves every run."""
    assert draws.choice(0, "retain partner", 0, 0, 540) == 189
    assert draws.permutation(0, "order", 0, 8) == [0, 4, 5, 2, 7, 6, 1, 3]
    assert draws.uniform_vector(0, "rmu control vector", 2).tolist() == [
        0.11379432679229706,
        0.33290458007077184,
    ]


def test_choices_are_uniform():
    """Each count of 9,000 draws of 9 is within 5 standard deviations of 1,000.

    The standard deviation is sqrt(9000 * 1/9 * 8/9) = 29.8.
    """
    counts = [0] * 9
    for index in range(9000):
        counts[draws.choice(0, "uniform", 0, index, 9)] += 1
    assert all(abs(count - 1000) < 150 for count in counts)


def test_a_plan_gives_each_batch_its_record(rows):
    plan = UnlearnPlan(
        *rows, ("forget", "retain", "idk", "random1", "random2", "random3"), read_phrases(WORLD), 0
    )
    retain = {row.values.get("caption") or row.values["answer"] for row in rows[1]}
    forget = [row.values.get("caption") or row.values["answer"] for row in rows[0]]
    for index in range(len(plan)):
        views = plan.records(2, index)
        assert views["forget"].answer == forget[index] and views["retain"].answer in retain
        assert (
            views["idk"].answer in read_phrases(WORLD).refusals
            and views["idk"].question == views["forget"].question
        )
        random = [views[f"random{k}"].answer for k in (1, 2, 3)]
        assert len(set(random)) == 3 and forget[index] not in random and set(random) <= set(forget)
        assert all(views[name].image == views["forget"].image for name in ("idk", "random1"))
    with pytest.raises(UserError, match="2 records.*3 random"):
        UnlearnPlan(rows[0][:2], rows[1], ("random1", "random2", "random3"), read_phrases(WORLD), 0)


def test_modalities_select_their_half():
    both, visual, text = (split_rows(WORLD, name, 10) for name in ("both", "visual", "text"))
    assert (len(both[0]), len(visual[0]), len(text[0])) == (60, 20, 40)
    assert all(row.image for row in visual[0]) and not any(row.image for row in text[0])
    assert len(both[1]) == len(visual[1]) == len(text[1]) == 540 and read_rows(
        WORLD, "retain90+tofu"
    )
    with pytest.raises(UserError, match="^modality is 'audio'"):
        split_rows(WORLD, "audio", 10)


def test_the_retain_set_has_a_modality_of_its_own():
    """540 retain rows: 180 pictures and 360 texts, whatever is forgotten.

    A model without pictures gets texts, unless pictures are asked for.
    """
    for modality in ("both", "visual", "text"):
        found = {
            kind: split_rows(WORLD, modality, 10, True, kind) for kind in ("both", "visual", "text")
        }
        assert {kind: len(rows[1]) for kind, rows in found.items()} == {
            "both": 540,
            "visual": 180,
            "text": 360,
        }
        assert all(row.image for row in found["visual"][1]) and not any(
            row.image for row in found["text"][1]
        )
        assert all(rows[0] == found["both"][0] for rows in found.values())
    assert len(split_rows(WORLD, "text", 10, False)[1]) == 360
    with pytest.raises(UserError, match="^retain modality is 'audio'"):
        split_rows(WORLD, "both", 10, True, "audio")
    with pytest.raises(
        UserError, match="--retain-modality is visual, and the model sees no pictures"
    ):
        split_rows(WORLD, "text", 10, False, "visual")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, student, teacher", [("llmu", 2, 1), ("dpo", 1, 1), ("sku", 2, 1), ("kl", 2, 1)]
)
def test_a_picture_and_prompt_that_batches_share_are_computed_once(
    method, student, teacher, tiny, rows, monkeypatch
):
    """One record with a picture: its forget, idk and random batches are computed together.

    The retain batch is computed by itself. That the numbers are the same is the claim of
    test_records_at_once_never_changes_a_step: six at once have no common prompt.
    """
    towers, plain = [], type(tiny.model).image_features

    def counted(self, pixels):
        towers.append(torch.is_grad_enabled())
        return plain(self, pixels)

    monkeypatch.setattr(type(tiny.model), "image_features", counted)
    prepare(tiny, Recipe(lora_rank=2), 0)
    wanted = needs(method, "paper", options_of(method))
    plan = UnlearnPlan(rows[0][:4], rows[1][:1], tuple(wanted), read_phrases(WORLD), 0)
    stage = Stage(method, wanted, lambda batches: variant(method).loss(batches, options_of(method)))
    step_loss(tiny, plan, stage, Teacher(tiny), Recipe(lora_rank=2), 0, [0])
    assert (towers.count(True), towers.count(False)) == (student, teacher)
