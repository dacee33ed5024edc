"""The report on a whole dump: all stages, the first that differs, the mistakes that explain it."""

from dataclasses import asdict
from typing import TypedDict

import numpy as np
import torch

from clear_ref.model.vlm import VLM
from clear_ref.oracle.mistakes.known import MISTAKES

from .causes.table import CAUSES
from .comparison import STAGES, Causes, Comparison, Finding
from .dump_file import Dump
from .input_stages import compare_inputs
from .loss_stages import compare_columns, compare_loss
from .mistakes import explaining_mistakes
from .model_stages import compare_model
from .picture_stages import check_pictures


class FindingFields(TypedDict):
    """The fields of a Finding."""

    stage: str
    batch: str
    error: float
    tolerance: float
    reason: str
    n_off: int
    n: int
    where: tuple[int, ...]
    place: str
    token: str
    theirs: float | None
    ours: float | None


class Stage(FindingFields):
    """The fields of a Finding, and whether no place is beyond the tolerance."""

    same: bool


class ExplainingMistake(TypedDict):
    """A known mistake or cause.

    what    it in one sentence; seen: where it was made
    detail  what is known of it in this dump, or ""
    """

    name: str
    what: str
    seen: str
    detail: str


class DiffReport(TypedDict):
    """What `diff --json` prints.

    stages        in the order of computation
    not_compared  a line for each tensor that could not be compared, with the reason
    first         the first stage that differs, or None; mistakes: those that explain it
    """

    dump: str
    method: str
    semantics: str
    stages: list[Stage]
    not_compared: list[str]
    first: FindingFields | None
    mistakes: list[ExplainingMistake]


def compare_dump(dump: Dump, vlm: VLM | None) -> DiffReport:
    """Compare every stage of a dump; without a model those that need none."""
    comparison = Comparison(dump, vlm)
    with torch.no_grad():
        for name in dump.batches:
            if vlm is not None:
                check_pictures(comparison, vlm, name)
            compare_inputs(comparison, name)
            compare_model(comparison, name)
            compare_columns(comparison, name)
    with np.errstate(all="ignore"):  # a sum that overflows is infinite, and differs
        reference = compare_loss(comparison)
    findings = sorted(comparison.findings, key=lambda finding: STAGES.index(finding.stage))
    first = next((finding for finding in findings if not finding.same), None)
    causes: Causes = {}
    if first is not None:
        with np.errstate(all="ignore"), torch.no_grad():
            causes = explaining_mistakes(comparison, first, reference)
    return DiffReport(
        dump=dump.path,
        method=dump.method,
        semantics=dump.semantics,
        stages=[Stage(**fields_of(finding), same=finding.same) for finding in findings],
        not_compared=comparison.skipped,
        first=None if first is None else fields_of(first),
        mistakes=described(causes),
    )


def described(causes: Causes) -> list[ExplainingMistake]:
    """The causes with their descriptions, known mistakes first."""
    known = {mistake.name: mistake for mistake in MISTAKES}
    found = []
    for name in sorted(causes, key=lambda name: (name not in known, name)):
        entry = known[name] if name in known else CAUSES[name]
        found.append(
            ExplainingMistake(name=name, what=entry.what, seen=entry.seen, detail=causes[name])
        )
    return found


def fields_of(finding: Finding) -> FindingFields:
    """The fields of a Finding by name."""
    return FindingFields(**asdict(finding))  # type: ignore[typeddict-item]  # keys unknown to mypy
