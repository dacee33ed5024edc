"""Consecutive lines of the same kind (image, padding) as one line."""

from collections.abc import Iterable, Sequence
from typing import cast

from .explanation import Line

FOLDED_KINDS = ("image", "padding")
NUMBERS = (
    "nll",
    "teacher_nll",
    "kl_teacher_student",
    "kl_student_teacher",
    "norm",
    "moved",
    "gradient",
    "d_logp",
    "d_logit",
)


class FoldedLine(Line):
    """One line, or several as one. count: how many; contribution: their sum; the rest: means."""

    count: int


def number_in(line: Line, key: str) -> float | None:
    """A number of a line by its key; None if the line has none."""
    value = line.get(key)
    return value if isinstance(value, float | int) else None


def folded(lines: Iterable[Line], kinds: Sequence[str] = FOLDED_KINDS) -> list[FoldedLine]:
    """The lines; consecutive lines of the same kind, if it is one of `kinds`, are one line."""
    groups: list[list[Line]] = []
    for line in lines:
        if groups and line["kind"] in kinds and groups[-1][-1]["kind"] == line["kind"]:
            groups[-1].append(line)
        else:
            groups.append([line])
    return [merged(group) for group in groups]


def merged(group: list[Line]) -> FoldedLine:
    """One line of several."""
    first = group[0]
    if len(group) == 1:
        return cast(FoldedLine, {**first, "count": 1})
    line: dict[str, object] = {
        "position": first["position"],
        "id": first["id"],
        "token": first["token"],
        "kind": first["kind"],
        "count": len(group),
        "contribution": sum(one["contribution"] for one in group),
    }
    for key in NUMBERS:
        if key in first:
            line[key] = mean([number_in(one, key) for one in group])
    if "weights" in first:
        columns = dict.fromkeys(column for one in group for column in one["weights"])
        line["weights"] = {
            column: mean([one["weights"].get(column, 0.0) for one in group]) for column in columns
        }
    return cast(FoldedLine, line)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
