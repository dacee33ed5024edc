"""The columns of the table of the visual-only track, and what they mean. Without torch."""

from collections.abc import Mapping
from typing import TypedDict

LOWER, HIGHER = "↓", "↑"
IDEAL = 0.5  # share of right guesses about a model that never knew anyone
NEARER = f"→ {IDEAL}"
# {number: (heading as in the paper's Table 5, which is better)}; there both attacks have LOWER, and
# its text calls IDEAL the best
COLUMNS = {
    "forget": ("Forget acc", LOWER),
    "holdout": ("Holdout acc", HIGHER),
    "retain": ("Retain acc", HIGHER),
    "u_lira": ("U-LIRA", NEARER),
    "u_mia": ("U-MIA", NEARER),
}
LABELS = {"base": "base (Original)", "gold": "gold"}
WORDS = {
    "paper": (
        "paper definitions: the first five pictures of a name are its reference, and are not "
        "attacked; float64; equal densities count as half right."
    ),
    "released": (
        "released definitions: five places for each name in the order of the classes are "
        "references, laid over the rows as they are, and are attacked too; float32."
    ),
}
MEANING = (
    "acc: percent of pictures that are given their name among all names, mean ± standard deviation "
    "(n - 1) over the splits. U-LIRA, U-MIA: share of right guesses who was a member, ± over the "
    f"target models. {HIGHER} higher is better, {LOWER} lower is better, {NEARER} nearer to "
    f"{IDEAL} is better: guesses about a model that never knew the people are right half the time; "
    "- not measured."
)


class Number(TypedDict):
    """A number and its spread.

    value   the mean over splits; of an attack the share of right guesses
    spread  standard deviation (n - 1) over splits, of an attack over target models
    n       how many splits or targets
    """

    value: float | None
    spread: float
    n: int


def headings() -> list[str]:
    """The heading of the stage, then those of the numbers."""
    return ["model", *(f"{heading} {arrow}" for heading, arrow in COLUMNS.values())]


def cells(stage: str, numbers: Mapping[str, Number]) -> list[str]:
    """One line of the table: the stage, then its numbers as they are printed."""
    return [LABELS.get(stage, stage), *(cell(name, numbers[name]) for name in COLUMNS)]


def cell(name: str, number: Number) -> str:
    """A number with its spread; "-" if it was not measured."""
    if number["value"] is None:
        return "-"
    digits = 2 if name in ("u_lira", "u_mia") else 1
    return f"{number['value']:.{digits}f} ± {number['spread']:.{digits}f}"
