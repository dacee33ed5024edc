"""visual-oracle diff names the definition or the known mistake that gives the loss of a dumped
step, and a file that is no such dump is one line.
"""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from clear_ref import run
from clear_ref.oracle.visual import golden

STORED = Path(__file__).parents[1] / "vectors" / "visual_golden"


@pytest.fixture(scope="module")
def stored():
    """(cases by id, arrays) of the golden vectors."""
    about, arrays = golden.read(STORED)
    return {case["id"]: case for case in about["cases"]}, arrays


def dump_of(stored, case_id):
    """The arrays of a dump: a stored case's inputs and loss."""
    cases, arrays = stored
    case = cases[case_id]
    right = cases[case.get("of", case_id)]
    found = {"loss": np.array(case["loss"]), "done": np.array(right["done"])}
    for name, array in arrays.items():
        if name.startswith(right["inputs"] + "/"):
            own = name.removeprefix(right["inputs"] + "/")
            found["parameter/" + own if own.startswith("parameter") else own] = array
    return found


def verdict(tmp_path, dump, method, capsys, *more):
    """(exit status, what --json prints) of visual-oracle diff."""
    path = tmp_path / "step.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in dump.items()}, path)
    words = ["visual-oracle", "diff", "--dump", str(path), "--methods", method, "--json", *more]
    status = run.main(words)
    return status, json.loads(capsys.readouterr().out)


def same(found):
    """(semantics, mistake) of the rows that give the loss."""
    return [(row["semantics"], row["mistake"]) for row in found["rows"] if row["same"]]


CASES = {
    "scrub/paper/plain": ("scrub", ("paper", "")),
    "scrub/released/plain": ("scrub", ("released", "")),
    "scrub/paper/plain!kl_swapped": ("scrub", ("paper", "kl_swapped")),
    "scrubbio/released/plain": ("scrubbio", ("released", "")),
    "scrubbio/released/plain!two_means": ("scrubbio", ("released", "two_means")),
    "sparsity/original/later_epoch": ("sparsity", ("original", "")),
    "dpo/released/plain!mean_before_sigmoid": ("dpo", ("released", "mean_before_sigmoid")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_definition_or_mistake_is_named(case, stored, tmp_path, capsys):
    method, (semantics, mistake) = CASES[case]
    status, found = verdict(
        tmp_path, dump_of(stored, case), method, capsys, "--semantics", semantics
    )
    assert (semantics, mistake) in same(found)
    assert status == (1 if mistake else 0) and found["agrees"] == (not mistake)


def test_gradients_tell_equal_losses_apart(stored, tmp_path, capsys):
    """At the base both KL are 0, so the loss is AM-softmax whatever the direction; their gradients
    are 0 too. Far from it a gradient that is not the loss's own is seen.
    """
    _, arrays = stored
    dump = dump_of(stored, "scrub/paper/far")
    right = arrays["scrub/paper/far/retain"]
    dump["gradient/retain"] = right
    assert verdict(tmp_path, dump, "scrub", capsys)[0] == 0
    dump["gradient/retain"] = right * 1.001
    status, found = verdict(tmp_path, dump, "scrub", capsys)
    assert status == 1 and same(found) == []


def test_a_pool_is_made_of_two_batches(stored, tmp_path, capsys):
    """SCRUBbio released reads a pool; a dump with forget and retain has one, forget first."""
    dump = dump_of(stored, "scrubbio/paper/plain")
    _, found = verdict(tmp_path, dump, "scrubbio", capsys)
    released = [row for row in found["rows"] if row["semantics"] == "released"]
    forget, retain = (
        (dump[f"{name}/embeddings"], dump[f"{name}/targets"]) for name in ("forget", "retain")
    )

    def cosines(pair):
        first, second = pair
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return (first * second).sum(1) / lengths

    values = [*np.maximum(cosines(forget), 0), *(1 - cosines(retain))]
    assert released[0]["loss"] == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda dump: dump.pop("loss"), "has no tensor 'loss'"),
        (lambda dump: dump.pop("retain/targets"), "reads retain/targets, which the dump lacks"),
        (lambda dump: dump.pop("weight"), "reads weight, which the dump lacks"),
        (lambda dump: dump.pop("base_weight"), "reads base_weight, which the dump lacks"),
        (lambda dump: dump.update(done=np.array(7.0)), "done is 7.0; expected a share of 0 to 1"),
        (
            lambda dump: dump.update(
                {f"forget/{name}": np.zeros((6, 5)) for name in ("embeddings", "targets")}
            ),
            "retain/embeddings is [6, 4]; expected [B, 5], as forget/embeddings",
        ),
        (lambda dump: dump.update(logits=np.zeros(3)), "there is no tensor 'logits' in a dump"),
        (lambda dump: dump.update(loss=np.array(np.nan)), "loss is NaN"),
        (
            lambda dump: dump.update({"retain/labels": np.array([9] * 6)}),
            "retain/labels has the class 9; expected one of 5",
        ),
        (
            lambda dump: dump.update({"retain/targets": np.zeros((2, 4))}),
            "retain/targets is [2, 4]; expected [6, 4]",
        ),
        (lambda dump: dump.update(weight=np.zeros((5, 3))), "weight is [5, 3]; expected [K, 4]"),
        (
            lambda dump: dump.update({"retain/labels": np.zeros(6)}),
            "retain/labels is torch.float64 [6]; expected int64 [B]",
        ),
    ],
)
def test_a_wrong_dump_is_one_line(change, message, stored, tmp_path, capsys):
    dump = copy.copy(dump_of(stored, "scrub/paper/plain"))
    change(dump)
    path = tmp_path / "step.safetensors"
    save_file(dump, path)
    words = ["visual-oracle", "diff", "--dump", str(path), "--methods", "scrub"]
    assert run.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--methods", "scrub"], "visual-oracle diff: --dump is missing; expected --dump FILE"),
        (["--dump", "x"], "visual-oracle diff: --methods is missing"),
        (["--dump", "x", "--methods", "kl"], "visual method is 'kl'; expected one of"),
        (["--dump", "x", "--methods", "rmu", "--semantics", "original"], "expected one of paper"),
        (["--dump", "no.safetensors", "--methods", "rmu"], "no.safetensors: no such file"),
        (["--dump", "x", "--methods", "rmu", "--dtype", "float32"], "--dtype is given, which diff"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_wrong_options_are_one_line(arguments, message, capsys):
    assert run.main(["visual-oracle", "diff", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
