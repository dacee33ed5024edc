"""Numbers made of columns, each with its derivative by every column of every row."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .exact import exp, log1p
from .rows import Row

# The name of a column, or its name followed by its parameters.
Column = str | tuple[str, *tuple[float, ...]]
Weights = dict[tuple[Row, Column], float]


@dataclass
class Sum:
    """A number, and d number / d column of a row: {(row, column): weight}."""

    value: float = 0.0
    weights: Weights = field(default_factory=dict)

    def __add__(self, other: "Sum") -> "Sum":
        return total([self, other])

    def __rmul__(self, factor: float) -> "Sum":
        return self.chain(factor * self.value, factor)

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def chain(self, value: float, slope: float) -> "Sum":
        """f of this number, by the chain rule: `value` is f of it, `slope` is f's derivative."""
        return Sum(value, {key: slope * weight for key, weight in self.weights.items()})


def in_order(values: Iterable[float]) -> float:
    """The sum of numbers, rounded after each addition.

    The built-in sum() rounds otherwise since Python 3.12, which would change the stored vectors.
    """
    result = 0.0
    for value in values:
        result += value
    return result


def total(terms: Iterable[Sum]) -> Sum:
    """The sum of Sums."""
    value = 0.0
    weights: Weights = {}
    for term in terms:
        value += term.value
        for key, weight in term.weights.items():
            weights[key] = weights.get(key, 0.0) + weight
    return Sum(value, weights)


def softplus(beta: float, x: Sum) -> Sum:
    """log(1 + exp(beta x)), without overflow."""
    y = beta * x.value
    small = float(exp(-abs(y)))
    value = max(y, 0.0) + float(log1p(small))
    return x.chain(value, beta * (1 if y >= 0 else small) / (1 + small))
