"""exp, log and sums whose last bit is right, so that the vectors have the same bytes on every machine.

Numpy's and the C library's exp and log differ in the last bit from one processor to another, and a sum by its order. These are
rounded correctly: exp and log from 30 digits, sums exactly. Infinities and NaN go through as they do in IEEE arithmetic.
"""

import math
from decimal import Context, Decimal

import numpy as np

_DIGITS, _MORE = Context(prec=30, traps=[]), Context(prec=60, traps=[])


def exp(x) -> np.ndarray:
    """exp of each entry of x."""
    return _each(lambda value: 0.0 if value < -800.0 else float(_DIGITS.exp(Decimal(value))), x)


def log(x) -> np.ndarray:
    """Natural logarithm of each entry of x."""
    return _each(lambda value: float(_DIGITS.ln(Decimal(value))), x)


def log1p(x) -> np.ndarray:
    """log(1 + x) of each entry of x. Below 1e-20 that is x to the last bit; above, 60 digits keep 40 of 1 + x."""
    return _each(
        lambda value: (
            value if abs(value) < 1e-20 else float(_MORE.ln(_MORE.add(Decimal(value), Decimal(1))))
        ),
        x,
    )


def power(x, exponent) -> np.ndarray:
    """x^exponent of each entry of x; NaN for a negative x under an exponent that is no small whole number."""
    if exponent in range(9):
        found = np.ones_like(x)
        for _ in range(int(exponent)):
            found = found * x
        return found
    return exp(exponent * log(x))


def add(x) -> float:
    """The sum of all entries."""
    return math.fsum(np.ravel(x).tolist()) if np.isfinite(x).all() else float(np.sum(x))


def _each(function, x):
    x = np.asarray(x, np.float64)
    return np.array([function(value) for value in x.ravel().tolist()]).reshape(x.shape)
