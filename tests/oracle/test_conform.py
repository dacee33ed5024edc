"""conform: right implementations pass in every dtype, and released formulas are named as such.

Each known mistake is named; a function that cannot be judged gives one line and exit status 2.

Run: python -m pytest tests/oracle/test_conform.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.methods import METHODS
from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.vectors import conform, conform_text, golden, judged_function, vector_files
from clear_ref.run import main
from tests.implementations import hostile, mistaken

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "vectors" / "golden"


def conform_result(impl, strict=False, **settings):
    """The result of conform for a function on the stored vectors."""
    return conform.run(conform.ConformSettings(impl=impl, vectors=str(GOLDEN), **settings), strict)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_package_itself_passes_in_every_meaning_and_dtype(dtype):
    result = conform_result("tests.implementations.ours:loss", dtype=dtype, semantics="all")
    assert result["passed"] and result["counts"]["fail"] == 0 and len(result["cases"]) > 350
    assert {case["verdict"] for case in result["cases"]} == {"pass"}
    assert all(
        case["gradient_error"] is not None and case["cause"] is None for case in result["cases"]
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_numpy_implementation_of_the_paper_passes_by_value(dtype):
    result = conform_result("tests.implementations.plain_numpy:loss", dtype=dtype)
    assert result["framework"] == "numpy" and result["passed"]
    assert {case["verdict"] for case in result["cases"]} == {"loss_only"}
    assert "108 loss right, gradient not judged" in conform_text.text(result)
    assert {case["method"] for case in result["cases"]} == set(METHODS)
    assert all(case["gradient_error"] is None for case in result["cases"])


def test_the_original_formulas_pass_as_the_original_meaning_with_their_gradients():
    result = conform_result("tests.implementations.formulas:loss", semantics="original")
    assert {case["verdict"] for case in result["cases"]} == {"pass"}
    assert {case["method"] for case in result["cases"]} == set(METHODS)


@pytest.mark.slow
def test_the_released_formulas_pass_as_asked_and_are_acceptable_elsewhere_but_fail_with_strict():
    result = conform_result("tests.implementations.released:loss", semantics="released")
    failed = {case["id"] for case in result["cases"] if case["verdict"] == "fail"}
    assert failed == {
        f"grad_diff/released/plain/{option}"
        for option in ("forget=entropy", "forget=kl", "retain=kl")
    }
    assert {case["cause"] for case in result["cases"] if case["id"] in failed} == {
        "the option forget ignored",
        "the option retain ignored",
    }
    assert result["counts"]["pass"] == len(result["cases"]) - len(failed)
    assert result["counts"]["acceptable"] == 0
    strict = conform_result("tests.implementations.released:loss", methods="dpo,npo", strict=True)
    assert not strict["passed"] and strict["counts"]["fail"] == 20
    assert strict["methods"]["npo"]["causes"] == {"released semantics": 10}
    accepted = conform_result("tests.implementations.released:loss", methods="npo")
    assert accepted["counts"]["acceptable"] == 10
    assert "accepted as released semantics, not paper semantics" in conform_text.text(accepted)


@pytest.mark.slow
@pytest.mark.parametrize("name", mistaken.MISTAKEN)
def test_each_mistake_is_rejected_and_named_as_people_write_it(name):
    """The functions are torch code with autograd; conform computes the mistakes in numpy."""
    method, semantics, _ = mistaken.MISTAKEN[name]
    result = conform_result(
        f"tests.implementations.mistaken:{name}", methods=method, semantics=semantics, strict=True
    )
    failed = [case for case in result["cases"] if case["verdict"] == "fail"]
    assert not result["passed"] and failed
    plain = [case for case in failed if case["id"].startswith(f"{method}/{semantics}/plain")]
    if name == "entropy_sign":
        plain = [case for case in plain if case["id"].endswith("forget=entropy")]
    assert plain and all(name in (case["cause"], *case["same_numbers"]) for case in plain), plain


def test_every_mistake_except_the_one_of_the_data_has_a_torch_function():
    """idk_is_forget is made where batches are made; no loss function sees it."""
    assert {mistake.name for mistake in MISTAKES} - set(mistaken.MISTAKEN) == {"idk_is_forget"}


def test_an_arbitrary_number_is_explained_by_no_mistake():
    result = conform_result("tests.implementations.hostile:constant", methods="kl")
    assert {case["verdict"] for case in result["cases"]} == {"fail"}
    assert {case["cause_kind"] for case in result["cases"]} == {"place"}
    assert "no known mistake" in conform_text.text(result)


@pytest.mark.slow
def test_the_command_prints_a_table_and_its_status_says_whether_all_passed(capsys):
    arguments = ["conform", "--vectors", str(GOLDEN), "--methods", "dpo,kl", "--impl"]
    assert main([*arguments, "tests.implementations.ours:loss"]) == 0
    assert (
        "19 pass, 0 loss right, gradient not judged, 0 acceptable, 0 fail"
        in capsys.readouterr().out
    )
    assert main([*arguments, "tests.implementations.released:loss", "--strict"]) == 1
    printed = capsys.readouterr()
    assert (
        "last_debug_line_wins" in printed.out
        and printed.err == "clear_ref: the run failed: 18 of 19 cases fail\n"
    )
    assert main([*arguments, "tests.implementations.ours:loss", "--cases"]) == 0
    assert "pass       kl/paper/plain: loss" in capsys.readouterr().out
    assert main([*arguments, "tests.implementations.ours:loss", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (
        result["passed"]
        and {case["verdict"] for case in result["cases"]} == {"pass"}
        and "reason" in result["tolerance"]
    )


@pytest.mark.parametrize(
    "impl, expected",
    [
        ("nothing_here:loss", "module nothing_here does not import (ModuleNotFoundError"),
        (
            "tests.implementations.broken_module:loss",
            "does not import (ZeroDivisionError: division by zero)",
        ),
        ("tests.implementations.ours:nothing", "has no function nothing"),
        ("tests.implementations.ours", "expected module:function"),
        ("mylosses.py:loss", "such as mylosses:loss"),
        ("", "--impl is ''; expected a value"),
    ],
)
def test_a_function_that_is_not_found_is_one_line_and_exit_2(capsys, impl, expected):
    assert main(["conform", "--impl", impl, "--methods", "kl", "--vectors", str(GOLDEN)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and expected in printed.err


@pytest.mark.parametrize(
    "name, expected",
    [
        ("raises", "raised KeyError: 'no such'"),
        (
            "reads_idk",
            "raised KeyError: 'idk'; --all-batches hands over every batch and the teacher",
        ),
        ("vector", "returned a Tensor of shape [3]; expected a number"),
        ("nothing", "returned a NoneType; expected a number"),
        ("text", "returned a str; expected a number"),
        ("nan", "returned nan; expected a finite loss"),
        ("infinite", "returned inf; expected a finite loss"),
        ("changes", "changed its inputs"),
        ("changes_labels", "changed its inputs"),
        ("one_gradient", "returned gradients of ['forget']; expected a dict of forget, retain"),
        ("flat_gradient", "returned a gradient of forget of shape [5]; expected [3, 7, 5]"),
        ("nan_gradient", "returned nan in the gradient of retain at [0, 1, 2]"),
        ("text_gradient", "returned a gradient that is no array"),
        ("exits", "raised SystemExit"),
    ],
)
def test_what_cannot_be_judged_fails_its_case_with_its_reason_and_the_table_comes(name, expected):
    result = conform_result(f"tests.implementations.hostile:{name}", methods="kl", shapes="plain")
    assert result["counts"] == {"pass": 0, "loss_only": 0, "acceptable": 0, "fail": 1}
    case = result["cases"][0]
    assert expected in case["reason"] and case["loss"] is None
    assert expected in conform_text.text(result) and "no known" not in conform_text.text(result)


def test_one_bad_case_does_not_end_the_run():
    result = conform_result("tests.implementations.hostile:nan_sometimes", methods="grad_ascent,kl")
    reasons = {case["id"]: case["reason"] for case in result["cases"] if case["reason"]}
    assert reasons == {
        "grad_ascent/paper/single": "returned nan; expected a finite loss",
        "kl/paper/single": "returned nan; expected a finite loss",
    }
    assert result["counts"] == {"pass": 16, "loss_only": 0, "acceptable": 0, "fail": 2}


def test_filters_choose_the_cases():
    result = conform_result(
        "tests.implementations.ours:loss", methods="kl,npo", shapes="plain,near", only="*/plain*"
    )
    assert [case["id"] for case in result["cases"]] == [
        "kl/paper/plain",
        "npo/paper/plain",
        "npo/paper/plain/beta=0.1",
    ]


def test_every_batch_and_padded_batches_are_handed_over_on_request():
    settings = {"impl": "tests.implementations.hostile:sees", "vectors": str(GOLDEN)}
    settings |= {"semantics": "original", "methods": "kl", "shapes": "plain,left"}
    result = conform.run(conform.ConformSettings(**settings), all_batches=True)
    assert {case["verdict"] for case in result["cases"]} == {"pass"}
    assert set(hostile.SEEN) == {"forget", "idk", "retain", *(f"random{k}" for k in range(1, 6))}
    assert all("teacher_logits" in batch for batch in hostile.SEEN.values())
    assert len({batch["labels"].shape[1] for batch in hostile.SEEN.values()}) > 1
    result = conform.run(conform.ConformSettings(**settings), padded=True)
    assert {case["verdict"] for case in result["cases"]} == {"pass"}
    lengths = {name: batch["labels"].shape[1] for name, batch in hostile.SEEN.items()}
    assert set(lengths) == {"forget", "retain"} and len(set(lengths.values())) == 1
    assert (hostile.SEEN["retain"]["attention_mask"][:, 0] == 0).all()  # shape left is the last


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("--methods", "kl,magic", "--methods: 'magic' is unknown; expected retain_ft"),
        ("--semantics", "best", "--semantics: 'best' is unknown; expected paper"),
        ("--dtype", "int8", "--dtype is 'int8'; expected one of float64"),
        ("--framework", "jax", "--framework is 'jax'; expected one of torch, numpy"),
        ("--vectors", "nowhere", "nowhere/manifest.json: no such file"),
        ("--arithmetic", "int8", "--arithmetic is 'int8'; expected one of float64"),
        ("--shapes", "round", "--shapes: 'round' is unknown; expected plain"),
        ("--only", "kl/*/round", "--only: no case has an id like 'kl/*/round'; expected patterns"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(capsys, option, value, expected):
    given = {"--impl": "tests.implementations.ours:loss", "--vectors": str(GOLDEN), option: value}
    assert main(["conform", *(word for pair in given.items() for word in pair)]) == 2
    assert expected in capsys.readouterr().err


def test_numpy_has_no_bfloat16():
    with pytest.raises(UserError, match="bfloat16 with numpy"):
        judged_function.load("tests.implementations.plain_numpy:loss", "", "bfloat16")


@pytest.mark.slow
def test_a_function_of_the_working_directory_is_found(tmp_path):
    (tmp_path / "mine.py").write_text("def loss(method, batches, options):\n    return 0.0\n")
    command = [
        sys.executable,
        "-m",
        "clear_ref.run",
        "conform",
        "--impl",
        "mine:loss",
        "--methods",
        "kl",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and "mine:loss (torch, float64)" in done.stdout, done.stderr


def test_a_gradient_that_is_given_is_compared_where_the_loss_agrees():
    result = conform_result(
        "tests.implementations.hostile:right_loss_no_gradient", methods="grad_ascent"
    )
    assert {case["verdict"] for case in result["cases"]} == {"fail"}
    assert all(case["error"] < 1e-12 and case["gradient_error"] == 1.0 for case in result["cases"])


@pytest.mark.slow
def test_inputs_are_exact_in_every_dtype():
    entry = next(entry for entry in golden.build().entries if entry["id"] == "kl/paper/plain")
    held = vector_files.read(GOLDEN).batches(entry)["retain"]["logits"]
    for dtype in ("float64", "float32", "bfloat16"):
        given = judged_function.load("tests.implementations.ours:loss", "", dtype).convert(
            "logits", held
        )
        assert given.dtype == judged_function.DTYPES[dtype] and given.requires_grad
        assert torch.equal(given.double(), torch.from_numpy(held))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda head: head.update(cases=5), "kl.json: cases is 5; expected a list"),
        (lambda head: head.update(cases=[1]), "kl.json: case number 0 is 1; expected an object"),
        (lambda head: head.pop("cases"), "kl.json: cases is None; expected a list"),
        (
            lambda head: head.update(arrays={}),
            "kl.json: arrays is {}; expected an object with file and sha256",
        ),
        (
            lambda head: head.update(arrays=[]),
            "kl.json: arrays is []; expected an object with file and sha256",
        ),
        *[
            (
                lambda head, key=key, value=value: head["cases"][0].update({key: value}),
                f"kl.json: case 'kl/paper/plain' {words}",
            )
            for key, value, words in (
                ("gradients", ["a"], "has gradients ['a']; expected an object of array names"),
                ("gradients", {}, "has gradients []; expected forget, retain"),
                ("batches", ["forget"], "has batches ['forget']; expected an object of lists"),
                (
                    "batches",
                    {"forget": 1},
                    "has batches {'forget': 1}; expected an object of lists",
                ),
                ("batches", {"forget": []}, "has batches ['forget']; expected forget, retain"),
                ("loss", "x", "has loss 'x'; expected a finite number"),
                ("loss", float("nan"), "has loss nan; expected a finite number"),
                ("scale", None, "has scale None; expected a number of 0 or more"),
                ("weight", True, "has weight True; expected a number"),
                ("terms", [], "has terms []; expected an object of numbers"),
                ("flags", "odd", "has flags 'odd'; expected a list"),
                ("method", "npo", "has method 'npo'; expected 'kl'"),
                ("shape", ["plain"], "has shape ['plain']; expected text"),
                ("options", {"zeta": 1}, "has wrong options (kl (paper) has no option 'zeta'"),
                ("options", 3, "has options 3; expected an object"),
                ("semantics", "papers", "has semantics 'papers'; expected one of paper"),
                ("result", "right", "has result 'right'; expected one of valid"),
                ("result", [], "has result []; expected one of valid"),
            )
        ],
    ],
)
def test_a_damaged_case_is_one_clear_line_with_its_file(change, words, tmp_path, capsys):
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).symlink_to(path)
    head = json.loads((GOLDEN / "kl.json").read_text())
    change(head)
    (tmp_path / "kl.json").unlink()
    (tmp_path / "kl.json").write_text(json.dumps(head))
    status = main(["conform", "--impl", "json:loads", "--vectors", str(tmp_path), "--quiet"])
    error = capsys.readouterr().err
    assert status == 2 and words in error and len(error.splitlines()) == 1, error
