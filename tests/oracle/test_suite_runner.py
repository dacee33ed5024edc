"""The runner of the suite: numpy alone, the tolerance of FORMAT.md, mutants of all methods fail.

Run: python -m pytest tests/oracle/test_suite_runner.py
"""

import ast
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from clear_ref.methods import METHODS
from clear_ref.oracle.reference.formulas import reference_loss
from clear_ref.oracle.suite import archive, run_suite
from clear_ref.oracle.vectors import golden
from clear_ref.oracle.vectors.vector_set import VERSION
from tests.helpers.golden_vectors import GOLDEN, RIGHT, ROOT, STORED
from tests.implementations import mutants

STORED_METHODS = list(dict.fromkeys(entry["method"] for entry in RIGHT))
WITH_KL = ["kl", "scrub", "llmu", "sku"]


def run(capsys, *words):
    """(exit status, standard output, standard error) of the runner on the stored vectors."""
    status = run_suite.main([*words, "--suite", str(GOLDEN)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def verdicts(text):
    """{method: [pass, loss only, fail, error]} of a printed table."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: [int(n) for n in row[1:5]] for row in rows if row and row[0] in STORED_METHODS}


def imported(path):
    """The top packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_it_runs_where_there_is_nothing_but_numpy(tmp_path):
    """Every other installed package is hidden; the zip file is read as it is."""
    assert imported(archive.HERE / "run_suite.py") - sys.stdlib_module_names == {"numpy"}
    (tmp_path / "run_suite.py").write_bytes((archive.HERE / "run_suite.py").read_bytes())
    (tmp_path / "suite.zip").write_bytes(archive.archive_of(STORED))
    losses = (ROOT / "tests" / "implementations" / "plain_numpy.py").read_bytes()
    (tmp_path / "mylosses.py").write_bytes(losses)
    script = (
        "import sys, importlib.abc\n"
        "class Alone(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top not in sys.stdlib_module_names | {'numpy', 'mylosses', 'run_suite'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Alone())\n"
        "sys.path.insert(0, '.')\n"
        "import run_suite\n"
        "sys.exit(run_suite.main(['mylosses:loss', '--suite', 'suite.zip', *sys.argv[1:]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--methods", ",".join(METHODS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    n = sum(entry["semantics"] == "paper" and entry["method"] in METHODS for entry in RIGHT)
    assert done.returncode == 0, done.stderr
    assert f"golden vectors {VERSION}: 0 pass, {n} loss_only, 0 fail, 0 error" in done.stdout
    assert "right to the rounding of: float64" in done.stdout


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_example_of_format_md_passes_with_its_gradient(dtype, tmp_path, monkeypatch, capsys):
    page = (archive.HERE / "FORMAT.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / f"example_in_{dtype}.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = [f"example_in_{dtype}:loss", "--methods", "retain_ft", "--dtype", dtype]
    status, text, _ = run(capsys, *words)
    n = sum(entry["id"].startswith("retain_ft/paper/") for entry in RIGHT)
    assert status == 0 and f"{n} pass, 0 loss_only, 0 fail, 0 error" in text


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_reference_passes_every_case_of_every_semantics(capsys, dtype):
    name = "tests.implementations.mutants:numpy_right"
    status, text, _ = run(capsys, name, "--semantics", "all", "--dtype", dtype)
    assert status == 0
    assert f"{len(RIGHT)} pass, 0 loss_only, 0 fail, 0 error" in text
    assert f"right to the rounding of: {dtype}\n" in text


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "mutant, methods",
    [("times_1_01", STORED_METHODS), ("kl_swapped", WITH_KL), ("other_mean", METHODS)],
)
def test_a_small_mutant_of_each_method_fails(capsys, mutant, methods, dtype):
    name = f"tests.implementations.mutants:numpy_{mutant}"
    words = ["--methods", ",".join(methods), "--only", "*/plain*", "--dtype", dtype]
    status, text, _ = run(capsys, name, *words)
    counts = verdicts(text)
    assert status == 1 and set(counts) == set(methods)
    for method, (passed, loss_only, failed, error) in counts.items():
        assert failed > 0 and (passed, loss_only, error) == (0, 0, 0), method


class Rounded:
    """An array of a library that has bfloat16: dtype, shape, and its numbers for numpy."""

    def __init__(self, array):
        bits = np.asarray(array, np.float32).view(np.uint32)
        nearest = bits + 0x7FFF + (bits >> 16 & 1)
        self.array = (nearest & np.uint32(0xFFFF0000)).view(np.float32)
        self.dtype = "bfloat16"

    def __array__(self, dtype=None, copy=None):
        return self.array


def with_gradients_in_bfloat16(function):
    """The function with its gradients rounded to bfloat16, as autograd of bfloat16 inputs does."""

    def loss(method, batches, options):
        value, gradients = function(method, batches, options)
        return value, {name: Rounded(gradient) for name, gradient in gradients.items()}

    return loss


def judged(function, only, dtype="float32"):
    """{id: outcome} of the paper's cases whose shape is `only`."""
    suite = run_suite.Suite(GOLDEN)
    outcomes = {}
    for cases in suite.methods().values():
        for case in cases:
            if case.get("semantics") == "paper" and case["shape"] == only:
                batches = suite.batches(case, dtype)
                outcome = run_suite.judge(function, batches, case, cases, ["float32"])
                outcomes[case["id"]] = outcome
    return outcomes


def test_gradients_in_bfloat16_may_be_off_by_their_own_rounding_and_mutants_still_fail():
    right = judged(with_gradients_in_bfloat16(mutants.numpy_right), "plain")
    assert {outcome.verdict for outcome in right.values()} == {"pass"}
    assert max(outcome.gradient_off for outcome in right.values()) > 1e-4
    for mutant, methods in (
        (mutants.numpy_times_1_01, STORED_METHODS),
        (mutants.numpy_other_mean, METHODS),  # wga has another kind of mean
    ):
        wrong = judged(with_gradients_in_bfloat16(mutant), "plain")
        found = {name: outcome.verdict for name, outcome in wrong.items()}
        of_methods = {name for name in found if name.split("/")[0] in methods}
        assert {found[name] for name in of_methods} == {"fail"} and len(of_methods) > 10


def test_a_wrong_answer_gets_the_names_of_the_cases_whose_numbers_it_has(capsys):
    name = "tests.implementations.mutants:numpy_kl_swapped"
    _, text, _ = run(capsys, name, "--only", "kl/paper/plain")
    assert "the numbers of kl/paper/plain!kl_swapped" in text
    name = "tests.implementations.mutants:numpy_released"
    _, text, _ = run(capsys, name, "--only", "kl/paper/plain")
    assert "the numbers of kl/released/plain" in text


def answer(case, loss=0.0, gradient=0.0, dtype="float64"):
    """The right answer with the loss and one number of a gradient moved."""
    gradients = {name: array.copy() for name, array in case["gradients"].items()}
    first = next(iter(gradients.values()))
    first[np.unravel_index(np.abs(first).argmax(), first.shape)] += gradient
    return run_suite.Answer(case["loss"] + loss, gradients, dtype, dtype)


@pytest.mark.parametrize(
    "arithmetic, unit",
    [("float64", 1024 * 2.0**-53), ("float32", 4 * 2.0**-24), ("bfloat16", 2.0**-8)],
)
def test_the_tolerance_is_the_one_that_format_md_states(arithmetic, unit):
    """Just inside the stated bounds is right, just outside is wrong."""
    cases = run_suite.Suite(GOLDEN).methods()["kl"]
    case = next(case for case in cases if case["id"] == "kl/paper/plain")
    loss = unit * case["roundings"]["loss"]
    largest = max(np.abs(array).max() for array in case["gradients"].values())
    first = next(iter(case["gradients"]))
    gradient = unit * (largest + case["roundings"]["gradients"][first])
    for share, expected in ((0.99, True), (-0.99, True), (1.01, False), (-1.01, False)):
        for moved in ({"loss": share * loss}, {"gradient": share * gradient}):
            found = run_suite.is_right(answer(case, **moved), case, case, arithmetic)
            assert found is expected, (share, moved)


def test_the_stored_roundings_are_the_derived_ones_rounded_up():
    """At most one in a hundred above the largest derived bound of each batch, and not below it."""
    for entry in RIGHT:
        if entry["shape"] not in ("plain", "large"):
            continue
        result = reference_loss(
            entry["method"], entry["semantics"], entry["options"], STORED.batches(entry)
        )
        derived = result.roundings()
        pairs = [(entry["roundings"]["loss"], derived.loss)]
        for key in ("gradients", "added"):
            for name, array in getattr(derived, key).items():
                pairs.append((entry["roundings"][key][name], array.max()))
        for stored, size in pairs:
            assert size * (1 - 2e-9) <= stored <= size * 1.0101, entry["id"]


@pytest.mark.parametrize(
    "size, expected",
    [(0.0, 0.0), (4.0, 4.0), (np.nextafter(4.0, 5), 4.0), (4.001, 4.01), (1234.5, 1240.0)],
)
def test_sizes_are_rounded_up_alike_on_every_machine(size, expected):
    assert golden.rounded_up(size) == expected


def raises(method, batches, options):
    raise ValueError("no such\nlayer <&\x00>")


def ends(method, batches, options):
    raise SystemExit(3)


def not_finite(method, batches, options):
    return float("nan")


def half_a_gradient(method, batches, options):
    value, gradients = mutants.numpy_right(method, batches, options)
    return value, dict(list(gradients.items())[:1])


def wrong_shape(method, batches, options):
    value, gradients = mutants.numpy_right(method, batches, options)
    return value, {name: array[:, 1:] for name, array in gradients.items()}


def right_loss_wrong_gradient(method, batches, options):
    value, gradients = mutants.numpy_right(method, batches, options)
    return value, {name: 2 * array for name, array in gradients.items()}


@pytest.mark.parametrize(
    "function, verdict, message",
    [
        (raises, "error", "raised ValueError: no such layer <&"),
        (ends, "error", "raised SystemExit: 3"),
        (not_finite, "error", "returned a loss that is not finite"),
        (half_a_gradient, "error", "expected a dict of ['forget', 'retain']"),
        (wrong_shape, "error", "returned a gradient of forget of shape"),
        (right_loss_wrong_gradient, "fail", "the loss is right, the gradient is wrong"),
    ],
)
def test_a_bad_function_fails_its_cases_with_the_reason(function, verdict, message):
    outcome = judged(function, "plain")["kl/paper/plain"]
    assert outcome.verdict == verdict
    assert message in outcome.message and outcome.message.isprintable()


@pytest.mark.parametrize(
    "words, expected",
    [
        (["nowhere:loss"], "cannot be imported"),
        (["tests.implementations.mutants:none"], "cannot be imported"),
        (["tests.implementations.mutants:torch"], "is a module; expected a function"),
        (["tests.implementations.mutants:right", "--methods", "kll"], "'kll' is unknown"),
        (["tests.implementations.mutants:right", "--only", "x"], "no case has"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(capsys, words, expected):
    status, _, errors = run(capsys, *words)
    assert status == 2 and expected in errors and errors.count("\n") == 1


def test_another_format_a_changed_file_and_a_lost_one_are_refused(tmp_path, capsys):
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    words = ["tests.implementations.mutants:numpy_right", "--suite", str(tmp_path)]
    (tmp_path / "kl.json").write_bytes((tmp_path / "kl.json").read_bytes() + b" ")
    assert run_suite.main(words) == 2
    assert "kl.json is not the file that manifest.json names" in capsys.readouterr().err
    (tmp_path / "kl.json").unlink()
    assert run_suite.main(words) == 2
    assert "kl.json cannot be read" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "files": {}}))
    assert run_suite.main(words) == 2
    assert "format is 2; expected 1" in capsys.readouterr().err
    for text in ("{", "[]", "{}"):
        (tmp_path / "manifest.json").write_text(text)
        assert run_suite.main(words) == 2
        assert "manifest.json is no manifest" in capsys.readouterr().err


def test_junit_has_a_test_case_for_each_case(tmp_path, capsys):
    file = tmp_path / "results.xml"
    name = "tests.implementations.mutants:numpy_times_1_01"
    words = ["--only", "kl/*/plain", "--junit", str(file)]
    assert run(capsys, name, *words)[0] == 1
    suite = ElementTree.parse(file).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    case = suite.find("testcase")
    assert (case.get("classname"), case.get("name")) == ("kl", "kl/paper/plain")
    assert case.find("failure").get("message").startswith("loss ")
    versions = [one.get("value") for one in suite.iter("property") if one.get("name") == "version"]
    assert versions == [VERSION]
