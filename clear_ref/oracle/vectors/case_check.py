"""Checks one case of a vector file, as read from JSON. Format: ../suite/FORMAT.md.

../suite/schema.json states the same types as a JSON Schema. This check also compares a
case with the methods, their options, and the arrays of the file.
"""

from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from typing import Any, NamedTuple, cast

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.methods import LOSSES, table

from .vector_set import Entry, Vectors


def is_text(value: object) -> bool:
    """True for a text."""
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """True for a finite number; False for true and false."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300 and isfinite(value)


def is_size(value: object) -> bool:
    """True for a finite number of 0 or more."""
    return isinstance(value, (int, float)) and is_number(value) and value >= 0


def is_object(value: object) -> bool:
    """True for an object."""
    return isinstance(value, dict)


def is_roundings(value: object) -> bool:
    """True for the roundings of a case."""
    if not isinstance(value, dict) or set(value) != {"loss", "gradients", "added"}:
        return False
    by_batch = (value["gradients"], value["added"])
    return is_size(value["loss"]) and all(
        is_object_of_numbers(sizes) and all(map(is_size, sizes.values())) for sizes in by_batch
    )


def is_text_list(value: object) -> bool:
    """True for a list of texts."""
    return isinstance(value, list) and all(is_text(item) for item in value)


def is_object_of_texts(value: object) -> bool:
    """True for an object whose values are texts."""
    return isinstance(value, dict) and all(is_text(item) for item in value.values())


def is_object_of_numbers(value: object) -> bool:
    """True for an object whose values are finite numbers."""
    return isinstance(value, dict) and all(is_number(item) for item in value.values())


def is_object_of_text_lists(value: object) -> bool:
    """True for an object whose values are lists of texts."""
    return isinstance(value, dict) and all(is_text_list(item) for item in value.values())


class Kind(NamedTuple):
    """A kind of JSON value: a test for it, and its name in error messages."""

    matches: Callable[[object], bool]
    name: str


TEXT = Kind(is_text, "text")
NUMBER = Kind(is_number, "a finite number")
SIZE = Kind(is_size, "a number of 0 or more")
KEYS_OF_BOTH = {
    "id": TEXT,
    "method": TEXT,
    "loss": NUMBER,
    "gradients": Kind(is_object_of_texts, "an object of array names"),
    "sha256": TEXT,
}
KEYS_OF_WRONG = {"of": TEXT, "mistake": TEXT} | KEYS_OF_BOTH
KEYS_OF_RIGHT = {
    "semantics": TEXT,
    "options": Kind(is_object, "an object"),
    "shape": TEXT,
    "flags": Kind(is_text_list, "a list of texts"),
    "batches": Kind(is_object_of_text_lists, "an object of lists of texts"),
    "terms": Kind(is_object_of_numbers, "an object of numbers"),
    "scale": SIZE,
    "weight": SIZE,
    "roundings": Kind(is_roundings, "an object of loss, gradients and added, sizes of 0 or more"),
} | KEYS_OF_BOTH
RESULTS = ("valid", "acceptable", "invalid")


def problem_of_case(vectors: Vectors, method: str, entry: object) -> str | None:
    """The first problem of a case of a method's file, as the end of a sentence; None without one.

    vectors  with the arrays of "inputs" and of the method
    """
    if not isinstance(entry, dict):
        return f"is {_short(entry)}; expected an object"
    problem = _problem_of_keys(entry, method)
    if problem:
        return problem
    case = cast(Entry, entry)  # its keys and values are checked
    try:
        if case["result"] == "invalid":
            vectors.gradients(case)
            return None
        return _problem_of_semantics(case) or _problem_of_arrays(vectors, case)
    except KeyError as error:
        return f"lacks array {one_line(repr(error.args[0]), 100)}"


def _problem_of_keys(entry: dict[str, Any], method: str) -> str | None:
    """A key that is missing, or a value of a wrong kind."""
    if "result" not in entry:
        return "lacks result"
    if entry["result"] not in RESULTS:
        return f"has result {_short(entry['result'])}; expected one of {', '.join(RESULTS)}"
    is_right = entry["result"] != "invalid"
    keys = dict(KEYS_OF_RIGHT if is_right else KEYS_OF_WRONG)
    if is_right and method == "rmu":
        keys["control"] = TEXT
    for key, kind in keys.items():
        if key not in entry:
            return f"lacks {key}"
        if not kind.matches(entry[key]):
            return f"has {key} {_short(entry[key])}; expected {kind.name}"
    if entry["method"] != method:
        return f"has method {_short(entry['method'])}; expected {method!r}, as in the file's name"
    return None


def _problem_of_semantics(entry: Entry) -> str | None:
    """What is wrong with the semantics, options or batches of a right result."""
    method = entry["method"]
    semantics = entry["semantics"]
    options = entry["options"]
    known = LOSSES[method].VARIANTS
    if semantics not in known:
        return f"has semantics {_short(semantics)}; expected one of {', '.join(known)}"
    try:
        made = table.make_options(method, options, semantics)
    except UserError as error:
        return f"has wrong options ({one_line(error)})"
    if asdict(made) != options:
        return (
            f"has options {one_line(repr(options), 100)}; expected every option, such as "
            f"{one_line(repr(asdict(made)), 200)}"
        )
    wanted = set(table.needs(method, semantics, made))
    for key, names in (("batches", entry["batches"]), ("gradients", entry["gradients"])):
        if set(names) != wanted:
            shown = one_line(repr(list(names)), 100)
            return f"has {key} {shown}; expected {', '.join(sorted(wanted))}"
    return None


def _problem_of_arrays(vectors: Vectors, entry: Entry) -> str | None:
    """What is wrong with the arrays of a right result; KeyError for a missing array."""
    gradients = vectors.gradients(entry)
    student = "hidden" if entry["method"] == "rmu" else "logits"
    for name, batch in vectors.batches(entry).items():
        for key in ("labels", "attention_mask", student):
            if key not in batch:
                return f"has batch {name} without {key}; expected it"
        shape = list(gradients[name].shape)
        expected = list(batch[student].shape)
        if shape != expected:
            return f"has a gradient of {name} of shape {shape}; expected {expected}"
    return None


def _short(value: object) -> str:
    return one_line(repr(value), 60)
