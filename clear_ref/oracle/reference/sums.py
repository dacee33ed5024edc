"""Numbers made of columns, each with its derivative by every column of every row."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .exact import exp, log1p
from .rows import Row

# The name of a column, or its name followed by its parameters.
Column = str | tuple[str, *tuple[float, ...]]
Weights = dict[tuple[Row, Column], float]


@dataclass(frozen=True)
class Bend:
    """A nonlinear step f(x) on the way to a number, x = sum of inner weight x column.

    curvature  f''(x), times what f is multiplied by later. An error of x changes the slope of each
               column by curvature x error of x x inner weight
    rest       f(x) - f'(x) x, times the same: what the columns' weights do not add up to (parts.py)
    unseen     the size of the part of f'(x) that is no gradient, because a factor is constant
    """

    curvature: float
    inner: Weights
    rest: float = 0.0
    unseen: float = 0.0


@dataclass
class Sum:
    """A number, and d number / d column of a row: {(row, column): weight}.

    bends    its nonlinear steps; rounded: the size of what these steps round. Both serve the bounds
             of rounding errors (roundings.py), bends also the parts of a loss (parts.py)
    """

    value: float = 0.0
    weights: Weights = field(default_factory=dict)
    bends: tuple[Bend, ...] = ()
    rounded: float = 0.0

    def __add__(self, other: "Sum") -> "Sum":
        return total([self, other])

    def __rmul__(self, factor: float) -> "Sum":
        return self.chain(factor * self.value, factor)

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def chain(
        self, value: float, slope: float, curvature: float = 0.0, rounded: float = 0.0
    ) -> "Sum":
        """f of this number, by the chain rule: `value` is f of it, `slope` is f's derivative.

        curvature  f's second derivative; rounded: the size of the numbers that f rounds
        """
        bends = tuple(
            Bend(slope * bend.curvature, bend.inner, slope * bend.rest, abs(slope) * bend.unseen)
            for bend in self.bends
        )
        rest = value - slope * self.value
        if curvature or (rounded and rest):
            bends += (Bend(curvature, self.weights, rest),)
        weights = {key: slope * weight for key, weight in self.weights.items()}
        return Sum(value, weights, bends, abs(slope) * self.rounded + rounded)

    def times_constant(self, factor: float, slope: float) -> "Sum":
        """w(x) x of this number x, whose gradient takes w for a constant.

        factor  w(x); slope: the derivative of w
        """
        product = self.chain(factor * self.value, factor, rounded=abs(factor * self.value))
        unseen = abs(slope * self.value)
        return replace(product, bends=(*product.bends, Bend(slope, self.weights, unseen=unseen)))


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
    rounded = 0.0
    weights: Weights = {}
    bends: tuple[Bend, ...] = ()
    for term in terms:
        value += term.value
        rounded += term.rounded
        bends += term.bends
        for key, weight in term.weights.items():
            weights[key] = weights.get(key, 0.0) + weight
    return Sum(value, weights, bends, rounded)


def softplus(beta: float, x: Sum) -> Sum:
    """log(1 + exp(beta x)), without overflow."""
    y = beta * x.value
    small = float(exp(-abs(y)))
    value = max(y, 0.0) + float(log1p(small))
    curvature = beta * beta * small / (1 + small) ** 2
    slope = beta * (1 if y >= 0 else small) / (1 + small)
    return x.chain(value, slope, curvature, value + 1)
