"""Whether rows with equal values follow each other."""

from collections.abc import Hashable, Iterable


def first_ungrouped(values: Iterable[Hashable]) -> int | None:
    """The first row whose value earlier rows have, with another value between; None if none has."""
    seen: set[Hashable] = set()
    before: Hashable = None
    for row, value in enumerate(values):
        if value != before and value in seen:
            return row
        seen.add(value)
        before = value
    return None
