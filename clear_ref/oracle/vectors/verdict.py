"""The verdict on one case: right, other semantics, or wrong; and the mistake that explains it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.methods import METHODS, make_options
from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.rows import Batches

from .judged_function import Gradients, JudgedFunction
from .vector_set import Entry, Vectors

UNITS = {"float64": 1e-12, "float32": 8 * 2.0**-24, "bfloat16": 8 * 2.0**-8}
REASON = """A number may be off by unit x (scale + largest logit x weight). scale, the sum of the
terms' sizes, is rounded a few times; each log-probability once more at the size of the largest
logit, as log-sum-exp minus logit is; weight: how much all of them count. unit is eight roundings of
the dtype (float32 5e-07, bfloat16 3.1e-02), in float64 some thousand (1e-12). The inputs are exact
in all three. In bfloat16 a mistake smaller than that passes."""
IGNORING_OPTIONS = ", the options ignored"


class Verdict(TypedDict):
    """The verdict on one case, as --json prints it.

    verdict         pass, acceptable or fail
    error           |loss - expected| / scale
    gradient_error  the largest difference / the largest gradient; None without gradients
    meaning         the semantics that it computes if they are not those asked for, else None
    mistakes        known mistakes that give its loss or, if the loss is right, its gradient
    """

    id: str
    method: str
    flags: list[str]
    verdict: str
    loss: float
    expected: float
    error: float
    gradient_error: float | None
    meaning: str | None
    mistakes: list[str]


@dataclass(frozen=True)
class Returned:
    """What a function returned for a case, and how exact it must be.

    unit           relative error that is allowed: UNITS of the dtype
    largest_logit  the largest logit or hidden state of the case
    """

    loss: float
    gradients: Gradients | None
    unit: float
    largest_logit: float

    def near(self, loss: float, scale: float, weight: float) -> bool:
        """True if the returned loss equals `loss` within the tolerance."""
        return abs(loss - self.loss) <= self.unit * (scale + self.largest_logit * weight)

    def agrees(self, loss: float, gradients: Gradients, scale: float, weight: float) -> bool:
        """True if loss and gradients are equal within the tolerance.

        Gradients that were not returned, or that have other shapes, are not compared.
        """
        if not self.near(loss, scale, weight):
            return False
        returned = self.gradients
        if returned is None or any(gradients[n].shape != returned[n].shape for n in returned):
            return True
        size = max(np.abs(gradients[name]).max() for name in returned)
        allowed = self.unit * (size + self.largest_logit * weight)
        errors = [np.abs(gradients[name] - returned[name]).max() for name in returned]
        return all(error <= allowed for error in errors)


def judge(vectors: Vectors, entry: Entry, function: JudgedFunction, strict: bool) -> Verdict:
    """The Verdict on one case.

    strict  other semantics than those asked for fail, too
    """
    batches = vectors.batches(entry)
    loss, gradients = function(entry, batches)
    expected_gradients = vectors.gradients(entry)
    returned = Returned(loss, gradients, UNITS[function.dtype], _largest_logit(batches))
    verdict: Verdict = {
        "id": entry["id"],
        "method": entry["method"],
        "flags": entry["flags"],
        "verdict": "pass",
        "loss": loss,
        "expected": entry["loss"],
        "error": abs(loss - entry["loss"]) / (entry["scale"] or 1),
        "gradient_error": _gradient_error(gradients, expected_gradients),
        "meaning": None,
        "mistakes": [],
    }
    if returned.agrees(entry["loss"], expected_gradients, entry["scale"], entry["weight"]):
        if entry["result"] == "acceptable":
            verdict["verdict"] = "acceptable"
        return verdict
    all_batches = every_array(vectors, entry, batches)
    semantics = _semantics_computed(returned, entry, all_batches)
    is_other_semantics = semantics is not None and not semantics.endswith(IGNORING_OPTIONS)
    verdict["verdict"] = "acceptable" if is_other_semantics and not strict else "fail"
    verdict["meaning"] = semantics
    verdict["mistakes"] = _mistakes_made(returned, entry, all_batches)
    return verdict


def _largest_logit(batches: Batches) -> float:
    return max(
        np.abs(array).max()
        for batch in batches.values()
        for key, array in batch.items()
        if key.endswith(("logits", "hidden"))
    )


def _gradient_error(gradients: Gradients | None, expected: Gradients) -> float | None:
    if gradients is None:
        return None
    error = max(np.abs(gradients[name] - expected[name]).max() for name in gradients)
    size = max(np.abs(array).max() for array in expected.values())
    return float(error / (size or 1.0))


def _semantics_computed(returned: Returned, entry: Entry, batches: Batches) -> str | None:
    """The name of the first other semantics that gives what was returned, or None."""
    for name, result in other_semantics(entry, batches):
        if returned.agrees(result.loss, result.gradients, result.scale, result.weight):
            return name
    return None


def _mistakes_made(returned: Returned, entry: Entry, batches: Batches) -> list[str]:
    """The known mistakes that give the returned loss and, if that is right, the gradients."""
    scale = entry["scale"]
    weight = entry["weight"]
    loss_is_right = returned.near(entry["loss"], scale, weight)
    names = []
    for mistake in MISTAKES:
        wrong = loss_with_mistake(
            mistake, entry["method"], entry["semantics"], entry["options"], batches
        )
        if wrong is None or not returned.near(wrong.loss, scale, weight):
            continue
        # If the loss is right, only the gradients distinguish the mistake.
        if not loss_is_right or returned.agrees(wrong.loss, wrong.gradients, scale, weight):
            names.append(mistake.name)
    return names


def every_array(vectors: Vectors, entry: Entry, batches: Batches) -> Batches:
    """Every batch of a case's shape, with every array.

    Other semantics and mistakes read more arrays than the case gives to the function.
    """
    tensor = "hidden" if entry["method"] == "rmu" else "logits"
    stored: Batches = {}
    for key, array in vectors.arrays["inputs"].items():
        shape, batch, name = key.split("/", 2)
        is_wanted = name in (tensor, f"teacher_{tensor}") or array.dtype == np.int64
        if shape == entry["shape"] and is_wanted:
            stored.setdefault(batch, {})[name] = array
    return {
        name: {**arrays, **batches.get(name, {})}
        for name, arrays in stored.items()
        if tensor in arrays
    }


def other_semantics(entry: Entry, batches: Batches) -> Iterator[tuple[str, LossResult]]:
    """(name, LossResult) of what else a function may compute on a case.

    First other semantics, with the options asked for, then with those of them that differ from the
    defaults. Then all semantics with default options, for a function that does not read its
    options: IGNORING_OPTIONS is part of the name.
    """
    method = entry["method"]
    for name, semantics, given in _attempts(entry):
        try:
            options = asdict(make_options(method, given, semantics))
            yield name, formulas.reference_loss(method, semantics, options, batches)
        except (UserError, KeyError):
            continue  # these semantics lack an option or a value, or read a batch that is missing


def _attempts(entry: Entry) -> list[tuple[str, str, Options]]:
    """(name, semantics, options given) in the order of other_semantics."""
    method = entry["method"]
    asked = entry["semantics"]
    defaults = {name: default_options(method, name) for name in METHODS[method].VARIANTS}
    changed = {}
    for option, value in entry["options"].items():
        if value != defaults[asked][option]:
            changed[option] = value
    released_first = sorted(defaults, key=lambda name: (not name.startswith("released"), name))
    attempts = []
    for semantics in released_first:
        known = defaults[semantics].keys()
        if semantics == asked or not changed.keys() <= known:
            continue
        for options in (entry["options"], changed):
            given = {option: value for option, value in options.items() if option in known}
            attempts.append((semantics, semantics, given))
    if changed:
        n_random = {"n_random": changed["n_random"]} if "n_random" in changed else {}
        for semantics in (asked, *released_first):
            attempts.append((semantics + IGNORING_OPTIONS, semantics, n_random))
    return attempts


def default_options(method: str, semantics: str) -> Options:
    """Every option of the semantics, with its default value."""
    return asdict(make_options(method, {}, semantics))
