"""The numpy reference: its gradients are derivatives, its values are right by hand, its sums exact.

Run: python -m pytest tests/oracle/test_reference.py
"""

import re
from math import log

import numpy as np
import pytest

from clear_ref.data.draws import uniform_vector
from clear_ref.oracle.reference import exact, formulas
from clear_ref.oracle.reference.arithmetic import Sheet
from clear_ref.oracle.reference.cases import NEAR
from clear_ref.oracle.reference.rows import IGNORE
from tests.helpers.golden_vectors import RIGHT, ROOT, STORED, VARIANTS


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", VARIANTS)
def test_stored_gradients_are_the_derivatives_of_the_reference(method, semantics):
    """Along two random directions, by the five-point rule.

    Its error is h^4 f(5) / 30 ~ 1e-11 at h = 1e-3, and rounding / h ~ 1e-13, both of numbers of
    size `scale`.
    """
    shapes = ("near",) if (method, semantics) in NEAR else ("single", "plain")
    entries = [
        e
        for e in RIGHT
        if (e["method"], e["semantics"]) == (method, semantics) and e["shape"] in shapes
    ]
    assert entries
    for entry in entries:
        gradients = STORED.gradients(entry)
        for seed in range(2):
            directions = {}
            for name, gradient in gradients.items():
                uniform = uniform_vector(seed, f"{entry['id']}/{name}", gradient.size)
                directions[name] = 2 * uniform.reshape(gradient.shape) - 1
            expected = sum(
                (gradient * directions[name]).sum() for name, gradient in gradients.items()
            )
            error = abs(derivative(entry, directions) - expected)
            assert error <= 1e-9 * max(entry["scale"], 1.0), entry["id"]


def derivative(entry, directions, h=1e-3):
    """The derivative of a case's loss along the directions, by the five-point rule.

    Factors and targets that get no gradient are those of the case itself.
    """
    formula = formulas.formula(entry["method"], entry["semantics"])

    def loss_at(distance):
        moved = {}
        for name, batch in STORED.batches(entry).items():
            student = "hidden" if "hidden" in batch else "logits"
            moved[name] = {**batch, student: batch[student] + distance * directions[name]}
        sheet = Sheet(moved)
        sheet.constants = Sheet(STORED.batches(entry))
        return sum(term.value for term in formula(sheet, entry["options"]).values())

    outer = loss_at(2 * h) - loss_at(-2 * h)
    return (8 * (loss_at(h) - loss_at(-h)) - outer) / (12 * h)


def test_losses_and_a_kl_equal_values_worked_out_by_hand():
    """Vocabulary {0, 1}; p of the answer tokens 1/2, 1/4 | 1/16, the teacher's 1/4, 1/4 | 1/8.

    nll 1, 2 | 4 times log 2: the token mean is 7/3 log 2. The log-ratios of whole answers are
    +log 2 | -log 2, so NPO with beta 1 is log 3 + log 3/2 = log 9/2. KL(1/4 || 1/2) is
    3/4 log 3 - log 2, KL(1/8 || 1/16) is log 2 / 8 + 7/8 log 14/15.
    """
    labels = np.array([[IGNORE, 0, 0], [IGNORE, 0, IGNORE]])

    def logits(*rows):
        return np.array([[[log(p), log(1 - p)] for p in row] for row in rows])

    forget = {
        "labels": labels,
        "attention_mask": np.ones_like(labels),
        "logits": logits([1 / 2, 1 / 4, 0.9], [1 / 16, 0.3, 0.2]),
        "teacher_logits": logits([1 / 4, 1 / 4, 0.6], [1 / 8, 0.7, 0.5]),
    }
    assert formulas.reference_loss(
        "grad_ascent", "paper", {}, {"forget": forget}
    ).loss == pytest.approx(-7 / 3 * log(2), abs=1e-15)
    assert formulas.reference_loss(
        "npo", "paper", {"beta": 1.0}, {"forget": forget}
    ).loss == pytest.approx(log(9 / 2), abs=1e-15)
    kl = Sheet({"forget": forget}).sequence_mean("forget", "kl_teacher_student").value
    assert kl == pytest.approx(
        ((3 / 4 * log(3) - log(2)) / 2 + log(2) / 8 + 7 / 8 * log(14 / 15)) / 2, abs=1e-15
    )


def test_exp_log_and_sums_are_rounded_correctly():
    """e and log 2 to the last bit, the limits, a sum that plain addition rounds; numpy to 1e-15."""
    assert exact.exp(1.0) == float.fromhex("0x1.5bf0a8b145769p+1") and exact.log(
        2.0
    ) == float.fromhex("0x1.62e42fefa39efp-1")
    assert (
        exact.exp(-1000.0) == 0
        and exact.log(0.0) == -np.inf
        and np.isnan(exact.log(-1.0))
        and np.isnan(exact.exp(np.nan))
    )
    assert exact.log1p(1e-300) == 1e-300
    assert exact.log1p(1e-15) == 9.999999999999995e-16  # 1e-15 - 5e-31
    assert exact.add([1e16, 1.0, -1e16]) == 1.0
    x = 40 * (uniform_vector(0, "exact", 1000) - 0.5)
    assert (
        np.abs(exact.exp(x) / np.exp(x) - 1).max() < 1e-15
        and np.abs(exact.log(exact.exp(x)) - x).max() < 1e-14
    )


def test_the_arithmetic_of_the_reference_imports_no_losses_and_no_methods():
    """These modules of the reference import no losses, no method files and no torch."""
    for name in ("arithmetic", "exact", "formulas", "rows", "sums", "token_columns"):
        text = (ROOT / "clear_ref" / "oracle" / "reference" / f"{name}.py").read_text(
            encoding="utf-8"
        )
        assert not re.search(r"^(from|import) .*(losses|methods|torch)", text, re.M), name
