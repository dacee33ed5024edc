"""The causes that `diff` names before the loss, as data.

A cause is named only if it gives the dump's numbers at every place of the stage that it says
something about, within the stage's tolerance.
"""

from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.files import read_json


@dataclass(frozen=True)
class Cause:
    """One cause.

    stages  at which it is looked for, in words
    what    it in one sentence; seen: where it is made, or how
    """

    name: str
    stages: str
    what: str
    seen: str


CAUSES: dict[str, Cause] = {
    name: Cause(name, **fields)
    for name, fields in read_json(Path(__file__).with_name("causes.json")).items()
}


def markdown() -> str:
    """The table of all causes for the README, one line each."""
    lines = ["| stages | cause | what | made by, for example |", "|---|---|---|---|"]
    for cause in CAUSES.values():
        lines.append(f"| {cause.stages} | `{cause.name}` | {cause.what} | {cause.seen} |")
    return "\n".join(lines) + "\n"
