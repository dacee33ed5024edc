"""The parts of a loss: what each row adds to it, and d loss / d column of each row.

`explain` shows them for losses that exist only here: known mistakes and other projects' meanings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .sums import Sum


@dataclass(frozen=True)
class Parts:
    """The parts of a loss, by position.

    contributions  {batch: [B, T]}: the sum over columns of weight x value, and an equal share of
                   the rest of each nonlinear step among the rows that it reads. They sum to the
                   loss
    weights        {batch: {column: [B, T]}}: d loss / d column
    """

    contributions: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def parts_of(sheet: Any, loss: Sum, gradients: Mapping[str, np.ndarray]) -> Parts:
    """The Parts of a loss.

    sheet      the Sheet that made it
    gradients  {batch: [B, T, V]}; their shapes are read
    """
    contributions = {name: np.zeros(array.shape[:2]) for name, array in gradients.items()}
    weights: dict[str, dict[str, np.ndarray]] = {name: {} for name in gradients}
    for (row, column), weight in loss.weights.items():
        if weight == 0:
            continue
        contributions[row.batch][row.b, row.t] += weight * sheet.cell(row, column).value
        name = column if isinstance(column, str) else column[0]
        own = weights[row.batch].setdefault(name, np.zeros(gradients[row.batch].shape[:2]))
        own[row.b, row.t] += weight
    for bend in loss.bends:
        places = {(row.batch, row.b, row.t) for row, _ in bend.inner}
        for batch, b, t in places:
            contributions[batch][b, t] += bend.rest / len(places)
    _add_constant(loss, contributions)
    return Parts(contributions, weights)


def _add_constant(loss: Sum, contributions: Mapping[str, np.ndarray]) -> None:
    """Adds what no row has, such as a step without rows: to every row read, or to the last one."""
    rest = loss.value - sum(float(array.sum()) for array in contributions.values())
    places = {(row.batch, row.b, row.t) for row, _ in loss.weights}
    if not places:
        next(iter(contributions.values()))[-1, -1] += rest
    for batch, b, t in places:
        contributions[batch][b, t] += rest / len(places)
