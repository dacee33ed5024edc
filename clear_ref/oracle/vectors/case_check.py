"""One case of a vector file, read from JSON: what is wrong with it. Format: tests/vectors/golden/FORMAT.md."""

from dataclasses import asdict
from math import isfinite

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.methods import METHODS, table


def is_number(value) -> bool:
    """A finite number, no bool."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and isfinite(value)
    )


def is_text(value) -> bool:
    """A text."""
    return isinstance(value, str)


def is_object(of):
    """Whether a value is an object of such values."""
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


def is_list(value) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


TEXT, NUMBER = (is_text, "text"), (is_number, "a finite number")
SIZE = (lambda value: is_number(value) and value >= 0, "a number of 0 or more")
NAMES = (is_object(is_text), "an object of array names")
BOTH = {"id": TEXT, "method": TEXT, "loss": NUMBER, "gradients": NAMES, "sha256": TEXT}
KINDS = (
    {"of": TEXT, "mistake": TEXT} | BOTH,
    {
        "semantics": TEXT,
        "options": (lambda v: isinstance(v, dict), "an object"),
        "shape": TEXT,
        "flags": (is_list, "a list of texts"),
        "batches": (is_object(is_list), "an object of lists of texts"),
        "terms": (is_object(is_number), "an object of numbers"),
        "scale": SIZE,
        "weight": SIZE,
    }
    | BOTH,
)
RESULTS = ("valid", "acceptable", "invalid")


def fault(vectors, method: str, entry) -> str | None:
    """What is wrong with a case of a method's file, and what is expected, as the end of a sentence; None: it is whole."""
    if not isinstance(entry, dict):
        return f"is {one_line(repr(entry), 60)}; expected an object"
    if "result" not in entry:
        return "lacks result"
    if entry["result"] not in RESULTS:
        return f"has result {one_line(repr(entry['result']), 60)}; expected one of {', '.join(RESULTS)}"
    right = entry["result"] != "invalid"
    for key, (is_one, expected) in (
        KINDS[right] | ({"control": TEXT} if right and method == "rmu" else {})
    ).items():
        if key not in entry:
            return f"lacks {key}"
        if not is_one(entry[key]):
            return f"has {key} {one_line(repr(entry[key]), 60)}; expected {expected}"
    if entry["method"] != method:
        return f"has method {one_line(repr(entry['method']), 60)}; expected {method!r}, the file's"
    try:
        return (of_meaning(entry) if right else None) or of_arrays(vectors, entry, right)
    except KeyError as error:
        return f"lacks array {one_line(repr(error.args[0]), 100)}"


def of_meaning(entry) -> str | None:
    """What is wrong with the semantics, options or batches of a right answer."""
    method, semantics, options = entry["method"], entry["semantics"], entry["options"]
    if semantics not in METHODS[method].VARIANTS:
        return f"has semantics {one_line(repr(semantics), 60)}; expected one of {', '.join(METHODS[method].VARIANTS)}"
    try:
        made = table.make_options(method, options, semantics)
    except UserError as error:
        return f"has wrong options ({one_line(error)})"
    if asdict(made) != options:
        return f"has options {one_line(repr(options), 100)}; expected every one, such as {one_line(repr(asdict(made)), 200)}"
    for what in ("batches", "gradients"):
        wanted = set(table.needs(method, semantics, made))
        if set(entry[what]) != wanted:
            return f"has {what} {one_line(repr(list(entry[what])), 100)}; expected {', '.join(sorted(wanted))}"
    return None


def of_arrays(vectors, entry, right: bool) -> str | None:
    """What is wrong with the arrays that a case names; KeyError for one that is not there."""
    batches = vectors.batches(entry) if right else {}
    gradients, student = (
        vectors.gradients(entry),
        "hidden" if entry["method"] == "rmu" else "logits",
    )
    for name, batch in batches.items():
        for key in ("labels", "attention_mask", student):
            if key not in batch:
                return f"has batch {name} without {key}; expected it"
        if gradients[name].shape != batch[student].shape:
            return f"has a gradient of {name} of shape {list(gradients[name].shape)}; expected {list(batch[student].shape)}"
    return None
