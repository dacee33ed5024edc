"""The settings of runs that were named on the command line: the ones that are not the defaults.

A value that all lines of a page share is said once, above the tables; the others are in the labels
of their lines.
"""

from collections.abc import Sequence
from typing import Any

from clear_ref.common.files import one_line
from clear_ref.common.run_directory import WITHOUT_EFFECT
from clear_ref.common.settings import COMMAND_LINE

from .comparable import SAME
from .read_runs import Run

# Settings that a table shows in another way (panels, seeds, methods), paths, and what changes no
# number of a table.
SHOWN_ELSEWHERE = frozenset(
    {"method", "semantics", "modality", "seed", "metrics", "evaluate_every"} | WITHOUT_EFFECT
)
PATHS = frozenset({"data", "model", "gold", "adapter"})
MOST_LETTERS = 60


def given(run: Run) -> dict[str, Any]:
    """{name: value} of the settings, recipe values and options named on the command line.

    Those of SHOWN_ELSEWHERE are left out. The mask and the recipe are those that the run had.
    """
    entries = run.record["settings"] | run.record.get("options", {})
    found = {
        name: entry["value"]
        for name, entry in entries.items()
        if entry["source"] == COMMAND_LINE and name not in SHOWN_ELSEWHERE
    }
    if "mask" in found:
        del found["mask"]
        found["label mask"] = run.record.get("label_mask")
    if "recipe" in found:
        found["recipe"] = run.record.get("recipe")
    return found


def common(runs: Sequence[Run]) -> dict[str, Any]:
    """{name: value} of what was given to all runs with one value.

    Settings of comparable.SAME have one value in all runs; one run that names it is enough.
    """
    all_given = [given(run) for run in runs]
    found = {}
    for own in all_given:
        for name, value in own.items():
            if name in SAME or all(name in other and other[name] == value for other in all_given):
                found[name] = value
    return found


def common_words(runs: Sequence[Run], n_lines: int) -> list[str]:
    """["epochs 3", ...]: what is said once, above the tables.

    Of a single line (n_lines 1) the label holds all but paths and the settings that every run of a
    page shares (comparable.SAME).
    """
    return [
        word(name, value)
        for name, value in common(runs).items()
        if n_lines > 1 or name in SAME or name in PATHS
    ]


def label_words(run: Run, said_once: dict[str, Any]) -> dict[str, str]:
    """{name: "epochs 3"} of what was given to a run, without what is said once, SAME and paths."""
    return {
        name: word(name, value)
        for name, value in given(run).items()
        if name not in said_once and name not in SAME and name not in PATHS
    }


def word(name: str, value: Any) -> str:
    """A setting and its value in one short text."""
    return one_line(f"{name} {value}", MOST_LETTERS)
