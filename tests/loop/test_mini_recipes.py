"""The embedded world's recipe of each method and semantics is the setting that the named rule
chooses from the table of its sweep, and it is what a run uses.

The choice is made again here, by hand, from the table's numbers.
"""

import csv
from dataclasses import asdict, replace

import pytest

from clear_ref.commands.given import Given
from clear_ref.commands.settings import Unlearn
from clear_ref.commands.training_recipe import method_recipe_for
from clear_ref.loop.mini_recipes import SWEEPS, markdown, tuned
from clear_ref.methods import make_options, method_loss, table, variant
from clear_ref.methods.semantics import DATED
from tests.helpers.at_the_teacher import B, T, V, batches, close

SEMANTICS = ("paper", "released", "original")


def rows_of(semantics):
    with (SWEEPS / f"{semantics}.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_the_chosen_rows_are_those_of_the_rule(semantics):
    rows = rows_of(semantics)
    assert {row["method"] for row in rows} == set(table.METHODS)
    assert {row["rule"] for row in rows} == {"forget-at-retain-0.9"}
    for method in table.METHODS:
        own = [row for row in rows if row["method"] == method and not row["failed"]]
        assert len(own) >= 2
        kept = [row for row in own if row["meets"]]
        if kept:
            forget = {row["number"]: float(row["choosing_forget"]) for row in kept}
            # a Forget of 0 is a harmonic mean with a part of 0: it comes last
            expected = min(kept, key=lambda row: forget[row["number"]] or 2.0)
        else:
            expected = max(own, key=lambda row: float(row["choosing_retain"]))
        assert [row["number"] for row in own if row["chosen"]] == [expected["number"]], method


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_row_meets_the_rule_if_it_keeps_nine_tenths_of_base(semantics):
    """Base's Retain is not in the table; the rows that meet the rule have higher ones than all
    others, with a limit between them that is the same for every method."""
    rows = [row for row in rows_of(semantics) if not row["failed"]]
    retain = {True: [], False: []}
    for row in rows:
        retain[bool(row["meets"])].append(float(row["choosing_retain"]))
    limit = 0.9 * 0.7564  # base's Retain on the choosing half, split by seed 0
    assert min(retain[True]) >= limit - 1e-4
    assert not retain[False] or max(retain[False]) < limit


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_run_uses_the_chosen_values_and_the_command_line_goes_before_them(semantics):
    for method in table.METHODS:
        [row] = [r for r in rows_of(semantics) if r["method"] == method and r["chosen"]]
        settings = Unlearn(method=method, semantics=semantics)
        found = method_recipe_for(settings, Given())
        assert found.name == "mini"
        assert (found.recipe.lr, found.recipe.epochs) == (float(row["lr"]), int(row["epochs"]))
        assert {"lr", "epochs"} <= found.tuned_recipe
        for name in found.tuned_options & set(row):
            if row[name]:
                value = getattr(found.options, name)
                assert value == type(value)(row[name])
        given = method_recipe_for(settings, Given(recipe={"lr": "0.5"}))
        assert given.recipe.lr == 0.5 and given.recipe.epochs == int(row["epochs"])


def test_the_papers_recipe_stays_a_name():
    settings = Unlearn(method="scrub", recipe="paper")
    found = method_recipe_for(settings, Given())
    assert (found.name, found.recipe.lr, found.recipe.epochs) == ("paper", 1e-5, 5)
    assert (found.options.alpha, found.options.gamma) == (1.0, 1.0)
    assert not found.tuned_recipe and not found.tuned_options


def test_a_dated_semantics_has_the_values_of_the_next_later_one():
    assert tuned("grad_diff", "released@2024-12-10") == tuned("grad_diff", "released")
    assert tuned("npo", "released@2024-12-10").recipe == tuned("npo", "released").recipe
    assert "layer" not in tuned("npo", "paper").options
    assert tuned("rmu", "paper").options["layer"] in (2, "2", "1")


@pytest.mark.parametrize("semantics", [*DATED, "released@nlp"])
def test_npo_is_trained_under_every_state_of_the_released_code(semantics):
    """Its first step, in which the student is the teacher, has a gradient that is not 0.

    Before 2025-03-30 and in nlp/ the loss is 2 / beta times the mean of log(1 + x^beta), x = 0
    here: at beta = 1 its slope in log p is 2 / (B T V), so d/dz = 2 (1/V - p) / (B T); at beta = 2,
    which the sweep has chosen for another loss, it is 0.
    """
    given = batches("npo")
    logits = given["forget"].logits.clone().requires_grad_()
    given = {"forget": replace(given["forget"], logits=logits)}
    options = make_options("npo", tuned("npo", semantics).options, semantics)
    method_loss("npo", given, semantics, **asdict(options)).value.backward()
    assert logits.grad.abs().max() > 0.1 / (B * T)
    if variant("npo", semantics) is not variant("npo", "released"):
        assert close(logits.grad, 2 * (1 / V - logits.detach().softmax(-1)) / (B * T))


def test_the_page_lists_the_chosen_values():
    page = (SWEEPS.parents[1] / "mini" / "README.md").read_text(encoding="utf-8")
    assert markdown() in page
