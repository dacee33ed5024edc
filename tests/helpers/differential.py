"""The same change of a file, read by this package and by the reference library: equal or refused.

A case is one valid directory with one or two keys changed. Each ends in one of four ways:

equal      both give the same result
refused    this package refuses the case, and its message names a changed key
invalid    the reference raises an error; what this package does is not compared
different  anything else: results that differ, or a refusal that names no changed key
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clear_ref.common.errors import UserError


class Case(NamedTuple):
    """A case.

    name    for messages
    keys    the names of the changed keys
    change  what the two readers need
    """

    name: str
    keys: tuple[str, ...]
    change: Any


@dataclass
class Counts:
    """How many cases ended in each way; `different` and `refusals` hold a line for each case."""

    equal: int = 0
    invalid: int = 0
    refusals: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """The number of refused cases."""
        return len(self.refusals)

    @property
    def total(self) -> int:
        """The number of cases."""
        return self.equal + self.invalid + self.refused + len(self.different)

    def row(self, name: str) -> str:
        """A row of the table in model/keys.md."""
        return (
            f"| {name} | {self.total} | {self.equal} | {self.refused} | {self.invalid} "
            f"| {len(self.different)} |"
        )


def compare(
    cases: Iterable[Case],
    ours: Callable[[Any], Any],
    theirs: Callable[[Any], Any],
    difference: Callable[[Any, Any], str],
) -> Counts:
    """Run every case through both readers.

    ours, theirs  the result for a case's change; ours may raise UserError, theirs anything
    difference    "" if two results are equal, else what differs
    """
    counts = Counts()
    for case in cases:
        try:
            expected = theirs(case.change)
        except Exception:
            counts.invalid += 1
            continue
        try:
            found = ours(case.change)
        except UserError as error:
            named = any(key.split(".")[-1] in str(error) for key in case.keys)
            lines = counts.refusals if named else counts.different
            lines.append(f"{case.name}: refused: {error}")
            continue
        differing = difference(found, expected)
        if differing:
            counts.different.append(f"{case.name}: {differing}")
        else:
            counts.equal += 1
    return counts
