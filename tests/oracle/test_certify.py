"""certify: every claim holds, none is left out, and a wrong formula is caught.

Run: python -m pytest tests/oracle/test_certify.py
"""

import json
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

from clear_ref.losses.reductions import sequence_mean, token_mean
from clear_ref.methods import LOSSES, Loss, kl, npo, scrub, wga
from clear_ref.oracle.certify import (
    certificates,
    claims,
    claims_sequence,
    laws,
    random_trials,
    routes,
)
from clear_ref.oracle.certify.measured import Measured, claim_of
from clear_ref.run import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table():
    return certificates.certify()


def test_every_claim_holds_within_two_minutes(table):
    assert table["failed"] == 0 and table["claims"] == len(table["rows"]) > 400
    assert table["seconds"] < 240, "two minutes on one free core; a busy one may take twice that"


def test_the_readme_names_the_number_of_claims(table):
    readme = Path(certificates.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert f"measures {table['claims']} claims" in readme


def test_every_variant_is_certified_by_every_route(table):
    every = {
        (method, semantics) for method, module in LOSSES.items() for semantics in module.VARIANTS
    }
    for claim in (routes.REFERENCE, routes.LOGITS, routes.MODEL):
        assert {
            (row["method"], row["semantics"]) for row in table["rows"] if row["claim"] == claim
        } == every, claim


def test_every_variant_has_a_closed_form_of_its_own(table):
    general = {claim_of(law) for law in laws.LAWS}
    general |= {routes.REFERENCE, routes.LOGITS, routes.MODEL}
    own = {
        (row["method"], row["semantics"]) for row in table["rows"] if row["claim"] not in general
    }
    assert own == {
        (method, semantics) for method, module in LOSSES.items() for semantics in module.VARIANTS
    }


def test_every_choice_of_every_option_is_tried():
    tried = random_trials.option_sets("grad_diff", "released")
    wanted = ({}, {"forget": "entropy"}, {"forget": "kl"}, {"retain": "kl"}, {"beta": 2.0})
    assert len(tried) == len(wanted) and all(one in tried for one in wanted)
    assert random_trials.option_sets("npo", "paper") == [{}, {"beta": 2.0}]
    assert {one.get("kl") for one in random_trials.option_sets("llmu", "paper")} == {
        None,
        "teacher_student",
    }


def run_part(monkeypatch, *parts):
    """main's status and the claims that fail, with only these parts measured."""
    monkeypatch.setattr(certificates, "PARTS", parts)
    return certificates.certify()


def failing(found):
    return {
        (row["method"], row["semantics"], row["claim"]) for row in found["rows"] if not row["ok"]
    }


def test_a_kl_of_the_other_direction_fails_against_the_reference_alone(monkeypatch, capsys):
    """At the teacher and under every law a swapped KL looks right: the reference detects it."""

    def swapped(batches, options):
        return Loss.of(
            forget_nll=-token_mean(batches["forget"], "nll"),
            retain_kl=sequence_mean(batches["retain"], "kl_teacher_student"),
        )

    monkeypatch.setitem(kl.VARIANTS, "paper", replace(kl.VARIANTS["paper"], loss=swapped))
    monkeypatch.setattr(
        certificates, "PARTS", (claims.measure, laws.measure, routes.against_reference)
    )
    assert main(["certify", "--json", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert failing(json.loads(shown.out)) == {("kl", "paper", routes.REFERENCE)}
    assert len(shown.err.splitlines()) == 1 and "first kl (paper)" in shown.err


def test_a_forgotten_factor_two_in_npo_fails_its_closed_forms(monkeypatch):
    def half(batches, options):
        return Loss.of(forget_npo=npo.paper(batches, options).value / 2)

    monkeypatch.setitem(npo.VARIANTS, "paper", replace(npo.VARIANTS["paper"], loss=half))
    found = failing(run_part(monkeypatch, claims.measure))
    assert ("npo", "paper", claim_of(claims_sequence.npo_starts_at_log_two)) in found
    assert {(method, semantics) for method, semantics, _ in found} == {("npo", "paper")}


def test_a_gradient_that_is_scaled_fails_the_finite_differences(monkeypatch):
    """The value is right, but the backward pass doubles the gradient of the retain term.

    Only slopes and closed forms of gradients detect this.
    """

    def doubled(batches, options):
        right = scrub.paper(batches, options)
        term = right.terms["retain_nll"]
        return Loss.of(**{**right.terms, "retain_nll": 2 * term - term.detach()})

    monkeypatch.setitem(scrub.VARIANTS, "paper", replace(scrub.VARIANTS["paper"], loss=doubled))
    found = failing(run_part(monkeypatch, routes.through_logits))
    assert found == {("scrub", "paper", routes.LOGITS)}


def test_a_weight_that_is_not_a_constant_fails_wga_by_its_slope(monkeypatch):
    """Without detach the loss and the slope of the loss agree; with the weight held they do not."""

    def attached(batches, options):
        nll = batches["forget"].terms("answer").nll
        return Loss.of(forget_wga=-token_mean(batches["forget"], (-options.beta * nll).exp() * nll))

    monkeypatch.setitem(wga.VARIANTS, "paper", replace(wga.VARIANTS["paper"], loss=attached))
    monkeypatch.setattr(random_trials, "option_sets", lambda method, semantics: [{}])
    monkeypatch.setattr(routes, "every_variant", lambda: [("wga", "paper"), ("wga", "original")])
    found = failing(run_part(monkeypatch, routes.through_logits))
    assert found == {("wga", "paper", routes.LOGITS)}


def test_an_error_that_is_nan_fails():
    measured = Measured("claim", "kl", "paper", 1, float("nan"), 1.0, "reason")
    found = {"rows": [certificates.as_row(measured)], "claims": 1, "failed": 1, "seconds": 0}
    assert not measured.ok and "FAIL" in certificates.text(found)


def test_the_difference_quotient_is_exact_for_a_quartic():
    """(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h of x + 3 x^2 + x^3 + 5 x^4 is 1.

    The rounding error is below 1e-13.
    """
    assert routes.slope(lambda x: x + 3 * x**2 + x**3 + 5 * x**4) == pytest.approx(1.0, abs=1e-12)


def test_npo_at_the_teacher_by_hand():
    """One of the table's numbers without its code: (2 / 0.1) log 2."""
    outputs = random_trials.batches("npo", "paper", {"beta": 0.1}, same=True)
    assert random_trials.value("npo", "paper", {"beta": 0.1}, outputs) == pytest.approx(
        20 * log(2), abs=1e-12
    )
    assert torch.equal(outputs["forget"].logits, outputs["forget"].teacher_logits)
