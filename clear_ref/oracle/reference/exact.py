"""exp, log and sums that are correctly rounded, so that the vectors have the same bytes everywhere.

Numpy's and the C library's exp and log differ in the last bit from one processor to another, and
the value of a sum depends on the order of its terms. Here exp and log are computed with 30 digits
and then rounded; sums are exact and then rounded. Infinities and NaN behave as in IEEE arithmetic.
"""

import math
from collections.abc import Callable
from decimal import Context, Decimal

import numpy as np
from numpy.typing import ArrayLike

DIGITS_30 = Context(prec=30, traps=[])
DIGITS_60 = Context(prec=60, traps=[])


def exp(x: ArrayLike) -> np.ndarray:
    """exp of each entry of x."""
    return _of_each_entry(_exp, x)


def log(x: ArrayLike) -> np.ndarray:
    """Natural logarithm of each entry of x."""
    return _of_each_entry(_log, x)


def log1p(x: ArrayLike) -> np.ndarray:
    """log(1 + x) of each entry of x.

    Below 1e-20 the result is x to the last bit. Above, 60 digits keep 40 digits of 1 + x.
    """
    return _of_each_entry(_log1p, x)


def power(x: np.ndarray, exponent: float) -> np.ndarray:
    """x^exponent of each entry of x.

    A negative x gives NaN unless the exponent is one of the whole numbers 0 to 8.
    """
    if exponent in range(9):
        product = np.ones_like(x)
        for _ in range(int(exponent)):
            product = product * x
        return product
    return exp(exponent * log(x))


def add(x: ArrayLike) -> float:
    """The sum of all entries."""
    if np.isfinite(x).all():
        return math.fsum(np.ravel(x).tolist())
    return float(np.sum(x))


def _exp(value: float) -> float:
    return 0.0 if value < -800.0 else float(DIGITS_30.exp(Decimal(value)))


def _log(value: float) -> float:
    return float(DIGITS_30.ln(Decimal(value)))


def _log1p(value: float) -> float:
    if abs(value) < 1e-20:
        return value
    return float(DIGITS_60.ln(DIGITS_60.add(Decimal(value), Decimal(1))))


def _of_each_entry(function: Callable[[float], float], x: ArrayLike) -> np.ndarray:
    array = np.asarray(x, np.float64)
    return np.array([function(value) for value in array.ravel().tolist()]).reshape(array.shape)
