"""conform on the losses beside the eleven: torch code passes, and its mistakes are named.

Run: python -m pytest tests/oracle/test_further_conform.py
"""

import pytest

from clear_ref.methods import FURTHER
from clear_ref.oracle.vectors import conform
from tests.helpers.golden_vectors import GOLDEN

EVERY = ",".join(FURTHER)


def conform_result(impl, **settings):
    """The result of conform for a function on the stored vectors."""
    return conform.run(conform.ConformSettings(impl=impl, vectors=str(GOLDEN), **settings), True)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_torch_code_as_open_unlearning_writes_it_passes(dtype):
    name = "tests.implementations.further:loss"
    arithmetic = "" if dtype != "bfloat16" else "bfloat16"
    settings = {"semantics": "original", "methods": EVERY, "arithmetic": arithmetic}
    result = conform_result(name, dtype=dtype, **settings)
    assert {case["verdict"] for case in result["cases"]} == {"pass"}
    assert {case["method"] for case in result["cases"]} == set(FURTHER)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_package_itself_passes_in_both_meanings(dtype):
    result = conform_result(
        "tests.implementations.ours:loss", dtype=dtype, semantics="all", methods=EVERY
    )
    assert {case["verdict"] for case in result["cases"]} == {"pass"}


@pytest.mark.parametrize(
    "name, method, semantics, cause",
    [
        ("answer_rows_only", "undial", "original", "paper semantics"),
        ("all_rows_counted", "undial", "paper", "ignored_rows_counted"),
        ("mean_inside", "simnpo", "original", "mean_inside_nonlinearity"),
        ("unshifted", "wga", "original", "shift_off_by_one"),
        ("unshifted", "satimp", "original", "shift_off_by_one"),
    ],
)
def test_a_mistake_is_named(name, method, semantics, cause):
    """On two shapes, so that no factor explains it; options as the defaults have them."""
    result = conform_result(
        f"tests.implementations.further:{name}",
        methods=method,
        semantics=semantics,
        only=f"{method}/{semantics}/plain,{method}/{semantics}/unlikely",
    )
    failed = [case for case in result["cases"] if case["verdict"] == "fail"]
    assert failed
    for case in failed:
        assert cause in (case["cause"], *case["same_numbers"]), case


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_each_of_them_times_1_01_fails_in_every_dtype(dtype, monkeypatch):
    """Causes, which change no verdict with strict, are not searched for."""
    monkeypatch.setattr(conform, "explain", lambda verdicts, judged, strict: None)
    result = conform_result(
        "tests.implementations.mutants:times_1_01",
        methods=EVERY,
        semantics="all",
        dtype=dtype,
        shapes="plain",
    )
    assert {case["verdict"] for case in result["cases"]} == {"fail"}
