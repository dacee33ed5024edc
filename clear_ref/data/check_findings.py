"""What check-data has read and found; used by check.py and check_splits.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clear_ref.common.files import one_line

from .records import Row

MOST_SHOWN = 200  # signs of a name or path in a line


@dataclass
class Findings:
    """What check-data has read and found in a data directory.

    rows      {config: its readable rows}
    digests   {path of a picture: SHA-256 of its file}
    sizes     {path of a picture: its width and height, upright}
    broken    {path of a picture that no command can open: why}
    problems  lines: a model would be trained or evaluated on something else than intended
    notes     lines: worth reading, not wrong by themselves
    known     lines: known oddities of the published data set
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    broken: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def rows_of(self, configs: Iterable[str]) -> list[Row]:
        """The rows of these configs, as far as the directory has them."""
        return [row for config in configs for row in self.rows.get(config, ())]

    def values(self, configs: Iterable[str], *columns: str) -> set[tuple[str, ...]]:
        """The different values of the columns, over the rows of the configs that have them all."""
        found = set()
        for row in self.rows_of(configs):
            values = tuple(
                row.values[column] for column in columns if row.values.get(column) is not None
            )
            if len(values) == len(columns):
                found.add(values)
        return found

    def pictures(self, configs: Iterable[str]) -> dict[str, str]:
        """{SHA-256: path relative to the directory} of the readable pictures of these configs."""
        found = {}
        for row in self.rows_of(configs):
            if row.image in self.digests:
                found[self.digests[row.image]] = row.values["image"]
        return found


def counted(things: Sequence[str], one: str, several: str) -> str:
    """ "3 rows (a, b, c)"; at most three are named, each in at most MOST_SHOWN signs."""
    named = ", ".join(one_line(thing, MOST_SHOWN) for thing in things[:3])
    if len(things) > 3:
        named += ", ..."
    return f"{len(things)} {one if len(things) == 1 else several} ({named})"
