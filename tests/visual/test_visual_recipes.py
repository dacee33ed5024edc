"""Recipes of the face network: rates, numbers of steps and batches are those of the authors'
scripts; orders and draws depend on their key alone.
"""

import dataclasses

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.common.settings import setting_names
from clear_ref.visual.batches import epoch_steps, n_batches, sets_of
from clear_ref.visual.methods.table import METHODS, make_options
from clear_ref.visual.recipes import (
    BASE,
    METHOD_RECIPES,
    RELEASED_BASE,
    SCHEDULES,
    SOURCES,
    UNLEARN,
    VisualRecipe,
    learning_rate,
    names_read,
    recipe_of,
)
from clear_ref.visual.training import Plan, steps_of

# CLEAR's split 0: 100 of 200 people are members, 20 of them to be forgotten.
FORGET, RETAIN = list(range(377)), list(range(377, 1884))


@pytest.mark.parametrize(
    "stage, steps",
    [
        ("base", 160),
        ("gold", 120),
        ("retain_ft", 25),
        ("scrub", 25),
        ("llmu", 25),
        ("dpo", 20),
        ("rmu", 60),
        ("scrubbio", 52),
        ("twins", 145),
        ("sparsity", 188),
    ],
)
def test_the_released_numbers_of_steps(stage, steps):
    rows = {"forget": FORGET, "retain": RETAIN}
    if stage not in METHODS:
        rows = {"train": RETAIN if stage == "gold" else FORGET + RETAIN}
    plan = Plan("split 0", stage, "released", recipe_of(stage, "released"))
    assert steps_of(plan, rows) == steps


def test_the_released_rate_of_base_counts_twice_and_jumps():
    """0.1 * 0.005 x up to x = 21; then 0.1 (0.1 + 0.1 cos(pi/2 (x - 20) / 140))."""
    rates = [learning_rate(RELEASED_BASE, step, 0, 160) for step in range(161)]
    assert rates[0] == 0 and rates[1] == pytest.approx(0.0005)
    assert rates[21] == pytest.approx(0.0105)
    assert rates[22] == pytest.approx(0.02, abs=1e-5)  # 0.01 (1 + cos(0.0224)) = 0.0199975
    assert rates[90] == pytest.approx(0.01 * (1 + 2**-0.5))
    assert rates[160] == pytest.approx(0.01)
    assert rates[120] == pytest.approx(0.0143, abs=5e-5)  # gold stops here


def test_the_papers_rate_of_base_grows_to_a_tenth_and_falls_to_0():
    rates = [learning_rate(BASE, step, 0, 160) for step in range(161)]
    assert rates[0] == pytest.approx(0.005) and rates[19] == rates[20] == pytest.approx(0.1)
    assert rates[90] == pytest.approx(0.05) and rates[160] == pytest.approx(0, abs=1e-12)
    assert max(rates) == pytest.approx(0.1)


def test_the_cosine_of_epochs_is_torchs():
    recipe = METHOD_RECIPES["dpo"]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    for epoch in range(recipe.epochs):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(recipe, 99, epoch, 100) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_every_recipe_has_its_source_and_an_unknown_stage_is_refused():
    assert set(METHOD_RECIPES) == set(METHODS)
    assert set(SOURCES) == {*METHODS, "pretrain", "base", "gold"}
    assert all("CLEAR cv/" in source and "bb14c96" in source for source in SOURCES.values())
    with pytest.raises(UserError, match="stage is 'kl'; expected one of pretrain, base, gold"):
        recipe_of("kl")
    assert recipe_of("pretrain").weight_decay == 5e-4
    assert recipe_of("twins") == VisualRecipe(
        epochs=5,
        batch_size=128,
        lr=0.4,
        schedule="constant",
        drop_last="on",
        forget_times=10,
    )


def test_a_training_reads_what_its_schedule_and_its_sets_read():
    """A value that a schedule does not read changes no rate."""
    own = {each: set(names_read(VisualRecipe(schedule=each), True)) for each in SCHEDULES}
    every = own["released_warmup"]
    assert every == set(setting_names(VisualRecipe))
    assert every - own["warmup_cosine"] == {"schedule_steps"}
    assert own["constant"] == own["cosine"] == every - {"warmup_steps", "schedule_steps"}
    assert every - set(names_read(RELEASED_BASE, False)) == {"forget_times"}
    for schedule in SCHEDULES:
        recipe = VisualRecipe(schedule=schedule)
        other = dataclasses.replace(recipe, **{name: 7 for name in every - own[schedule]})
        rates = [
            [learning_rate(each, step, step // 8, 160) for step in range(160)]
            for each in (recipe, other)
        ]
        assert rates[0] == rates[1]


def test_a_method_reads_the_forget_set_unless_all_its_passes_are_over_the_retain_set():
    reads = {
        (method, semantics): variant.reads_forget(variant.options())
        for method, module in METHODS.items()
        for semantics, variant in module.VARIANTS.items()
    }
    without = {"retain_ft", "sparsity"}
    assert {method for (method, _), found in reads.items() if not found} == without
    assert {method for (method, _), found in reads.items() if found} == set(METHODS) - without
    scrub = METHODS["scrub"].VARIANTS["original"]
    assert not scrub.reads_forget(make_options("scrub", {"msteps": 0}, "original"))


def steps(sampling, epoch=0, seed=0, forget=range(5), retain=range(5, 22), **changes):
    """The steps of an epoch with small sets."""
    recipe = dataclasses.replace(UNLEARN, **{"batch_size": 4, "forget_times": 3, **changes})
    return epoch_steps(sets_of(sampling, forget, retain, recipe.forget_times), recipe, seed, epoch)


def test_a_pass_has_every_picture_once_and_leaves_out_the_rest_of_a_batch():
    found = steps("retain")
    assert [len(step["retain"]) for step in found] == [4, 4, 4, 4]  # of 17
    seen = [each for step in found for each in step["retain"]]
    assert len(set(seen)) == 16 and set(seen) < set(range(5, 22))
    kept = steps("retain", drop_last="off")
    assert [len(step["retain"]) for step in kept] == [4, 4, 4, 4, 1]
    assert sorted(each for step in kept for each in step["retain"]) == list(range(5, 22))


def test_two_passes_end_with_the_shorter_one():
    """Retain has 17 / 4 = 4 batches, the forget set three times 15 / 4 = 3."""
    assert [set(step) for step in steps("pairs")] == [{"retain", "forget"}] * 3
    assert len(steps("pairs", forget_times=10)) == 4
    assert n_batches(15, dataclasses.replace(UNLEARN, batch_size=4)) == 3


def test_a_pool_has_the_forget_set_several_times_and_the_retain_set_once():
    found = steps("pool", drop_last="off")
    seen = sorted(each for step in found for each in step["pool"])
    assert seen == sorted(3 * list(range(5)) + list(range(5, 22)))
    only = sorted(each for step in steps("forget", drop_last="off") for each in step["forget"])
    assert only == sorted(3 * list(range(5)))


def test_the_order_depends_on_seed_set_and_epoch_alone():
    assert steps("pairs") == steps("pairs")
    assert steps("pairs") != steps("pairs", epoch=1) != steps("pairs", seed=1)
    # The retain order is the same, whatever goes with it.
    alone = [step["retain"] for step in steps("retain")]
    assert [step["retain"] for step in steps("pairs", forget_times=10)] == alone
