"""Harmonic means that are 0 because some of their parts are 0: found, marked, the parts named.

On Forget 0 is the best possible value, so a model whose other parts are high would read as one that
has forgotten everything.
"""

from collections.abc import Iterable, Sequence

from clear_ref.evaluation.definitions import AGGREGATES, aggregate_definition
from clear_ref.evaluation.metrics import Scores

from .columns import OTHER_COLUMNS, PAPER_COLUMNS

MARK = "‡"
MEANING = (
    "a harmonic mean that is 0 because a part of it is 0; it says nothing about the other parts"
)
HEADINGS = {metric: heading for metric, heading, _ in (*PAPER_COLUMNS, *OTHER_COLUMNS)}


def zero_parts(scores: Scores, metric: str) -> list[str]:
    """The parts that are 0, as "PART of TASK", if this number is 0 because of them.

    [] if it is not 0, no harmonic mean, or if all of its parts are 0.
    """
    if scores.get(metric) != 0:
        return []
    name = scores.get("definitions", {}).get(metric)
    for metrics, aggregates in AGGREGATES.items():
        parts = aggregates.get(metric)
        if not parts or (name and aggregate_definition(metrics, metric).name != name):
            continue
        if all(task in scores["tasks"] for task, _ in parts):
            zero = [f"{part} of {task}" for task, part in parts if not scores["tasks"][task][part]]
            return zero if len(zero) < len(parts) else []
    return []


def is_zero(seeds: Iterable[Scores], metric: str) -> bool:
    """Whether the number of any seed is 0 because of a part."""
    return any(zero_parts(scores, metric) for scores in seeds)


def legend(models: Iterable[tuple[str, Sequence[Scores]]], metrics: Iterable[str]) -> list[str]:
    """[one sentence that names every marked number and its parts]; [] if there is none.

    models   (name, its scores of each seed)
    metrics  the columns of the table
    """
    models = list(models)
    named: dict[str, list[str]] = {}
    for metric in metrics:
        for name, seeds in models:
            parts = dict.fromkeys(part for own in seeds for part in zero_parts(own, metric))
            if parts:
                numbers = named.setdefault(" and ".join(parts), [])
                numbers.append(f"{HEADINGS.get(metric, metric)} of {name}")
    if not named:
        return []
    reasons = [f"{', '.join(numbers)} ({parts})" for parts, numbers in named.items()]
    return [f"{MARK} {MEANING}: {'; '.join(reasons)}."]
