"""Golden vectors: the package gives every right loss, term, gradient and token term.

The right numbers come from clear_ref/oracle/reference, which shares no line with losses/ and
methods/. Here they are compared with the package's losses and its autograd.

Run: python -m pytest tests/oracle/test_vectors.py
"""

import numpy as np
import pytest
import torch

from clear_ref.losses import token_terms
from clear_ref.methods import LOSSES
from clear_ref.oracle.reference import cases, formulas, shapes
from clear_ref.oracle.reference.rows import IGNORE
from clear_ref.oracle.vectors import golden
from tests.helpers.golden_vectors import RIGHT, STORED, VARIANTS, largest_logit, package_loss

# Of the terms' sizes: float64 rounding, 2e-16, of some thousand additions.
FLOAT64 = 1e-12
# Eight roundings; each log-probability is also rounded at the size of the largest logit
# (clear_ref/oracle/vectors/verdict.py).
FLOAT32 = 2.0**-21
# The smallest normal number of float32: a weight of 1e-220 is 0 in it.
SMALLEST = 2.0**-126


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", VARIANTS)
def test_the_package_gives_every_right_loss_term_and_gradient_in_float64(method, semantics):
    entries = [
        entry for entry in RIGHT if (entry["method"], entry["semantics"]) == (method, semantics)
    ]
    assert entries
    for entry in entries:
        loss, gradients = package_loss(entry)
        large = 0
        if "large_logits" in entry["flags"]:  # log-ratios are rounded at 10^4
            large = largest_logit(entry) * entry["weight"]
        allowed = FLOAT64 * (entry["scale"] + large)
        assert abs(loss.value.item() - entry["loss"]) <= allowed, entry["id"]
        terms = {name: term.item() for name, term in loss.terms.items()}
        assert terms == pytest.approx(entry["terms"], rel=0, abs=allowed), entry["id"]
        expected = STORED.gradients(entry)
        size = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in gradients.items():
            # CE-U's gradient is a difference of probabilities, however small it is.
            least = entry["weight"] if method == "ceu" else 0
            assert np.abs(gradient.numpy() - expected[name]).max() <= FLOAT64 * (size + least), (
                entry["id"],
                name,
            )


@pytest.mark.slow
@pytest.mark.parametrize("shape", shapes.FULL[len(shapes.COMPACT) :])
def test_the_package_agrees_on_the_larger_shapes_that_only_the_command_writes(shape):
    asked = [case for case in cases.cases(full=True) if case.shape == shape]
    assert len(asked) == len(VARIANTS)
    for case in asked:
        result = formulas.reference_loss(case.method, case.semantics, case.options, case.batches)
        if not np.isfinite(result.loss):
            continue
        entry = {"method": case.method, "semantics": case.semantics, "options": case.options}
        loss, gradients = package_loss(entry, batches=case.batches)
        large = result.weight * 1e4 if "large_logits" in case.flags else 0  # as above
        assert abs(loss.value.item() - result.loss) <= FLOAT64 * (result.scale + large), case.id
        size = max(np.abs(gradient).max() for gradient in result.gradients.values())
        assert all(
            np.abs(gradients[name].numpy() - expected).max() <= FLOAT64 * (size + large)
            for name, expected in result.gradients.items()
        ), case.id


@pytest.mark.slow
@pytest.mark.parametrize("method", LOSSES)
def test_the_package_gives_every_right_loss_and_gradient_in_fp32(method):
    for entry in (entry for entry in RIGHT if entry["method"] == method):
        loss, gradients = package_loss(entry, torch.float32)
        logits = largest_logit(entry) * entry["weight"]
        error = abs(loss.value.item() - entry["loss"])
        allowed = FLOAT32 * (entry["scale"] + logits) + SMALLEST
        assert error <= allowed, entry["id"]
        expected = STORED.gradients(entry)
        size = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in gradients.items():
            error = np.abs(gradient.double().numpy() - expected[name]).max()
            assert error <= FLOAT32 * (size + logits) + SMALLEST, (entry["id"], name)


def test_fp32_is_held_to_1e_6_where_logits_are_ordinary():
    """The tolerance above grows with the logits. Here |logits| < 3, semantics `paper`."""
    ordinary = [
        entry
        for entry in RIGHT
        if entry["shape"] in ("plain", "left", "near") and entry["method"] != "rmu"
    ]
    for entry in (entry for entry in ordinary if entry["semantics"] == "paper"):
        loss, _ = package_loss(entry, torch.float32)
        assert abs(loss.value.item() - entry["loss"]) <= 1e-6 * entry["scale"], entry["id"]


@pytest.mark.parametrize("shape", shapes.COMPACT)
def test_the_package_gives_every_token_term(shape):
    for batch in ("forget", "retain", "idk", "random1"):
        start = f"{shape}/{batch}/"
        stored = {
            key[len(start) :]: array
            for key, array in STORED.arrays["inputs"].items()
            if key.startswith(start)
        }
        labels = np.full_like(stored["labels"], IGNORE)
        labels[:, :-1] = stored["labels"][:, 1:]
        flat = [
            torch.from_numpy(stored[name]).flatten(0, 1) for name in ("logits", "teacher_logits")
        ]
        terms = token_terms(flat[0], torch.from_numpy(labels).flatten(), flat[1])
        for column in golden.TERM_COLUMNS:
            expected = stored[f"terms/{column}"].ravel()
            allowed = FLOAT64 * (1 + np.abs(stored["logits"]).max())
            error = np.abs(getattr(terms, column).numpy() - expected).max()
            assert error <= allowed, (shape, batch, column)
