"""Tolerances: right losses pass in each arithmetic, mutants of all methods fail in every dtype.

Run: python -m pytest tests/oracle/test_tolerance.py
"""

from pathlib import Path

import numpy as np
import pytest

from clear_ref.methods import METHODS
from clear_ref.oracle.reference import cases, formulas
from clear_ref.oracle.vectors import conform, conform_text, hypotheses

GOLDEN = Path(__file__).parents[1] / "vectors" / "golden"
WITH_KL = {"kl", "scrub", "llmu", "sku"}
DTYPES = ("float64", "float32", "bfloat16")


def conform_result(name, **settings):
    return conform.run(conform.ConformSettings(impl=name, vectors=str(GOLDEN), **settings))


@pytest.fixture
def semantics_and_peers_alone(monkeypatch):
    """Only other semantics and peers, which make a case acceptable, are tried as its cause.

    The search for mistakes and pairs takes 19 parts of 20 of the time and changes no verdict; what
    it names is tested in test_causes.py.
    """
    for search in ("mistakes", "pairs", "mistakes_in_other_semantics"):
        monkeypatch.setattr(hypotheses, search, lambda asked: [])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "mutant, methods",
    [("times_1_01", set(METHODS)), ("kl_swapped", WITH_KL), ("other_mean", set(METHODS))],
)
def test_a_small_mutant_of_each_method_fails_in_every_dtype(
    mutant, methods, dtype, semantics_and_peers_alone
):
    result = conform_result(
        f"tests.implementations.mutants:{mutant}",
        dtype=dtype,
        methods=",".join(sorted(methods)),
        shapes="plain",
    )
    right = [case["id"] for case in result["cases"] if case["verdict"] != "fail"]
    assert not right, right


@pytest.mark.slow
@pytest.mark.parametrize("mutant, methods", [("kl_swapped", WITH_KL), ("other_mean", set(METHODS))])
def test_a_mutant_that_computes_in_bfloat16_fails_too(mutant, methods, semantics_and_peers_alone):
    result = conform_result(
        f"tests.implementations.mutants:{mutant}_in_bfloat16",
        dtype="bfloat16",
        arithmetic="bfloat16",
        methods=",".join(sorted(methods)),
        shapes="plain",
    )
    assert {summary["fail"] > 0 for summary in result["methods"].values()} == {True}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_rounded_to_the_dtype_passes(dtype):
    result = conform_result("tests.implementations.mutants:right", dtype=dtype, semantics="all")
    assert {case["verdict"] for case in result["cases"]} == {"pass"}


@pytest.mark.slow
def test_torch_code_in_bfloat16_passes_where_it_declares_bfloat16_and_is_told_so_elsewhere():
    name = "tests.implementations.formulas:loss"
    settings = {"semantics": "original", "dtype": "bfloat16", "methods": "grad_diff,npo,scrub"}
    assert conform_result(name, arithmetic="bfloat16", **settings)["passed"]
    undeclared = conform_result(name, **settings)
    assert not undeclared["passed"]
    assert "--arithmetic bfloat16 accepts it" in conform_text.text(undeclared)


@pytest.mark.parametrize("method", ["kl", "npo"])
def test_float32_code_with_float64_inputs_is_right_to_float32_and_told_so(method):
    result = conform_result("tests.implementations.float32_inside:loss", methods=method)
    assert {case["verdict"] for case in result["cases"]} == {"pass"}
    assert "float32" in {case["arithmetic"] for case in result["cases"]}
    assert "right to the rounding of: float32" in conform_text.text(result)


def test_the_bound_of_one_nll_is_the_one_derived_by_hand():
    """One label in a row of logits z: lse and log p at their sizes, 2 for exp and the sum, a mean.

    The gradient at entry v: p times the error of log p_v, and two roundings of the product.
    """
    z = np.array([[[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]])
    batch = {
        "labels": np.array([[-100, 1]]),
        "attention_mask": np.ones((1, 2), np.int64),
        "logits": z,
    }
    result = formulas.reference_loss("retain_ft", "paper", {}, {"retain": batch})
    lse = np.log(np.exp(z[0, 0]).sum())
    log_p = z[0, 0] - lse
    error = abs(lse) + abs(log_p) + 2
    found = result.roundings()
    assert found.loss == pytest.approx(error[1] + 2 * abs(log_p[1]), rel=1e-12)
    gradient = np.exp(log_p) - np.array([0, 1, 0])
    expected = np.exp(log_p) * error + 2 * abs(gradient)
    assert found.gradients["retain"][0, 0] == pytest.approx(expected, rel=1e-12)
    assert not found.gradients["retain"][0, 1].any()


@pytest.mark.slow
def test_bounds_of_ordinary_cases_are_some_hundred_roundings():
    """So a bound in float32 is below 1e-4 of the loss, the smallest error of a stored mistake."""
    for case in cases.cases():
        if case.shape not in ("plain", "near") or "@" in case.semantics:
            continue
        result = formulas.reference_loss(case.method, case.semantics, case.options, case.batches)
        if np.isfinite(result.loss):
            assert 4 * 2.0**-24 * result.roundings().loss < 1e-4 * result.scale, case.id
