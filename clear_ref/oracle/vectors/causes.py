"""What explains the cases of one method and semantics that do not pass.

A hypothesis is named only if it gives what the function returned in every case in which it can act,
passed cases included. So one name stands for all cases; no name is found case by case.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clear_ref.oracle.reference.arithmetic import LossResult

from . import hypotheses
from .agreement import Judge
from .case_inputs import Asked
from .difference import first_difference
from .fit import fit
from .hypotheses import Hypothesis
from .judged_function import Answer

# A hypothesis acts on a case if it changes the loss or the gradient by more than this, relatively.
ACTS = 1e-7


class Judged(NamedTuple):
    """One case with the function's answer; is_right: it passed."""

    asked: Asked
    answer: Answer
    arithmetic: str
    is_right: bool


@dataclass
class Cause:
    """What explains some failed cases.

    kind  semantics, peer, mistake, factor, pair, fit, or place: nothing explains the case, and name
          says where it differs first
    also  other hypotheses that give the same numbers in every case
    """

    name: str
    kind: str
    also: list[str]


def causes(group: Sequence[Judged]) -> dict[str, Cause]:
    """{id of a failed case: its Cause} for the cases of one method and semantics."""
    failed = [one for one in group if not one.is_right]
    if not failed:
        return {}
    ordered = failed + [one for one in group if one.is_right]
    singles = _explaining(_singles(failed), ordered)
    wanted = {one.asked.entry["id"] for one in failed}
    complete = [one for one, ids in singles if ids == wanted]
    if not complete:
        pairs = _explaining(hypotheses.pairs(failed[0].asked), ordered)
        complete = [one for one, ids in pairs if ids == wanted]
    if not complete:
        elsewhere = _explaining(hypotheses.mistakes_in_other_semantics(failed[0].asked), ordered)
        complete = [one for one, ids in elsewhere if ids == wanted]
    if complete:
        return dict.fromkeys(wanted, _cause(complete))
    made_of = fit([(one.asked, one.answer) for one in ordered])
    if made_of:
        return dict.fromkeys(wanted, Cause(made_of, "fit", []))
    return _in_parts(singles, failed)


def _cause(same: Sequence[Hypothesis]) -> Cause:
    """The Cause that the first names; others with the same numbers are named beside it."""
    first = same[0].name
    also: list[str] = []
    for name in dict.fromkeys(one.name for one in same[1:]):
        plain = name.removesuffix(hypotheses.IGNORING_OPTIONS).split("@")[0]
        plain = plain.split(", the option ")[0]
        if not any(known.startswith(plain) for known in (first, *also)):
            also.append(name)
    return Cause(first, same[0].kind, also)


def _singles(failed: Sequence[Judged]) -> list[Hypothesis]:
    asked = failed[0].asked
    found = hypotheses.other_semantics(asked) + hypotheses.peers(asked)
    found += hypotheses.mistakes(asked)
    found += hypotheses.peers_with_number(asked, failed[0].answer.loss)
    factor = _factor(failed[0])
    return found + (hypotheses.factors(asked, factor) if factor is not None else [])


def _factor(one: Judged) -> float | None:
    """The number that takes the right gradient, or without one the right loss, to the answer's."""
    result = one.asked.result
    if one.answer.gradients is None:
        return one.answer.loss / result.loss if result.loss else None
    both = square = 0.0
    for name, gradient in result.gradients.items():
        both += float((gradient * one.answer.gradients[name]).sum())
        square += float((gradient * gradient).sum())
    return both / square if square else None


def _explaining(
    found: Iterable[Hypothesis], ordered: Sequence[Judged]
) -> list[tuple[Hypothesis, set[str]]]:
    """The hypotheses that no case contradicts, with the failed cases that they explain."""
    explaining = []
    for hypothesis in found:
        ids = _explained(hypothesis, ordered)
        explained = [one for one in ordered if ids and one.asked.entry["id"] in ids]
        if ids and _is_evidence(hypothesis, explained):
            explaining.append((hypothesis, ids))
    return sorted(explaining, key=lambda pair: -len(pair[1]))


def _is_evidence(hypothesis: Hypothesis, explained: Sequence[Judged]) -> bool:
    """True if the cases cannot all be met by chance.

    A gradient is evidence enough, but where logits are large: there it is made of few numbers.
    Without any, each loss that is another number counts one. One is needed; one more for a number
    that is fitted to it; one more for a pair; and one more if losses are compared as bfloat16
    numbers, where many hypotheses give the same.
    """
    for one in explained:
        if one.answer.gradients is not None and "large_logits" not in one.asked.entry["flags"]:
            return True
    coarse = any("bfloat16" in (one.arithmetic, one.answer.dtype) for one in explained)
    digits = 2 if coarse else 6
    different = {f"{one.answer.loss:.{digits}g}" for one in explained}
    return len(different) >= 1 + hypothesis.fitted + (hypothesis.kind == "pair") + coarse


def _explained(hypothesis: Hypothesis, ordered: Sequence[Judged]) -> set[str] | None:
    """The ids of the failed cases that it explains; None if a case in which it acts contradicts it.

    Where it hardly acts, it explains a case that fails by as little, if it gives what was returned.
    """
    ids = set()
    for one in ordered:
        result = hypothesis.predict(one.asked)
        if result is None or not np.isfinite(result.loss):
            continue
        acts = _acts(result, one.asked.result)
        if one.is_right and not acts:
            continue
        if _gives(hypothesis, result, one):
            if not one.is_right:
                ids.add(one.asked.entry["id"])
        elif acts:
            return None
    return ids


def _acts(result: LossResult, right: LossResult) -> bool:
    if abs(result.loss - right.loss) > ACTS * max(right.scale, result.scale):
        return True
    size = max(np.abs(gradient).max() for gradient in right.gradients.values())
    for name, gradient in result.gradients.items():
        expected = right.gradients.get(name, np.zeros_like(gradient))
        if expected.shape != gradient.shape:  # it reads a batch of another length
            return True
        if np.abs(gradient - expected).max() > ACTS * size:
            return True
    return False


def _gives(hypothesis: Hypothesis, result: LossResult, one: Judged) -> bool:
    """True if the result is what the function returned."""
    far = 0.05 * (result.scale + abs(one.answer.loss)) + 1e-6
    if one.arithmetic != "bfloat16" and abs(result.loss - one.answer.loss) > far:
        return False  # no need to derive the roundings
    judge = Judge(result, one.arithmetic)
    if not hypothesis.coarse:
        return judge.agrees(one.answer)
    return judge.loss_agrees(one.answer) and Judge(result, "bfloat16").gradients_agree(one.answer)


def _in_parts(
    singles: Sequence[tuple[Hypothesis, set[str]]], failed: Sequence[Judged]
) -> dict[str, Cause]:
    """For each failed case a hypothesis that no case contradicts, or where it differs first."""
    found = {}
    for one in failed:
        id = one.asked.entry["id"]
        own = [hypothesis for hypothesis, ids in singles if id in ids]
        if own:
            found[id] = _cause(own)
        else:
            judge = Judge(one.asked.result, one.arithmetic)
            place = first_difference(judge, one.answer, one.asked.every)
            found[id] = Cause(place, "place", [])
    return found
