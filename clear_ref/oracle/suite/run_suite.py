"""Runs a loss function over the golden vectors and judges it as FORMAT.md says. Needs numpy alone.

    python run_suite.py mylosses:loss --methods npo,kl --junit results.xml

The function: f(method, batches, options) -> loss, or (loss, {batch: d loss / d logits}).
  batches  {name: {array name: numpy array}}: the arrays that FORMAT.md describes under inputs;
           for rmu hidden states instead of logits, and `control` in forget
  options  every option of the semantics, and "semantics", their name
A function may have an attribute `arithmetic`: float64, float32 or bfloat16, in which it computes.
Exit status: 0 if no case fails, 1 if one fails, 2 if nothing could be run.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

FORMAT = 1
UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}
FACTORS = {"float64": 1024.0, "float32": 4.0, "bfloat16": 1.0}
SMALLEST = 2.0**-126
VERDICTS = ("pass", "loss_only", "fail", "error")
DTYPES = {"F64": "<f8", "I64": "<i8"}

Entry = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Wrong(Exception):
    """Nothing can be run; the text says why, on one line."""


class Unjudged(Exception):
    """What a function returned for a case cannot be judged; the text says why."""


class Answer(NamedTuple):
    """What a function returned; the dtypes are keys of UNITS, or "" for a number of Python."""

    loss: float
    gradients: Arrays | None
    dtype: str
    gradient_dtype: str


class Outcome(NamedTuple):
    """The verdict on one case: one of VERDICTS; the errors as shares of scale and largest."""

    case: Entry
    verdict: str
    arithmetic: str
    message: str
    loss_off: float | None
    gradient_off: float | None


class Suite:
    """The files of a directory or of the zip archive, checked against the manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.manifest = json.loads(self._bytes("manifest.json"))
            found = self.manifest["format"]
            listed_files = dict(self.manifest["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise Wrong(f"{path}: manifest.json is no manifest ({shown(error)})") from None
        if found != FORMAT:
            raise Wrong(f"{path}: format is {found!r}; expected {FORMAT}: use the runner beside it")
        self.contents: dict[str, bytes] = {}
        for name, listed in listed_files.items():
            data = self._bytes(name)
            if hashlib.sha256(data).hexdigest() != listed["sha256"]:
                raise Wrong(f"{path}: {name} is not the file that manifest.json names; fetch it")
            self.contents[name] = data
        self.inputs = self.arrays("inputs")

    def _bytes(self, name: str) -> bytes:
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                inside = [one for one in archive.namelist() if one.rpartition("/")[2] == name]
                return archive.read(inside[0] if inside else name)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise Wrong(f"{self.path}: {name} cannot be read ({shown(error)})") from None

    def arrays(self, name: str) -> Arrays:
        """{key: array} of a safetensors file."""
        data = self.contents[f"{name}.safetensors"]
        start = 8 + int.from_bytes(data[:8], "little")
        found = {}
        for key, head in json.loads(data[8:start]).items():
            if key != "__metadata__":
                begin, end = (start + offset for offset in head["data_offsets"])
                array = np.frombuffer(data[begin:end], DTYPES[head["dtype"]])
                found[key] = array.reshape(head["shape"])
        return found

    def methods(self) -> dict[str, list[Entry]]:
        """{method: its cases, right and wrong}; a case's gradients are arrays."""
        found = {}
        for name in self.contents:
            method = name.removesuffix(".json")
            if method in (name, "inputs"):
                continue
            arrays = self.arrays(method)
            cases = json.loads(self.contents[name])["cases"]
            for case in cases:
                case["gradients"] = {b: arrays[key] for b, key in case["gradients"].items()}
                if "control" in case:
                    case["control"] = arrays[case["control"]]
            found[method] = cases
        return found

    def batches(self, case: Entry, dtype: str) -> dict[str, Arrays]:
        """The arrays of a right case, new ones, floats in the dtype."""
        found: dict[str, Arrays] = {}
        for batch, names in case["batches"].items():
            arrays = {name: self.inputs[f"{case['shape']}/{batch}/{name}"] for name in names}
            found[batch] = {}
            for name, array in arrays.items():
                found[batch][name] = array.astype(dtype if array.dtype == "f8" else array.dtype)
        if "control" in case:
            found["forget"]["control"] = case["control"].astype(dtype)
        return found


def loss_is_right(answer: Answer, case: Entry, tolerances: Entry, arithmetic: str) -> bool:
    """FORMAT.md, Tolerance; the tolerances are those of the right case `tolerances`."""
    allowed = FACTORS[arithmetic] * UNITS[arithmetic] * tolerances["roundings"]["loss"]
    allowed += output_rounding(answer.dtype, arithmetic) * abs(case["loss"]) + SMALLEST
    return bool(abs(answer.loss - case["loss"]) <= allowed)


def gradients_are_right(answer: Answer, case: Entry, tolerances: Entry, arithmetic: str) -> bool:
    """FORMAT.md, Tolerance; True without gradients."""
    unit = FACTORS[arithmetic] * UNITS[arithmetic]
    output = output_rounding(answer.gradient_dtype, arithmetic)
    roundings = tolerances["roundings"]
    for batch, gradient in (answer.gradients or {}).items():
        expected = case["gradients"].get(batch)
        if expected is None or expected.shape != gradient.shape:
            return False
        allowed = unit * (largest(case) + roundings["gradients"].get(batch, 0.0))
        bounds = allowed + SMALLEST + output * np.abs(expected)
        bounds += output * roundings["added"].get(batch, 0.0)
        if not (np.abs(gradient - expected) <= bounds).all():
            return False
    return True


def output_rounding(dtype: str, arithmetic: str) -> float:
    """The rounding to the returned dtype where that is coarser than the arithmetic, else 0."""
    unit = UNITS.get(dtype, 0.0)
    return unit if unit > UNITS[arithmetic] else 0.0


def largest(case: Entry) -> float:
    """The size of the largest number in a case's gradients."""
    return max((float(np.abs(one).max()) for one in case["gradients"].values()), default=0.0)


def is_right(answer: Answer, case: Entry, tolerances: Entry, arithmetic: str) -> bool:
    """True if loss and gradients are those of a case; the gradients only where it has some."""
    if not loss_is_right(answer, case, tolerances, arithmetic):
        return False
    return not case["gradients"] or gradients_are_right(answer, case, tolerances, arithmetic)


def answer_of(returned: object, case: Entry) -> Answer:
    """What a function returned, checked."""
    loss, gradients = returned, None
    if isinstance(returned, tuple) and len(returned) == 2:
        loss, gradients = returned
    number = as_array(loss, "a loss", ())
    if gradients is None:
        return Answer(float(number), None, dtype_of(loss), "")
    needed = set(case["gradients"])
    if not isinstance(gradients, dict) or set(gradients) != needed:
        found = sorted(map(str, gradients)) if isinstance(gradients, dict) else type(gradients)
        raise Unjudged(f"returned gradients of {found}; expected a dict of {sorted(needed)}")
    arrays = {}
    for batch, expected in case["gradients"].items():
        arrays[batch] = as_array(gradients[batch], f"a gradient of {batch}", expected.shape)
    coarsest = max(map(dtype_of, gradients.values()), key=lambda name: UNITS.get(name, 0.0))
    return Answer(float(number), arrays, dtype_of(loss), coarsest)


def as_array(value: object, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value in float64; Unjudged for another shape, a NaN or an infinity."""
    try:
        array = np.asarray(value).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Unjudged(f"returned {what} that is no array ({shown(error)})") from None
    if array.shape != shape:
        raise Unjudged(f"returned {what} of shape {list(array.shape)}; expected {list(shape)}")
    if not np.isfinite(array).all():
        raise Unjudged(f"returned {what} that is not finite; expected finite numbers")
    return array


def dtype_of(value: object) -> str:
    """A key of UNITS, float16 counted as bfloat16; "" for a number of Python."""
    name = str(getattr(value, "dtype", ""))
    if name == "float16":
        return "bfloat16"
    return name if name in ("", *UNITS) else "float64"


def judge(
    function: Callable[..., object],
    batches: dict[str, Arrays],
    case: Entry,
    others: list[Entry],
    arithmetics: list[str],
) -> Outcome:
    """The Outcome of one case; others: the cases whose numbers a wrong answer may have."""
    options = {**case["options"], "semantics": case["semantics"]}
    try:
        answer = answer_of(function(case["method"], batches, options), case)
    except (Exception, SystemExit) as error:
        reason = f"raised {type(error).__name__}: {shown(error)}"
        message = str(error) if isinstance(error, Unjudged) else reason
        return Outcome(case, "error", arithmetics[0], message, None, None)
    loss_off = abs(answer.loss - case["loss"]) / (case["scale"] or 1.0)
    gradient_off = None
    if answer.gradients is not None:
        errors = [np.abs(g - case["gradients"][b]).max() for b, g in answer.gradients.items()]
        gradient_off = float(max(errors)) / (largest(case) or 1.0)
    for arithmetic in arithmetics:
        if is_right(answer, case, case, arithmetic):
            verdict = "pass" if answer.gradients is not None else "loss_only"
            message = "" if verdict == "pass" else "loss right, gradient not judged"
            return Outcome(case, verdict, arithmetic, message, loss_off, gradient_off)
    message = f"loss {answer.loss:.6g}, expected {case['loss']:.6g}"
    if loss_is_right(answer, case, case, arithmetics[-1]):
        message = "the loss is right, the gradient is wrong"
    if same := same_numbers(answer, case, others, arithmetics[-1]):
        message += f"; the numbers of {', '.join(same[:4])}"
    return Outcome(case, "fail", arithmetics[-1], message, loss_off, gradient_off)


def same_numbers(answer: Answer, case: Entry, others: list[Entry], arithmetic: str) -> list[str]:
    """The ids of other cases with the same inputs whose numbers an answer has."""
    found = []
    for other in others:
        is_wrong_case = other.get("of") == case["id"]
        if is_wrong_case or (other.get("shape") == case["shape"] and other is not case):
            if is_right(answer, other, case if is_wrong_case else other, arithmetic):
                found.append(other["id"])
    return found


def chosen(suite: Suite, arguments: argparse.Namespace) -> Iterator[tuple[Entry, list[Entry]]]:
    """(right case, all cases of its method) for the cases that the options choose."""
    cases = suite.methods()
    methods = names_in("--methods", arguments.methods, list(cases))
    right = [case for group in cases.values() for case in group if case["result"] != "invalid"]
    known = list(dict.fromkeys(case["semantics"] for case in right))
    asked = "" if arguments.semantics == "all" else arguments.semantics
    semantics = names_in("--semantics", asked, known)
    for case in right:
        fits = case["method"] in methods and case["semantics"] in semantics
        if fits and fnmatchcase(case["id"], arguments.only):
            yield case, cases[case["method"]]


def names_in(option: str, text: str, known: list[str]) -> list[str]:
    """The names in a text with commas, every known name for ""; Wrong for an unknown name."""
    names = [name.strip() for name in text.split(",")] if text else known
    for name in names:
        if name not in known:
            raise Wrong(f"{option}: {name!r} is unknown; expected {', '.join(known)}")
    return names


def load(name: str) -> Callable[..., object]:
    """The function module:function, searched in the working directory too."""
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:
        raise Wrong(
            f"{name}: cannot be imported ({type(error).__name__}: {shown(error)}); expected "
            "module:function, such as mylosses:loss"
        ) from None
    if not callable(function):
        raise Wrong(f"{name}: is a {type(function).__name__}; expected a function")
    return function


def shown(error: object) -> str:
    """A text of at most 300 characters on one line, printable and valid in XML."""
    line = " ".join(str(error).split())
    return (line if line.isprintable() else ascii(line)[1:-1])[:300]


def table(outcomes: list[Outcome]) -> str:
    """A line for each method, then one for each case that does not pass."""
    lines = ["method        pass loss only fail error  loss off grad. off"]
    for method in dict.fromkeys(outcome.case["method"] for outcome in outcomes):
        group = [outcome for outcome in outcomes if outcome.case["method"] == method]
        counts = [sum(one.verdict == verdict for one in group) for verdict in VERDICTS]
        losses = [one.loss_off for one in group if one.loss_off is not None]
        gradients = [one.gradient_off for one in group if one.gradient_off is not None]
        off = [f"{max(errors):9.1e}" if errors else f"{'-':>9}" for errors in (losses, gradients)]
        lines.append("{:12} {:5} {:9} {:4} {:5} ".format(method, *counts) + " ".join(off))
    wrong = [one for one in outcomes if one.verdict in ("fail", "error")]
    return "\n".join([*lines, *(f"{one.verdict} {one.case['id']}: {one.message}" for one in wrong)])


def junit(name: str, properties: dict[str, str], cases: list[tuple[str, str, str, str]]) -> bytes:
    """JUnit XML of one suite.

    properties  {name: text}; cases: (method, id, verdict, message). The verdicts fail and error are
                failures and errors, loss_only is skipped, others are passed
    """
    tags = {"fail": "failure", "error": "error", "loss_only": "skipped"}
    found = [tags.get(verdict, "") for _, _, verdict, _ in cases]
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    numbers = {"tests": str(len(cases))}
    numbers |= {key: str(found.count(tag)) for key, tag in counts.items()}
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **numbers})
    listed = ElementTree.SubElement(suite, "properties")
    for key, value in properties.items():
        ElementTree.SubElement(listed, "property", {"name": key, "value": value})
    for (method, id, verdict, message), tag in zip(cases, found, strict=True):
        element = ElementTree.SubElement(suite, "testcase", {"classname": method, "name": id})
        if tag:
            ElementTree.SubElement(element, tag, {"type": verdict, "message": message})
        elif message:
            ElementTree.SubElement(element, "system-out").text = message
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n"


def run(arguments: argparse.Namespace) -> list[Outcome]:
    """The outcomes of the chosen cases; prints them and writes --junit."""
    suite = Suite(Path(arguments.suite))
    function = load(arguments.function)
    arithmetic = arguments.arithmetic or getattr(function, "arithmetic", "")
    if arithmetic and arithmetic not in UNITS:
        raise Wrong(f"the arithmetic is {arithmetic!r}; expected one of {', '.join(UNITS)}")
    without = ["float64", "float32"] if arguments.dtype == "float64" else ["float32"]
    outcomes = []
    for case, others in chosen(suite, arguments):
        batches = suite.batches(case, arguments.dtype)
        tried = [arithmetic] if arithmetic else without
        outcomes.append(judge(function, batches, case, others, tried))
    if not outcomes:
        raise Wrong("no case has these methods and semantics and an id like --only")
    version = suite.manifest["version"]
    verdicts = [outcome.verdict for outcome in outcomes]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
    right = {one.arithmetic for one in outcomes if one.verdict in ("pass", "loss_only")}
    print(f"{arguments.function}, golden vectors {version}: {counts}")
    print(f"right to the rounding of: {', '.join(sorted(right)) or 'none'}")
    print(table(outcomes))
    if arguments.junit:
        head = {"version": version, "semantics": arguments.semantics, "dtype": arguments.dtype}
        cases = [(o.case["method"], o.case["id"], o.verdict, o.message) for o in outcomes]
        Path(arguments.junit).write_bytes(junit(arguments.function, head, cases))
    return outcomes


def main(words: list[str] | None = None) -> int:
    """The exit status."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("function", help="module:function")
    parser.add_argument("--suite", default=Path(__file__).parent, help="directory or zip archive")
    parser.add_argument("--methods", default="", help="with commas; default: all")
    parser.add_argument("--semantics", default="paper", help="with commas, or all; default: paper")
    parser.add_argument("--only", default="*", help="a pattern of ids, such as kl/*/plain")
    parser.add_argument("--dtype", default="float64", choices=("float64", "float32"))
    parser.add_argument("--arithmetic", default="", choices=("", *UNITS))
    parser.add_argument("--junit", default="", help="file to write as JUnit XML")
    try:
        outcomes = run(parser.parse_args(words))
    except (Wrong, OSError) as error:
        print(f"error: {shown(error)}", file=sys.stderr)
        return 2
    return int(any(outcome.verdict in ("fail", "error") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
