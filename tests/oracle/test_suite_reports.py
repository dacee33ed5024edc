"""conform's JUnit XML has every verdict and its cause; `cases` and `check` judge inside pytest.

Run: python -m pytest tests/oracle/test_suite_reports.py
"""

import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from clear_ref.common.errors import UserError
from clear_ref.oracle import cases, check
from clear_ref.oracle.suite import archive
from clear_ref.oracle.vectors.vector_set import VERSION
from clear_ref.run import main
from tests.helpers.golden_vectors import GOLDEN, RIGHT, ROOT
from tests.helpers.junit_schema import problems
from tests.implementations import mutants, ours

STORED = {"vectors": str(GOLDEN)}


def conform(tmp_path, impl, *words):
    """(exit status, bytes of the JUnit file) of conform."""
    file = tmp_path / "new" / "results.xml"
    arguments = ["--impl", impl, "--vectors", str(GOLDEN), "--junit", str(file), *words]
    status = main(["conform", *arguments])
    return status, file.read_bytes()


def every_verdict(method, batches, options):
    """npo right, kl swapped, idk without a gradient, scrub as released, others raise."""
    if method == "kl":
        return mutants.kl_swapped(method, batches, options)
    if method == "scrub":
        given = {**options, "semantics": "released"}
        arrays = {name: {**batch} for name, batch in batches.items()}
        return released_scrub(arrays, given)
    if method not in ("npo", "idk"):
        raise ValueError('no such loss: <"&\x00\ud800\n>')
    loss = ours.loss(method, batches, options)
    return loss.detach() if method == "idk" else loss


def released_scrub(batches, options):
    """The scrub of the released code with its own options."""
    return ours.loss("scrub", batches, {"semantics": options["semantics"]})


def test_junit_has_each_verdict_with_its_reason_and_cause(tmp_path, capsys):
    words = ["--methods", "npo,kl,idk,scrub,grad_ascent,retain_ft", "--only", "*/paper/plain"]
    impl = "tests.oracle.test_suite_reports:every_verdict"
    status, data = conform(tmp_path, impl, *words, "--json")
    result = json.loads(capsys.readouterr().out)
    assert status == 1
    assert problems(data) == []
    suite = ElementTree.fromstring(data).find("testsuite")
    assert suite.get("name") == "tests.oracle.test_suite_reports:every_verdict"
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["6", "1", "2", "1"]
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties["golden vectors"] == VERSION == result["vectors"]["version"]
    assert (properties["semantics"], properties["set"]) == ("paper", "compact")
    found = {case.get("classname"): case for case in suite.iter("testcase")}
    assert {case.get("name") for case in found.values()} == {v["id"] for v in result["cases"]}
    assert list(found["npo"]) == []
    failure = found["kl"].find("failure").get("message")
    cause = next(v["cause"] for v in result["cases"] if v["method"] == "kl")
    assert re.match(r"loss -1\.49\d*, expected -1\.55\d*: ", failure)
    assert cause and cause in failure
    error = found["grad_ascent"].find("error").get("message")
    assert error.startswith("raised ValueError: no such loss: <")
    assert found["idk"].find("skipped").get("message") == "loss right, gradient not judged"
    assert found["scrub"].find("system-out").text.startswith("accepted as released semantics")


def test_the_restated_schema_refuses_wrong_xml():
    head = '<testsuites><testsuite name="a" tests="1" failures="0" errors="0">'
    end = "</testsuite></testsuites>"
    assert problems(f'{head}<testcase name="b"/>{end}') == []
    for wrong in (
        f"{head}{end}",
        f"{head}<testcase/>{end}",
        f'{head}<testcase name="b" id="1"/>{end}',
        f'{head}<testcase name="b"><failure/></testcase>{end}',
        f'{head}<testcase name="b"><result/></testcase>{end}',
        f'{head}<testcase name="b">text</testcase>{end}',
        '<testsuite name="a" tests="0" failures="0" errors="0"/>',
    ):
        assert problems(wrong), wrong


def test_the_version_is_printed_and_a_junit_file_that_cannot_be_is_refused(tmp_path, capsys):
    words = ["conform", "--impl", "tests.implementations.ours:loss", "--vectors", str(GOLDEN)]
    assert main([*words, "--only", "kl/paper/plain"]) == 0
    assert f"golden vectors {VERSION}, compact set" in capsys.readouterr().out
    assert main([*words, "--junit", str(tmp_path)]) == 2
    assert "is a directory; expected a file to write" in capsys.readouterr().err


def chosen(only, **options):
    """The one case with an id."""
    (case,) = cases(only=only, **STORED, **options)
    return case


@pytest.mark.parametrize("case", cases("kl,npo,rmu", "all", "plain", **STORED), ids=str)
def test_our_losses_are_right_by_the_helper(case):
    check(case, ours.loss(case.method, case.batches, case.options))


def test_cases_are_those_asked_for_and_named_by_their_ids():
    ids = [str(case) for case in cases("kl,npo", "paper,released", "plain", **STORED)]
    expected = [
        entry["id"]
        for entry in RIGHT
        if entry["method"] in ("kl", "npo")
        and entry["semantics"] in ("paper", "released")
        and entry["shape"] == "plain"
    ]
    assert ids == expected and "npo/paper/plain/beta=0.1" in ids
    for wrong, message in (
        ({"methods": "kll"}, "--methods: 'kll' is unknown"),
        ({"semantics": "papers"}, "--semantics: 'papers' is unknown"),
        ({"shapes": "round"}, "--shapes: 'round' is unknown"),
        ({"dtype": "float16"}, "--dtype is 'float16'"),
    ):
        with pytest.raises(UserError, match=message):
            cases(**wrong, **STORED)


@pytest.mark.parametrize(
    "mutant, method, dtype, cause",
    [
        (mutants.kl_swapped, "kl", "float64", "kl_swapped"),
        (mutants.kl_swapped, "kl", "float32", "kl_swapped"),
        (mutants.kl_swapped, "kl", "bfloat16", "kl_swapped"),
        (mutants.times_1_01, "npo", "float64", "1.01"),
        (mutants.times_1_01, "npo", "float32", "1.01"),
        (mutants.times_1_01, "retain_ft", "bfloat16", "bfloat16 arithmetic"),
    ],
)
def test_check_refuses_mutants_with_both_losses_and_a_cause(mutant, method, dtype, cause):
    case = chosen(f"{method}/paper/plain", dtype=dtype)
    with pytest.raises(AssertionError, match=rf"{method}/paper/plain: loss .*, expected") as raised:
        check(case, mutant(case.method, case.batches, case.options))
    assert cause in str(raised.value)


def test_check_wants_a_gradient_and_unchanged_batches():
    case = chosen("kl/paper/plain")
    loss = ours.loss(case.method, case.batches, case.options).detach()
    with pytest.raises(AssertionError, match="it has no gradient; expected one, or gradient=False"):
        check(case, loss)
    check(case, loss, gradient=False)
    loss = ours.loss(case.method, case.batches, case.options)
    case.batches["retain"]["labels"][:] = 0
    with pytest.raises(AssertionError, match="changed its inputs"):
        check(case, loss)
    check(case, ours.loss(case.method, case.batches, case.options))


def test_check_differentiates_or_takes_gradients_of_numpy():
    case = chosen("kl/paper/plain", framework="numpy", dtype="float32")
    check(case, mutants.numpy_right(case.method, case.batches, case.options))
    with pytest.raises(AssertionError, match="returned nan; expected a finite loss"):
        check(case, float("nan"))


@pytest.mark.slow
def test_the_example_of_the_page_is_a_test_that_pytest_runs(tmp_path):
    """The code block of suite/README.md, with our own losses as mylosses, then with a mutant."""
    page = (archive.HERE / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "test_example.py").write_text(example)
    (tmp_path / "mylosses.py").write_text(
        "from tests.implementations import mutants, ours\n"
        "def loss(method, batches, options):\n"
        "    right = method == 'npo'\n"
        "    return (ours.loss if right else mutants.kl_swapped)(method, batches, options)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )
    assert "2 failed, 3 passed" in done.stdout, done.stdout
    assert "test_my_losses[kl/paper/left]" in done.stdout
    assert "kl_swapped" in done.stdout
