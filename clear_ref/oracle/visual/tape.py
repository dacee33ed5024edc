"""Arrays that remember how they were computed, for gradients; the same bytes on every processor.

Numpy's exp, log and products of matrices differ in the last bit from one processor to another.
Here exp and log are those of reference/exact.py, sums are exact and then rounded, and a product of
matrices adds its terms one after another. That takes a hundred times as long, so arrays of more
than LARGE entries, which no golden vector has, are left to numpy. Gradients are computed from the
last operation back to the first, by the rules of calculus.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from clear_ref.oracle.reference import exact

LARGE = 4096  # entries
Array = np.ndarray
Operand = Union["Tracked", Array, float]
Back = Callable[[Array], Array]  # gradient in a result -> gradient in one operand, broadcast or not


@dataclass(frozen=True, eq=False)
class Tracked:
    """An array, and for each operand of the operation that made it, how its gradient follows."""

    value: Array
    operands: tuple[tuple["Tracked", Back], ...] = ()

    __array_ufunc__ = None  # array * Tracked is Tracked.__rmul__, not an array of Tracked

    def __len__(self) -> int:
        return len(self.value)

    def __add__(self, other: Operand) -> "Tracked":
        b = _tracked(other)
        return Tracked(self.value + b.value, ((self, lambda g: g), (b, lambda g: g)))

    def __sub__(self, other: Operand) -> "Tracked":
        b = _tracked(other)
        return Tracked(self.value - b.value, ((self, lambda g: g), (b, lambda g: -g)))

    def __mul__(self, other: Operand) -> "Tracked":
        b = _tracked(other)
        x, y = self.value, b.value
        return Tracked(x * y, ((self, lambda g: g * y), (b, lambda g: g * x)))

    def __truediv__(self, other: Operand) -> "Tracked":
        b = _tracked(other)
        x, y = self.value, b.value
        return Tracked(x / y, ((self, lambda g: g / y), (b, lambda g: -g * (x / y) / y)))

    def __neg__(self) -> "Tracked":
        return Tracked(-self.value, ((self, lambda g: -g),))

    def __rsub__(self, other: Operand) -> "Tracked":
        return _tracked(other) - self

    __radd__ = __add__
    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> "Tracked":
        def back(g: Array) -> Array:
            whole = np.zeros(self.value.shape)
            np.add.at(whole, key, g)
            return whole

        return Tracked(self.value[key], ((self, back),))

    def ravel(self) -> "Tracked":
        """All entries in one row."""
        return Tracked(self.value.ravel(), ((self, lambda g: g.reshape(self.value.shape)),))

    def sum(self) -> "Tracked":
        """The sum over the last axis."""
        shape = self.value.shape
        return Tracked(_sum(self.value), ((self, lambda g: np.broadcast_to(g[..., None], shape)),))


def where(mask: Array, x: Tracked) -> Tracked:
    """x where the mask is true, else 0."""
    return Tracked(np.where(mask, x.value, 0.0), ((x, lambda g: np.where(mask, g, 0.0)),))


def joined(parts: list[Tracked]) -> Tracked:
    """Rows of entries, one after another in one row."""
    ends = np.cumsum([len(part) for part in parts])

    def cut(k: int) -> Back:
        return lambda g: np.split(g, ends)[k]

    operands = tuple((part, cut(k)) for k, part in enumerate(parts))
    return Tracked(np.concatenate([part.value for part in parts]), operands)


def products(x: Tracked, y: Tracked) -> Tracked:
    """[B, K]: the scalar products of the rows of x [B, D] and y [K, D]."""
    of_x = (x, lambda g: _matrix_product(g, y.value))
    of_y = (y, lambda g: _matrix_product(g.T, x.value))
    return Tracked(_matrix_product(x.value, y.value.T), (of_x, of_y))


def exp(x: Tracked) -> Tracked:
    """Exponential of each entry."""
    value = (np if x.value.size > LARGE else exact).exp(x.value)
    return Tracked(value, ((x, lambda g: g * value),))


def log(x: Tracked) -> Tracked:
    """Natural logarithm of each entry."""
    value = (np if x.value.size > LARGE else exact).log(x.value)
    return Tracked(value, ((x, lambda g: g / x.value),))


def log1p(x: Tracked) -> Tracked:
    """log(1 + x) of each entry."""
    value = (np if x.value.size > LARGE else exact).log1p(x.value)
    return Tracked(value, ((x, lambda g: g / (1 + x.value)),))


def sqrt(x: Tracked) -> Tracked:
    """Square root of each entry; IEEE arithmetic rounds it correctly."""
    value = np.sqrt(x.value)
    return Tracked(value, ((x, lambda g: g / (2 * value)),))


def gradients(result: Tracked, leaves: Mapping[str, Tracked]) -> dict[str, Array]:
    """{name: gradient of a number in a leaf}; zeros where it does not depend on the leaf."""
    found = {id(result): np.ones(result.value.shape)}
    for each in reversed(_in_order(result)):
        gradient = found[id(each)]
        for operand, back in each.operands:
            part = _as_shape(back(gradient), operand.value.shape)
            found[id(operand)] = found[id(operand)] + part if id(operand) in found else part
    return {name: found.get(id(leaf), np.zeros(leaf.value.shape)) for name, leaf in leaves.items()}


def _in_order(result: Tracked) -> list[Tracked]:
    """Every array that the result is computed from, operands before what is made of them."""
    order: list[Tracked] = []
    seen: set[int] = set()
    stack = [(result, False)]
    while stack:
        each, ready = stack.pop()
        if ready:
            order.append(each)
        elif id(each) not in seen:
            seen.add(id(each))
            stack.append((each, True))
            stack += [(operand, False) for operand, _ in each.operands]
    return order


def _tracked(value: Operand) -> Tracked:
    return value if isinstance(value, Tracked) else Tracked(np.asarray(value, float))


def _as_shape(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an operand that was broadcast: added up over what it was repeated for."""
    while gradient.ndim > len(shape):
        gradient = _sum(np.moveaxis(gradient, 0, -1))
    for axis, size in enumerate(shape):
        if size == 1 and gradient.shape[axis] != 1:
            gradient = np.expand_dims(_sum(np.moveaxis(gradient, axis, -1)), axis)
    return gradient


def _matrix_product(x: Array, y: Array) -> Array:
    if x.size + y.size > LARGE:
        return x @ y
    total = x[:, 0, None] * y[None, 0]
    for j in range(1, len(y)):
        total = total + x[:, j, None] * y[None, j]
    return total


def _sum(x: Array) -> Array:
    if x.size > LARGE:
        return x.sum(-1)
    rows = x.reshape(-1, x.shape[-1])
    return np.array([exact.add(row) for row in rows]).reshape(x.shape[:-1])
