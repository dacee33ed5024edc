"""The verdict on one case: right, other semantics, or wrong; and what explains it."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from .agreement import SMALLEST, Judge, arithmetics
from .case_inputs import Asked
from .causes import Judged, causes
from .judged_function import CaseFailed, Gradients, JudgedFunction


class Verdict(TypedDict):
    """The verdict on one case, as --json prints it.

    verdict         pass, loss_only (the loss is right, there is no gradient), acceptable or fail
    arithmetic      the first arithmetic in which it was judged; if it is right, in which it is
    loss            what it returned; None if that cannot be judged
    error           |loss - expected| / sum of the terms' sizes; None without a loss
    gradient_error  the largest difference / the largest gradient; None without gradients. Both are
                    0 for a difference of up to 2^-126
    reason          why nothing could be judged, or what would make it right; else None
    cause           what explains a case that does not pass; None if it passes or is not judged
    cause_kind      semantics, peer, mistake, factor, pair, fit or place (causes.py)
    same_numbers    other names for the cause: they give the same numbers in every case
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
    cause: str | None
    cause_kind: str | None
    same_numbers: list[str]


def judge(asked: Asked, function: JudgedFunction) -> tuple[Verdict, Judged | None]:
    """The Verdict on one case, without its cause; None where nothing could be judged."""
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
        "cause": None,
        "cause_kind": None,
        "same_numbers": [],
    }
    try:
        answer = function(entry, asked.batches)
    except CaseFailed as failure:
        verdict["reason"] = str(failure)
        return verdict, None
    verdict["loss"] = answer.loss
    difference = abs(answer.loss - asked.result.loss)
    verdict["error"] = _share(difference, asked.result.scale)
    verdict["gradient_error"] = _gradient_error(answer.gradients, asked.result.gradients)
    for arithmetic in tried:
        if Judge(asked.result, arithmetic).agrees(answer):
            verdict["verdict"] = "pass" if answer.gradients is not None else "loss_only"
            verdict["arithmetic"] = arithmetic
            return verdict, Judged(asked, answer, arithmetic, True)
    return verdict, Judged(asked, answer, tried[-1], False)


def explain(verdicts: Sequence[Verdict], judged: Sequence[Judged], strict: bool) -> None:
    """Writes the causes into the verdicts of one method and semantics.

    strict  other semantics than those asked for fail, too
    """
    found = causes(judged)
    reason = _coarser(judged)
    for verdict in verdicts:
        cause = found.get(verdict["id"])
        if cause is None:
            continue
        verdict["cause"] = cause.name
        verdict["cause_kind"] = cause.kind
        verdict["same_numbers"] = cause.also
        verdict["reason"] = reason
        if cause.kind in ("semantics", "peer") and not strict:
            verdict["verdict"] = "acceptable"
            verdict["reason"] = None


def _coarser(judged: Sequence[Judged]) -> str | None:
    """The sentence for a function that is right in a coarser arithmetic than it was judged in.

    Only if that is so in each case, and logits are not large in all of them: there bfloat16 accepts
    a loss that is twice the right one.
    """
    failed = [one for one in judged if not one.is_right]
    if all("large_logits" in one.asked.entry["flags"] for one in failed):
        return None
    for arithmetic in ("float32", "bfloat16"):
        if all(Judge(one.asked.result, arithmetic).agrees(one.answer) for one in failed):
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
    return _share(float(max(errors)), float(size))


def _share(difference: float, size: float) -> float:
    """difference / size; 0 for a difference that no dtype but float64 holds: it is right."""
    return 0.0 if difference <= SMALLEST else difference / (size or 1.0)
