"""The verdict on one case: right, other semantics, or wrong; and the mistake that explains it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple, TypedDict

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.methods import METHODS, make_options
from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.formulas import Options, random_batches
from clear_ref.oracle.reference.rows import Batches

from .agreement import Judge, arithmetics
from .case_inputs import every_array, padded
from .judged_function import Answer, CaseFailed, Gradients, JudgedFunction
from .vector_set import Entry, Vectors

IGNORING_OPTIONS = ", the options ignored"


class Verdict(TypedDict):
    """The verdict on one case, as --json prints it.

    verdict         pass, loss_only (the loss is right, there is no gradient), acceptable or fail
    arithmetic      the first arithmetic in which it was judged; if it is right, in which it is
    loss            what it returned; None if that cannot be judged
    error           |loss - expected| / sum of the terms' sizes; None without a loss
    gradient_error  the largest difference / the largest gradient; None without gradients
    reason          why nothing could be judged, or what would make it right; else None
    meaning         the semantics that it computes if they are not those asked for, else None
    mistakes        known mistakes that give its loss or, if the loss is right, its gradient
    """

    id: str
    method: str
    flags: list[str]
    verdict: str
    arithmetic: str
    loss: float | None
    expected: float
    error: float | None
    gradient_error: float | None
    reason: str | None
    meaning: str | None
    mistakes: list[str]


class Asked(NamedTuple):
    """A case as the function gets it.

    every   every batch and array of its shape, which other meanings may read
    result  the right result
    """

    entry: Entry
    batches: Batches
    every: Batches
    result: LossResult


def ask(vectors: Vectors, entry: Entry, all_batches: bool, pad: bool) -> Asked:
    """The case; pad: with one T for all batches.

    all_batches  with every batch and the teacher; of random batches only those that are counted, if
                 any are
    """
    own = vectors.batches(entry)
    every = every_array(vectors, entry, own)
    if pad:
        every = padded(every)
        own = {name: {key: every[name][key] for key in batch} for name, batch in own.items()}
    result = formulas.reference_loss(entry["method"], entry["semantics"], entry["options"], own)
    given = own
    if all_batches:
        unread = set(random_batches(5)) - own.keys() if "random1" in own else set()
        given = {name: batch for name, batch in every.items() if name not in unread}
    return Asked(entry, given, every, result)


def judge(asked: Asked, function: JudgedFunction, strict: bool) -> Verdict:
    """The Verdict on one case.

    strict  other semantics than those asked for fail, too
    """
    entry = asked.entry
    tried = arithmetics(function)
    verdict: Verdict = {
        "id": entry["id"],
        "method": entry["method"],
        "flags": entry["flags"],
        "verdict": "fail",
        "arithmetic": tried[0],
        "loss": None,
        "expected": asked.result.loss,
        "error": None,
        "gradient_error": None,
        "reason": None,
        "meaning": None,
        "mistakes": [],
    }
    try:
        answer = function(entry, asked.batches)
    except CaseFailed as failure:
        verdict["reason"] = str(failure)
        return verdict
    verdict["loss"] = answer.loss
    verdict["error"] = abs(answer.loss - asked.result.loss) / (asked.result.scale or 1)
    verdict["gradient_error"] = _gradient_error(answer.gradients, asked.result.gradients)
    for arithmetic in tried:
        if Judge(asked.result, arithmetic).agrees(answer):
            verdict["verdict"] = "pass" if answer.gradients is not None else "loss_only"
            verdict["arithmetic"] = arithmetic
            return verdict
    semantics = _semantics_computed(asked, answer, tried[-1])
    is_other_semantics = semantics is not None and not semantics.endswith(IGNORING_OPTIONS)
    verdict["verdict"] = "acceptable" if is_other_semantics and not strict else "fail"
    verdict["meaning"] = semantics
    verdict["mistakes"] = _mistakes_made(asked, answer, tried[-1])
    if verdict["verdict"] == "fail":
        verdict["reason"] = _coarser(asked, answer, tried)
    return verdict


def _coarser(asked: Asked, answer: Answer, tried: list[str]) -> str | None:
    """The sentence for a function that is right in a coarser arithmetic than it was judged in."""
    for arithmetic in ("float32", "bfloat16"):
        if arithmetic not in tried and Judge(asked.result, arithmetic).agrees(answer):
            return (
                f"agrees within {arithmetic} arithmetic; --arithmetic {arithmetic} accepts it if "
                "it is meant to compute in that"
            )
    return None


def _gradient_error(gradients: Gradients | None, expected: Gradients) -> float | None:
    if gradients is None:
        return None
    errors = [np.abs(gradients[name] - expected.get(name, 0.0)).max() for name in gradients]
    size = max(np.abs(array).max() for array in expected.values())
    return float(max(errors) / (size or 1.0))


def _semantics_computed(asked: Asked, answer: Answer, arithmetic: str) -> str | None:
    """The name of the first other semantics that gives what was returned, or None."""
    for name, result in other_semantics(asked.entry, asked.every):
        if Judge(result, arithmetic).agrees(answer):
            return name
    return None


def _mistakes_made(asked: Asked, answer: Answer, arithmetic: str) -> list[str]:
    """The known mistakes that give the returned loss and gradients."""
    entry = asked.entry
    loss_is_right = Judge(asked.result, arithmetic).loss_agrees(answer)
    names = []
    for mistake in MISTAKES:
        wrong = loss_with_mistake(
            mistake, entry["method"], entry["semantics"], entry["options"], asked.every
        )
        if wrong is None or not Judge(wrong, arithmetic).loss_agrees(answer):
            continue
        # If the loss is right, only the gradients distinguish the mistake.
        if not loss_is_right or Judge(wrong, arithmetic).agrees(answer):
            names.append(mistake.name)
    return names


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
