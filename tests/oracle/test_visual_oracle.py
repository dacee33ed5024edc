"""The oracle of the visual methods: the numpy reference agrees with values by hand, stored vectors
are what the command writes, right code passes conform, each known mistake is named, and every claim
of certify holds and can fail.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from clear_ref import run
from clear_ref.commands.visual_oracle_settings import ACTIONS
from clear_ref.common.errors import UserError
from clear_ref.oracle.certify.certificates import check
from clear_ref.oracle.visual import certify, conform, golden, tape
from clear_ref.oracle.visual.cases import SHAPES, all_cases, inputs_of
from clear_ref.oracle.visual.mistakes import MISTAKES, mistakes_of
from clear_ref.oracle.visual.reference import (
    METHODS,
    Given,
    gradients_of,
    rules_of,
    terms_of,
)
from clear_ref.visual.methods import table

STORED = Path(__file__).parents[1] / "vectors" / "visual_golden"
OURS = "tests.implementations.visual_ours:loss"


def batch(embeddings, labels, targets):
    """The arrays of a batch; the random people are class 1."""
    return {
        "embeddings": np.array(embeddings, float),
        "labels": np.array(labels),
        "targets": np.array(targets, float),
        "forget": np.array([False] * len(labels)),
        "random": np.array([1] * len(labels)),
    }


def test_the_reference_gives_values_by_hand():
    """W = (1, 0), (0, 1) and e = (1, 0): logits 30 and 0, with the margin 18 and 0, so AM-softmax
    is log(1 + exp(-18)). From softmax (1/2, 1/2) to (1/4, 3/4) KL is ln(4/3) / 2.
    """
    eye = np.eye(2)
    retain = batch([[1, 0]], [0], [[1, 0]])
    given = Given({"retain": retain}, eye, eye, (np.array([1.0, -2.0, 0.0]),), 0.5)
    am = math.log1p(math.exp(-18))
    assert terms_of("retain_ft", "paper", given, {})["retain_am"] == pytest.approx(am, rel=1e-9)
    found = terms_of("sparsity", "original", given, {"alpha": 0.2})
    assert found["l1"] == pytest.approx(0.2 * 0.5 * 3)
    gradient = gradients_of("sparsity", "original", given, {"alpha": 0.2})["parameter0"]
    assert gradient.tolist() == pytest.approx([0.1, -0.1, 0])
    coordinates = batch([[0, math.log(3)]], [0], [[0, 0]])
    given = Given({"retain": coordinates, "forget": coordinates}, eye, eye, ())
    found = terms_of("scrub", "released", given, {})
    assert found["retain_kl"] == pytest.approx(math.log(4 / 3) / 2, rel=1e-12)
    assert found["forget_kl"] == pytest.approx(-math.log(4 / 3) / 2, rel=1e-12)


def test_the_gradient_is_the_slope_of_a_difference():
    case = next(each for each in all_cases() if each.id == "scrub/paper/plain")
    given = inputs_of(case)
    found = gradients_of("scrub", "paper", given, case.options)["weight"]
    ends = []
    for sign in (1, -1):
        weight = given.weight.copy()
        weight[1, 2] += sign * 1e-6
        moved = dataclasses.replace(given, weight=weight)
        ends.append(sum(terms_of("scrub", "paper", moved, case.options).values()))
    assert found[1, 2] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_the_stored_vectors_are_what_the_command_writes(tmp_path, capsys):
    assert run.main(["visual-oracle", "vectors", "--out", str(tmp_path / "made")]) == 0
    assert "visual golden vectors 1.0.1: 116 right" in capsys.readouterr().out
    for name in (golden.CASES, golden.ARRAYS):
        assert (tmp_path / "made" / name).read_bytes() == (STORED / name).read_bytes(), name


@pytest.mark.parametrize("method", METHODS)
def test_large_arrays_which_numpy_computes_have_the_same_results(method, monkeypatch):
    """Up to a few roundings of float64 in the size of the terms."""
    for case in all_cases():
        if case.method != method:
            continue
        given = inputs_of(case)
        found = []
        for large in (tape.LARGE, 0):
            monkeypatch.setattr(tape, "LARGE", large)
            terms = terms_of(method, case.semantics, given, case.options)
            gradients = gradients_of(method, case.semantics, given, case.options)
            found.append([np.array(list(terms.values())), *gradients.values()])
        for small, other in zip(*found, strict=True):
            np.testing.assert_allclose(other, small, rtol=1e-13, atol=1e-13 * abs(small).max())


def test_an_embedding_of_zeros_has_logits_of_zero():
    """As head.py says of one of length 0. With K = 3 people z_y is -12, the others are 0."""
    retain = batch([[0, 0]], [0], [[0, 0]])
    given = Given({"retain": retain}, np.eye(3, 2), np.eye(3, 2), ())
    expected = math.log(math.exp(-12) + 2) + 12
    assert terms_of("retain_ft", "paper", given, {})["retain_am"] == pytest.approx(expected)
    inputs = certify.tensors(given)
    assert table.visual_loss("retain_ft", inputs).value.item() == pytest.approx(expected)
    gradients = gradients_of("retain_ft", "paper", given, {})
    assert all(np.isfinite(each).all() for each in gradients.values())


def test_every_method_and_mistake_has_stored_cases():
    about, arrays = golden.read(STORED)
    cases = about["cases"]
    right = [case for case in cases if case["result"] == "valid"]
    assert {case["method"] for case in right} == set(table.METHODS) == set(METHODS)
    assert {case["shape"] for case in right} == set(SHAPES)
    wrong = {case["mistake"] for case in cases if case["result"] == "invalid"}
    assert wrong == set(MISTAKES)
    loss_of = {case["id"]: case["loss"] for case in right}
    for case in cases:
        if case["result"] == "invalid":
            assert case["loss"] != pytest.approx(loss_of[case["of"]], rel=1e-7)
        else:
            assert all(f"{case['id']}/{name}" in arrays for name in case["gradients"])
            assert f"{case['inputs']}/weight" in arrays


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda about: about.update(version="2.0.0"), "holds .*'2.0.0'; expected .* 1.x"),
        (lambda about: about.update(name="x"), "holds 'x'"),
        (lambda about: about.update(sha256="0"), "has SHA-256 .*; expected 0, as visual.json says"),
    ],
)
def test_changed_files_are_refused(tmp_path, change, message):
    for name, data in golden.contents().items():
        (tmp_path / name).write_bytes(data)
    about = json.loads((tmp_path / golden.CASES).read_text())
    change(about)
    (tmp_path / golden.CASES).write_text(json.dumps(about))
    with pytest.raises(UserError, match=message):
        golden.read(tmp_path)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_package_passes_every_case(dtype):
    found = conform.run(OURS, "", "paper,released,original", dtype, "")
    assert found["passed"] and found["counts"]["pass"] == len(all_cases())


def mistaken(name):
    """A function that computes the reference with one mistake."""

    def loss(method, given, options):
        options = dict(options)
        semantics = options.pop("semantics")
        parameters = tuple(given["parameters"])
        arrays = Given(
            given["batches"], given["weight"], given["base_weight"], parameters, given["done"]
        )
        rules = MISTAKES[name].change(rules_of(semantics))
        terms = terms_of(method, semantics, arrays, options, rules)
        return sum(terms.values()), gradients_of(method, semantics, arrays, options, rules)

    loss.framework = "numpy"
    return loss


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_each_known_mistake_fails_and_is_named(name, monkeypatch):
    """In every method and semantics in which it can be made."""
    monkeypatch.setattr(
        "clear_ref.oracle.visual.conform.load",
        lambda *arguments, **named: type(
            "Judged", (), {"function": mistaken(name), "framework": "numpy"}
        ),
    )
    mistake = MISTAKES[name]
    for method in mistake.methods:
        for semantics in mistake.semantics or ("paper", "released", "original"):
            if semantics not in table.METHODS[method].VARIANTS:
                continue
            found = conform.run("a:b", method, semantics, "float64", "")
            causes = {row["cause"] for row in found["cases"] if row["verdict"] == "fail"}
            if causes:
                assert causes == {f"{name}: {mistake.meaning}"}, (method, semantics)
            else:  # such as the KL of twins, which its default distance does not have
                assert acts_nowhere(name, method, semantics), (method, semantics)


def acts_nowhere(name, method, semantics):
    """Whether a mistake changes no loss of a method."""
    assert name in mistakes_of(method, semantics)
    about, _ = golden.read(STORED)
    prefix = f"{method}/{semantics}/"
    return not [
        case
        for case in about["cases"]
        if case.get("mistake") == name and case["of"].startswith(prefix)
    ]


def test_an_overflow_is_named():
    overflow = "tests.implementations.visual_overflow:loss"
    found = conform.run(overflow, "retain_ft", "released", "float32", "")
    [failed] = [row for row in found["cases"] if row["verdict"] == "fail"]
    assert failed["id"] == "retain_ft/released/long_weights"
    assert failed["cause"].startswith("no_maximum_subtracted: exp of the logits without")
    assert failed["reason"] == "returned inf; expected a finite loss"
    assert conform.run(overflow, "retain_ft", "released", "float64", "")["passed"]


@pytest.mark.parametrize(
    "function, cause",
    [
        (lambda loss: 1.01 * loss, "the loss times 1.01"),
        (lambda loss: -loss, "the loss times -1"),
        (lambda loss: loss + 0.001, "no known mistake"),
        (lambda loss: 1 / 0, "no known mistake: not every case returned a loss"),
        (lambda loss: "x", "no known mistake: not every case returned a loss"),
        (lambda loss: (loss, {"nowhere": 0}), "no known mistake: not every case returned a loss"),
    ],
    ids=["factor", "sign", "constant", "raises", "text", "gradient"],
)
def test_what_is_not_known_is_said(function, cause, monkeypatch):
    from tests.implementations import visual_ours

    judged = type(
        "Judged",
        (),
        {
            "function": staticmethod(lambda *given: function(visual_ours.loss(*given).detach())),
            "framework": "torch",
        },
    )
    monkeypatch.setattr("clear_ref.oracle.visual.conform.load", lambda *arguments, **named: judged)
    found = conform.run("a:b", "rmu", "paper", "float64", "")
    assert {row["cause"] for row in found["cases"]} - {""} == {cause}


@pytest.mark.slow
def test_every_claim_holds(capsys):
    assert run.main(["visual-oracle", "certify"]) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed and "85 of 85 claims hold" in printed


def test_a_wrong_loss_breaks_its_certificate(monkeypatch):
    """SCRUB with a sum over pictures in its KL."""
    from clear_ref.visual.methods import scrub

    monkeypatch.setattr(scrub, "picture_mean", lambda values: values.sum())
    monkeypatch.setattr(certify, "CLAIMS", certify.CLAIMS[:1])
    found = certify.certify()
    failed = {(row["method"], row["semantics"]) for row in found["rows"] if not row["ok"]}
    assert failed == {("scrub", name) for name in ("paper", "released", "original")}
    with pytest.raises(RuntimeError, match="3 of 18 claims fail; first scrub .paper."):
        check(found)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["certify", "--loss", "a:b"], "certify: --loss is given, which certify does not"),
        (["conform"], "--loss is missing; expected module:function"),
        (["conform", "--loss", OURS, "--methods", "kl"], "--methods names 'kl'; expected"),
        (["conform", "--loss", OURS, "--semantics", "nlp"], "--semantics names 'nlp'"),
        (["conform", "--loss", OURS, "--dtype", "int8"], "--dtype is 'int8'"),
        (["conform", "--loss", "nowhere:x"], "--loss nowhere:x: module nowhere does not"),
        (["conform", "--loss", "nowhere"], "--loss is 'nowhere'; expected module:function"),
        (
            ["conform", "--loss", OURS, "--methods", "rmu", "--semantics", "original"],
            "--methods has rmu, which has no case with original; leave it out",
        ),
        (
            ["conform", "--loss", OURS, "--methods", "twins,scrub", "--semantics", "original"],
            "--methods has twins, which has no case with original; leave it out",
        ),
        (
            ["conform", "--loss", OURS, "--methods", "twins", "--semantics", "paper,original"],
            "--semantics has original, which has no case with twins; leave it out",
        ),
        (["conform", "--loss", OURS, "--out", "x"], "--out is given, which conform does not"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, capsys):
    assert run.main(["visual-oracle", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_help_names_every_action(capsys):
    """In the list of commands, and in the first line of its own help."""
    for arguments in (["--help"], ["visual-oracle", "--help"]):
        with pytest.raises(SystemExit):
            run.main(arguments)
        text = " ".join(capsys.readouterr().out.split())
        assert "certify, vectors, conform and diff of the eight visual-only methods" in text
    assert ACTIONS == ("certify", "vectors", "conform", "diff")
