"""Causes: conform names what explains every failed case, pairs and other projects' meanings too.

Run: python -m pytest tests/oracle/test_causes.py
"""

import random
from pathlib import Path

import numpy as np
import pytest

from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.mistakes.peers import PEERS
from clear_ref.oracle.mistakes.projects import ENTRIES
from clear_ref.oracle.reference import cases, formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.inputs import inputs
from clear_ref.oracle.reference.roundings import Roundings
from clear_ref.oracle.vectors import causes, conform, conform_text
from clear_ref.oracle.vectors.agreement import Judge
from clear_ref.oracle.vectors.judged_function import Answer
from tests.implementations import composed

GOLDEN = Path(__file__).parents[1] / "vectors" / "golden"


def conform_result(name, all_batches=False, **settings):
    asked = conform.ConformSettings(
        impl=f"tests.implementations.{name}", vectors=str(GOLDEN), **settings
    )
    return conform.run(asked, all_batches=all_batches)


def causes_of(result):
    return {case["cause"] for case in result["cases"] if case["cause"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, method, semantics, verdict, cause",
    [
        ("negative", "kl", "paper", "fail", "the loss times -1"),
        ("quarter", "grad_ascent", "paper", "fail", "the loss times 1/k, k = 4"),
        ("prompt_and_image", "grad_ascent", "paper", "fail", "image_tokens_counted and prompt_cou"),
        ("npo_without_two_over_beta", "npo", "paper", "fail", "the loss times beta/2"),
        (
            "npo_without_two_over_beta",
            "npo",
            "original",
            "fail",
            "the loss times beta/2, the option retain ignored",
        ),
        (
            "kl_divided_by_sequences",
            "kl",
            "paper",
            "fail",
            "batchmean_over_batch in released semantics",
        ),
        ("dpo_two_over_beta", "dpo", "original", "acceptable", "dpo_two_over_beta"),
        ("npo_batch_mean", "npo", "paper", "acceptable", "npo_batch_mean"),
        ("npo_raw_logits", "npo", "paper", "acceptable", "npo_raw_logits"),
        ("kl_token_mean", "kl", "paper", "acceptable", "kl_answer_token_mean"),
        (
            "kl_six_times",
            "kl",
            "paper",
            "fail",
            "-1 forget nll +1 retain nll +6 retain KL(teacher || student)",
        ),
    ],
)
def test_torch_code_gets_one_cause_for_all_of_its_cases(name, method, semantics, verdict, cause):
    result = conform_result(f"composed:{name}", methods=method, semantics=semantics)
    named = causes_of(result)
    assert len(named) == 1 and next(iter(named)).startswith(cause), named
    verdicts = {case["verdict"] for case in result["cases"] if case["cause"]}
    assert verdicts == {verdict}
    assert "no known mistake" not in conform_text.text(result)


@pytest.mark.parametrize("method, semantics", [("idk", "paper"), ("llmu", "paper")])
def test_torch_code_that_trains_on_forget_answers_for_idk_is_named_by_its_gradients(
    method, semantics
):
    """Its gradients are on forget and not on idk, so the mistake's must be there, too."""
    settings = {"methods": method, "semantics": semantics, "shapes": "plain,left,near"}
    result = conform_result("composed:idk_is_forget", True, **settings)
    assert len(result["cases"]) >= 3
    for case in result["cases"]:
        assert case["verdict"] == "fail" and case["cause"] == "idk_is_forget", case


def test_the_gradient_of_idk_is_forget_belongs_to_the_forget_batch():
    """idk (paper) has the token mean of the nll: (softmax - one-hot) / m at m answer rows."""
    case = next(one for one in cases.cases() if one.id == "idk/paper/plain")
    batches = {name: dict(batch) for name, batch in inputs("plain").items()}
    result = ENTRIES["idk_is_forget"].compute("idk", "paper", case.options, batches)
    forget = batches["forget"]
    expected = np.zeros_like(forget["logits"])
    b, t = np.nonzero(forget["labels"][:, 1:] >= 0)
    e = np.exp(forget["logits"][b, t])
    expected[b, t] = e / e.sum(-1, keepdims=True)
    expected[b, t, forget["labels"][b, t + 1]] -= 1
    expected /= len(b)
    assert np.abs(expected).max() > 0.05
    assert result.gradients["forget"] == pytest.approx(expected, abs=1e-14)
    assert not result.gradients["idk"].any() and result.gradients["retain"].any()


def test_what_nothing_explains_is_told_by_the_first_place_that_differs():
    result = conform_result(
        "composed:first_sequence_only", methods="grad_ascent", only="grad_ascent/paper/plain"
    )
    assert causes_of(result) == {
        "the loss is off; the gradient of forget differs first at sequence 0, position 3 "
        "(answer row), in all columns; in all in 6 of 6 answer rows"
    }


def test_a_mistake_that_one_case_contradicts_is_not_named():
    """padding_counted on the shape plain alone; right elsewhere, though it would act on `left`."""
    alone = conform_result("composed:padding_on_plain", methods="grad_ascent", shapes="plain")
    assert causes_of(alone) == {"padding_counted"}
    both = conform_result("composed:padding_on_plain", methods="grad_ascent", shapes="plain,left")
    assert both["counts"]["pass"] == 1 and both["counts"]["fail"] == 1
    assert {case["cause_kind"] for case in both["cases"] if case["cause"]} == {"place"}


@pytest.mark.slow
def test_seeded_pairs_of_known_mistakes_are_named_and_none_is_named_falsely():
    """A name is right if it is the pair, or one of the two where the other changes nothing."""
    draws = random.Random(16)
    methods = ("grad_ascent", "kl", "npo", "llmu")
    n_named = n_judged = 0
    for _ in range(15):
        method = draws.choice(methods)
        known = [m for m in MISTAKES if method in m.methods and "paper" in m.semantics]
        first, second = draws.sample(known, 2)
        if first.compute.and_(second.compute) is None:
            continue
        composed.PAIR[:] = [first.name, second.name]
        result = conform_result(
            "composed:pair", True, methods=method, shapes="plain,single,near,ignored"
        )
        for case in result["cases"]:
            if not case["cause"] or case["loss"] is None:
                continue
            n_judged += 1
            names = [case["cause"], *case["same_numbers"]]
            pair = " and ".join(sorted(composed.PAIR))
            right = any(name in (pair, first.name, second.name) for name in names)
            n_named += right
            assert right or case["cause_kind"] != "mistake", (composed.PAIR, case)
    assert n_judged > 25 and n_named >= 0.95 * n_judged, (n_named, n_judged)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_the_gradient_of_each_peer_is_the_derivative_of_its_loss(peer):
    """Central differences in float64 at some entries; each peer differs from every semantics."""
    method = "kl" if "kl" in peer.methods else peer.methods[0]
    semantics = "original" if method in ("llmu", "sku") else "paper"  # their random batches
    wanted = (method, semantics, "plain")
    case = next(one for one in cases.cases() if (one.method, one.semantics, one.shape) == wanted)
    tensor = "hidden" if method == "rmu" else "logits"
    batches = {name: dict(batch) for name, batch in inputs("plain").items()}
    if peer.name == "probability_floor":  # 1e-12 counts beside probabilities around e^-30
        batches["retain"]["teacher_logits"] = 10 * batches["retain"]["teacher_logits"]
    batches["forget"] = {**batches["forget"], **case.batches.get("forget", {})}
    if method == "rmu":
        for batch in batches.values():
            batch.pop("logits", None)
            batch.pop("teacher_logits", None)
        batches = {name: batches[name] for name in ("forget", "retain")}
    options = case.options
    result = peer.compute(method, case.semantics, options, batches)
    right = formulas.reference_loss(method, case.semantics, options, batches)
    assert abs(result.loss - right.loss) > 1e-4 * right.scale
    draws = random.Random(1)
    for name, gradient in result.gradients.items():
        for _ in range(3):
            place = tuple(draws.randrange(size) for size in gradient.shape)
            losses = []
            for step in (1e-5, -1e-5):
                moved = batches[name][tensor].copy()
                moved[place] += step
                changed = {**batches, name: {**batches[name], tensor: moved}}
                losses.append(peer.compute(method, case.semantics, options, changed).loss)
            slope = (losses[0] - losses[1]) / 2e-5
            size = max(1.0, float(np.abs(gradient).max()))
            assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-6 * size), (name, place)


def test_a_hypothesis_that_reads_a_batch_of_another_length_is_contradicted():
    """It acts, even with the same loss, and no answer agrees with it; both were a traceback."""
    right, other = (
        LossResult(1.0, {}, {"idk": np.zeros((1, t, 2))}, 1.0, 1.0, lambda: Roundings(0.0, {}, {}))
        for t in (3, 2)
    )
    assert causes._acts(other, right)
    answer = Answer(1.0, {"idk": np.zeros((1, 3, 2))}, "float64", "float64")
    assert not Judge(other, "float64").gradients_agree(answer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, chosen, dtype",
    [
        ("npo_other", {"only": "npo/paper/plain,npo/paper/left"}, "float64"),
        ("npo_other_bfloat16", {"only": "npo/paper/plain,npo/paper/left"}, "bfloat16"),
    ],
)
def test_no_cause_is_named_from_fewer_losses_than_it_could_be_fitted_to(name, chosen, dtype):
    """A margin and a factor were fitted to one loss; in bfloat16 six names gave it by chance."""
    result = conform_result(f"composed:{name}", methods="npo", dtype=dtype, **chosen)
    assert {case["cause_kind"] for case in result["cases"]} == {"place"}
    assert not result["passed"]


def test_a_factor_is_named_from_two_different_losses():
    result = conform_result(
        "composed:quarter_number", methods="grad_ascent", only="*/plain,*/single"
    )
    assert causes_of(result) == {"the loss times 1/k, k = 4"}


def test_a_fit_in_bfloat16_has_no_terms_of_noise():
    """It had six more terms, with coefficients of 0.002 to 0.01."""
    result = conform_result(
        "composed:sequence_means",
        methods="grad_ascent",
        only="grad_ascent/paper/plain",
        dtype="bfloat16",
    )
    assert causes_of(result) == {"about -1 forget nll (mean of sequence means)"}


@pytest.mark.slow
def test_a_temperature_that_saturated_logits_hide_is_no_pair_of_mistakes():
    """One case with large logits, where every probability is 0 or 1: two mistakes gave its loss."""
    result = conform_result("composed:kl_at_temperature_2", methods="kl", only="kl/paper/large")
    assert causes_of(result) == {"the loss is off, the gradient is right"}
    (case,) = result["cases"]  # its loss is 2.6 times too large, and bfloat16 would accept that
    assert case["reason"] is None or "agrees within" not in case["reason"]


def test_an_error_below_every_normal_float32_number_is_0():
    """A gradient of 1e-45 for one of 1e-167 was printed as an error of 5e+122 of a passing case."""
    result = conform_result("composed:ceu_masked", methods="ceu")
    assert result["passed"]
    assert max(case["gradient_error"] for case in result["cases"]) < 1e-4
