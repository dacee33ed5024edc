"""Ours against the authors' own code: losses, named terms and gradients in vectors/authors.json.

The values were computed once by their code. The file says for each case which repository, commit
and lines ran, what replaced the rest of their program, and the seed of the inputs
(tests/helpers/authors_inputs.py). None of their code is kept.
Run: python -m pytest tests/methods/test_authors.py
"""

from types import SimpleNamespace

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.loop.norms import Norms
from clear_ref.losses.implementation import choose_implementation
from clear_ref.methods import LOSSES, make_options, method_loss, needs, sku, variant
from clear_ref.methods.formula_table import evidence
from tests.helpers.authors_inputs import FOUND, inputs

CASES = {case["id"]: case for case in FOUND["cases"] if "meaning" not in case}
FLOORED = {
    "llmu-official-retain",
    "sku-official-retain",
}  # their log(p + 1e-12): 1e-12 / p of the smallest p, here above 1e-4


def ours(case, dtype):
    """(loss or named term, size of its largest term, {batch: gradient}) of our variant."""
    options = make_options(case["method"], case["options"], case["semantics"])
    read = needs(case["method"], case["semantics"], options)
    if "phase" in case:
        read = case["layouts"]
    given = {name: batch for name, batch in inputs(case, dtype).items() if name in read}
    loss = method_loss(
        case["method"], given, case["semantics"], phase=case.get("phase"), **case["options"]
    )
    value = loss.terms[case["term"]] if "term" in case else loss.value
    value.backward()
    size = max(abs(float(term.detach())) for term in loss.terms.values())
    return (
        value.item(),
        size,
        {name: getattr(batch, case["tensor"]).grad for name, batch in given.items()},
    )


def compare(case, dtype, relative):
    value, _, gradients = ours(case, dtype)
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
    PyTorch sums in fp32, and its KL is up to 2e-6 off. The error is relative to the largest term,
    or to 1 if that is smaller: terms may cancel. A gradient entry is a difference of two
    probabilities, so its error is relative to the largest entry of its batch.
    """
    value, size, gradients = ours(case, torch.float32)
    relative = 1e-6 if choose_implementation() == "native" else 3e-6
    assert value == pytest.approx(case["scale"] * case["loss"], abs=relative * max(size, 1))
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

    A name of the released code that a method does not define is its `released`.
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


def test_the_evidence_says_where_it_is_less_than_unequal_lengths_unscaled_to_1e_12():
    """The terms of the README, against what ran. A weight of a term is no scaling."""
    checked = set()
    for case in FOUND["cases"]:
        text = evidence(LOSSES[case["method"]])[case["semantics"].split("@")[0]]
        if "meaning" in case:
            assert case["meaning"] in text, case["id"]
            continue
        if case["id"] in FLOORED:
            assert "1e-9" in text
            checked.add("floor")
        for layout in case["layouts"].values():
            if len({row.count("a") for row in layout}) == 1:
                assert "equal lengths" in text, case["id"]
                checked.add("lengths")
        weights = {"forget_nll": 0.5, "random_nll": 1.0}
        if case["scale"] != weights.get(case.get("term"), 1.0):
            assert "times (m + 1) / m" in text, case["id"]
            checked.add("scale")
    assert checked == {"floor", "lengths", "scale"}


def test_the_text_only_trainer_takes_its_batches_in_another_order_than_its_data_set_gives_them():
    """What the places held in the authors' run, beside the batches that our variants read."""
    places = FOUND["data"]["text_only"]["places"]
    kinds = {"no": "idk", "fa": "forget", "ra": "retain"}
    held = {
        name: {place: {kinds[words[:2]] for words in texts} for place, texts in found.items()}
        for name, found in places.items()
    }
    swapped = {"forget": {"idk"}, "retain": {"forget"}, "idk": {"retain"}}
    assert held["dpo, LLMU"] == swapped
    assert held["idk"] == {"forget": {"idk"}, "retain": {"retain"}}
    assert held["other losses"] == {"forget": {"forget"}, "retain": {"retain"}}
    for found in places.values():  # a refusal has no line end, and an answer ends with EOS
        assert all(words.endswith(" EOS") for texts in found.values() for words in texts)
    read = {
        method: set(needs(method, "released@nlp", make_options(method, {}, "released@nlp")))
        for method in ("dpo", "llmu", "idk")
    }
    assert read == {
        "dpo": {"retain"},
        "llmu": {"idk", "forget", "retain"},
        "idk": {"idk", "retain"},
    }
