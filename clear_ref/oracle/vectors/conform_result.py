"""The JSON object that `conform --json` prints, and the summary of one method in it."""

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from .verdict import Verdict

# Counts of one method, its largest errors, and what explains the cases that do not pass, as
# {cause: number of cases}.
MethodSummary = TypedDict(
    "MethodSummary",
    {
        "pass": int,
        "loss_only": int,
        "acceptable": int,
        "fail": int,
        "error": float | None,
        "gradient_error": float | None,
        "causes": dict[str, int],
    },
)


class UsedVectors(TypedDict):
    """Which golden vectors were run: their version, and the compact or the full set."""

    version: str
    set: str


class ConformResult(TypedDict):
    """What `conform --json` prints."""

    impl: str
    vectors: UsedVectors
    framework: str
    dtype: str
    semantics: list[str]
    strict: bool
    tolerance: dict[str, dict[str, float] | str]
    counts: dict[str, int]
    methods: dict[str, MethodSummary]
    passed: bool
    cases: list[Verdict]


def counts_of(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """The number of verdicts of each kind."""
    count = Counter(verdict["verdict"] for verdict in verdicts)
    return {name: count[name] for name in ("pass", "loss_only", "acceptable", "fail")}


def summarize(verdicts: Sequence[Verdict]) -> MethodSummary:
    """The MethodSummary of one method's verdicts."""
    counts = counts_of(verdicts)
    errors = [v["error"] for v in verdicts if v["error"] is not None]
    gradient_errors = [v["gradient_error"] for v in verdicts if v["gradient_error"] is not None]
    found: Counter[str] = Counter()
    for verdict in verdicts:
        if verdict["cause"] and verdict["cause_kind"] != "place":
            found[verdict["cause"]] += 1
    return {
        "pass": counts["pass"],
        "loss_only": counts["loss_only"],
        "acceptable": counts["acceptable"],
        "fail": counts["fail"],
        "error": max(errors, default=None),
        "gradient_error": max(gradient_errors, default=None),
        "causes": found,
    }
