"""Ours against the authors' own code: losses, named terms and gradients in vectors/authors.json.

The values were computed once by their code. The file says for each case which repository, commit
and lines ran, what replaced the rest of their program, and the seed of the inputs
(tests/helpers/authors_inputs.py). None of their code is kept.
Run: python -m pytest tests/methods/test_authors.py
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.loop.norms import Norms
from clear_ref.losses.implementation import choose_implementation
from clear_ref.methods import LOSSES, method_loss, sku, variant
from clear_ref.methods.formula_table import evidence
from tests.helpers.authors_inputs import outputs

FOUND = json.loads(
    (Path(__file__).parents[1] / "vectors" / "authors.json").read_text(encoding="utf-8")
)
CASES = {case["id"]: case for case in FOUND["cases"]}
FLOORED = {
    "llmu-official-retain",
    "sku-official-retain",
}  # their log(p + 1e-12): 1e-12 / p of the smallest p, here above 1e-4


def inputs(case, dtype):
    """{batch: Outputs} of a case, its student tensors leaves."""
    given = {
        name: outputs(case["seeds"][name], layout, dtype=dtype, **case["inputs"])
        for name, layout in case["layouts"].items()
    }
    for name, other in case.get("others", {}).items():
        given[name] = outputs(other["seed"], other["layout"], dtype=dtype)
    for batch in given.values():
        getattr(batch, case["tensor"]).requires_grad_()
    return given


def ours(case, dtype):
    """(loss or named term, {batch: gradient}) of our variant on the case's inputs."""
    given = inputs(case, dtype)
    if case["method"] == "dpo" and case["semantics"].startswith("released"):
        given = {"idk": given["idk"]}
    loss = method_loss(
        case["method"], given, case["semantics"], phase=case.get("phase"), **case["options"]
    )
    value = loss.terms[case["term"]] if "term" in case else loss.value
    value.backward()
    return value.item(), {
        name: getattr(batch, case["tensor"]).grad for name, batch in given.items()
    }


def compare(case, dtype, relative):
    value, gradients = ours(case, dtype)
    scale = case["scale"]
    sizes = [abs(value)] + [float(g.abs().max()) for g in gradients.values() if g is not None]
    assert value == pytest.approx(scale * case["loss"], rel=relative, abs=relative * max(sizes))
    for name, gradient in gradients.items():
        theirs = torch.tensor(case["gradients"].get(name, [0.0]), dtype=torch.float64) * scale
        found = torch.zeros_like(theirs) if gradient is None else gradient.double().flatten()
        largest = max(float(theirs.abs().max()), relative)
        assert float((found - theirs).abs().max()) <= relative * largest, name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_loss_and_gradient_are_the_authors_in_float64(case):
    """Some hundred products and sums of numbers below 1e5 in float64: 1e-12 relative."""
    compare(case, torch.float64, 1e-9 if case["id"] in FLOORED else 1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_loss_and_gradient_are_the_authors_in_fp32(case):
    """The same inputs are exact in fp32; the bounds follow from its rounding.

    The loss has a few roundings of 6e-8 each with the compiled kernel, which sums in double. Plain
    PyTorch sums in fp32, and its KL is up to 2e-6 off. A gradient entry is a difference of two
    probabilities, so its error is relative to the largest entry of its batch.
    """
    value, gradients = ours(case, torch.float32)
    relative = 1e-6 if choose_implementation() == "native" else 3e-6
    assert value == pytest.approx(
        case["scale"] * case["loss"], rel=relative, abs=relative * (abs(case["loss"]) < 1e-2)
    )
    for name, theirs in case["gradients"].items():
        theirs = torch.tensor(theirs, dtype=torch.float64) * case["scale"]
        assert float((gradients[name].double().flatten() - theirs).abs().max()) <= 3e-6 * float(
            theirs.abs().max()
        ), name


def parameters(values, adapted=False):
    shapes = ((2, 2), (2,))
    names = ("lora_A" if adapted else "weight", "bias")
    return {
        name: torch.tensor(value, dtype=torch.float64).reshape(shape).requires_grad_()
        for name, value, shape in zip(names, values, shapes, strict=True)
    }


@pytest.mark.parametrize(
    "case",
    FOUND["regularisation"]["cases"],
    ids=lambda c: f"{c['norm_from']}-{c['lora']}-{c['l1']}-{c['l0']}",
)
def test_weight_regularisation_is_the_authors(case):
    recipe = SimpleNamespace(l1=case["l1"], l0=case["l0"], norm_from=case["norm_from"])
    trained = parameters(FOUND["weights"]["before"], case["lora"])
    if case.get("raises"):
        with pytest.raises(UserError, match="--norm-from zero measures the weights"):
            Norms(trained, recipe, case["lora"])
        return
    norms = Norms(trained, recipe, case["lora"])
    with torch.no_grad():
        after_training = parameters(FOUND["weights"]["after"])
        for tensor, after in zip(trained.values(), after_training.values(), strict=True):
            tensor.copy_(after)
    value, terms = norms.add(0.0, {})
    assert value == pytest.approx(case["loss"], rel=1e-14) == sum(terms.values()) and set(
        terms
    ) == {name for name in ("l1", "l0") if case[name]}
    for tensor, theirs in zip(trained.values(), case["gradients"], strict=True):
        found = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        assert torch.allclose(
            found.flatten(), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-16
        )


def test_the_second_stage_of_sku_is_the_authors():
    before, after = (parameters(FOUND["weights"][name]) for name in ("before", "after"))
    found = sku.negate_delta(before, after)
    assert [tensor.flatten().tolist() for tensor in found.values()] == FOUND["second_stage"]["end"]


def test_the_method_files_claim_authors_code_for_exactly_the_variants_that_ran():
    """`evidence` in a method file against the cases that ran.

    A dated name that a method does not define is its `released`.
    """
    ran = {
        (case["method"], name)
        for case in CASES.values()
        for name, own in LOSSES[case["method"]].VARIANTS.items()
        if own is variant(case["method"], case["semantics"])
    }
    claimed = {
        (method, name)
        for method, module in LOSSES.items()
        for name, text in evidence(module).items()
        if "code" in text
    }
    assert ran == claimed
