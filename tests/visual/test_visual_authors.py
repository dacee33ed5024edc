"""The released losses of the eight methods against the authors' own scripts: losses and gradients
in vectors/visual_authors.json.
"""

import json
from pathlib import Path

import pytest
import torch

from clear_ref.visual.methods.table import METHODS, visual_loss
from tests.helpers.visual_inputs import gradients, inputs

FOUND = json.loads(
    (Path(__file__).parents[1] / "vectors" / "visual_authors.json").read_text(encoding="utf-8")
)
CASES = FOUND["cases"]


def name_of(case):
    """A case's name in the test's id."""
    return f"{case['method']}-{case['seed']}"


def test_every_method_has_a_case_of_the_authors():
    assert {case["method"] for case in CASES} == set(METHODS)


def compared(case, semantics):
    """(largest relative difference of loss and gradients, of the gradients alone)."""
    given = inputs(case["sampling"], case["seed"], case["gap"])
    loss = visual_loss(case["method"], given, semantics, **case["options"]).value
    found = gradients(loss, given)
    differences = []
    for name, gradient in found.items():
        theirs = case["gradients"].get(name)
        if theirs is None:
            assert not bool(gradient.any()), name
            continue
        theirs = torch.tensor(theirs, dtype=torch.float64).view_as(gradient)
        differences.append(float((gradient - theirs).abs().max() / theirs.abs().max()))
    return abs(loss.item() - case["loss"]) / abs(case["loss"]), max(differences)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_loss_and_gradient_are_the_authors(case):
    """Within the rounding of float64. Their cosine adds 1e-12 under a root, their AM-softmax sums
    exponentials of up to 1e20 that it does not sort.
    """
    loss, gradient = compared(case, "released")
    assert loss < 1e-11 and gradient < 1e-9


def test_the_papers_am_softmax_is_another_number():
    case = next(case for case in CASES if case["method"] == "retain_ft")
    assert compared(case, "paper")[0] > 0.01


def test_a_forget_picture_that_points_away_is_among_the_cases():
    """So the released SCRUBbio's max(0, cos) is tested on both sides."""
    [case] = [each for each in CASES if each["method"] == "scrubbio" and each["gap"] == 3]
    pool = inputs("pool", case["seed"], case["gap"]).batches["pool"]
    cosines = torch.nn.functional.cosine_similarity(pool.embeddings, pool.targets)[pool.forget]
    assert bool((cosines < 0).any()) and bool((cosines > 0).any())
