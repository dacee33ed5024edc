"""Known mistakes: the golden vectors reject each one in every method in which it is possible.

Run: python -m pytest tests/oracle/test_known_mistakes.py
"""

import numpy as np
import pytest

from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.mistakes.markdown import mistakes_table, peers_table
from clear_ref.oracle.reference import cases
from tests.helpers.golden_vectors import RIGHT, ROOT, STORED, WRONG


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_every_known_mistake_is_rejected_in_every_method_it_is_possible_in(mistake):
    """By more than 1e-4 of the loss's or gradient's size, a hundred times the fp32 tolerance."""
    for method in mistake.methods:
        entries = [
            entry
            for entry in WRONG
            if entry["mistake"] == mistake.name and entry["method"] == method
        ]
        assert entries, (mistake.name, method)
        for entry in entries:
            right = next(right for right in RIGHT if right["id"] == entry["of"])
            if not entry["gradients"]:
                assert abs(entry["loss"] - right["loss"]) > 1e-4 * right["scale"], entry["id"]
                continue
            wrong_gradients = STORED.gradients(entry)
            expected = STORED.gradients(right)
            error = max(np.abs(wrong_gradients[name] - expected[name]).max() for name in expected)
            size = max(np.abs(gradient).max() for gradient in expected.values())
            assert error > 1e-4 * size, entry["id"]


def test_no_known_mistake_was_removed():
    named = {mistake.name for mistake in MISTAKES}
    assert {entry["mistake"] for entry in WRONG} == named and len(named) == len(MISTAKES)
    prefixes = (
        "padding prompt image shift_off shifted_twice bos kl_swapped kl_is_cross sum_for "
        "batchmean mean_inside "
        "logits_for vocabulary reference_not reference_is idk_is last_debug broadcast "
        "entropy_sign mean_of bf16 uniform ignore"
    ).split()
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in named), prefix


def test_a_mistake_gives_none_if_an_array_that_it_reads_is_missing():
    case = next(case for case in cases.cases() if case.id == "kl/paper/plain")
    batches = case.batches
    for batch in batches.values():
        del batch["input_ids"], batch["kinds"]
    results = {}
    for mistake in MISTAKES:
        results[mistake.name] = loss_with_mistake(mistake, "kl", "paper", case.options, batches)
    assert results["prompt_counted"] is None
    assert results["last_debug_line_wins"] is None
    assert results["kl_swapped"] is not None


def test_the_table_in_the_readme_is_made_from_the_vectors():
    text = (ROOT / "clear_ref" / "oracle" / "mistakes" / "README.md").read_text(encoding="utf-8")
    between = text.split("<!-- mistakes -->\n")[1].split("<!-- /mistakes -->")[0]
    assert between == mistakes_table(WRONG)


def test_the_table_of_other_projects_in_the_readme_is_made_from_the_data():
    text = (ROOT / "clear_ref" / "oracle" / "mistakes" / "README.md").read_text(encoding="utf-8")
    between = text.split("<!-- peers -->\n")[1].split("<!-- /peers -->")[0]
    assert between == peers_table()
