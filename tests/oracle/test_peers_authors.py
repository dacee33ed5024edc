"""Meanings of other projects against their own code: losses and gradients in vectors/authors.json.

These are the cases with a "meaning": on inputs of unequal lengths, without scaling, their code does
not give our `original`; it gives what oracle/mistakes/peers.py says that it gives.
Run: python -m pytest tests/oracle/test_peers_authors.py
"""

from dataclasses import asdict

import numpy as np
import pytest

from clear_ref.data.draws import uniform_vector
from clear_ref.methods import make_options
from clear_ref.oracle.mistakes.peers import PEERS
from clear_ref.oracle.reference.formulas import reference_loss
from tests.helpers.authors_inputs import FOUND, inputs

PEER = {peer.name: peer for peer in PEERS}
CASES = {case["id"]: case for case in FOUND["cases"] if "meaning" in case}


def arrays(case):
    """{batch: {array name: array}} of a case, as oracle/reference/rows.py has them."""
    found = {}
    for name, outputs in inputs(case).items():
        tensor = case["tensor"]
        names = ("labels", "attention_mask", tensor, f"teacher_{tensor}")
        found[name] = {key: getattr(outputs, key).detach().numpy() for key in names}
        if tensor == "hidden":
            drawn = uniform_vector(0, "rmu control vector", found[name]["hidden"].shape[2])
            found[name]["control"] = (drawn / np.linalg.norm(drawn))[None]
    return found


def error(case, found):
    """The largest difference of a LossResult from scale times theirs, relative to their size."""
    value = found.terms[case["term"]] if "term" in case else found.loss
    errors = [abs(value - case["scale"] * case["loss"]) / abs(case["scale"] * case["loss"])]
    for name, gradient in case["gradients"].items():
        theirs = case["scale"] * np.array(gradient)
        size = np.abs(theirs).max()
        errors.append(np.abs(found.gradients[name].ravel() - theirs).max() / size)
    return max(errors)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_meaning_is_what_their_code_computes_and_our_original_is_not(case):
    """1e-12 in float64; `original` is off by more than a twentieth."""
    given = arrays(case)
    options = asdict(make_options(case["method"], case["options"], case["semantics"]))
    answer = (case["method"], case["semantics"], options, given)
    assert error(case, PEER[case["meaning"]].compute(*answer)) <= 1e-12
    assert error(case, reference_loss(*answer)) > 0.05


def test_each_of_these_meanings_has_a_case():
    meanings = {"dpo_two_over_beta", "divisor_m_plus_1", "rmu_open_unlearning"}
    assert {case["meaning"] for case in CASES.values()} == meanings
