"""Spearman's rank correlation of two lists of numbers, and its p-value by permutation."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

ALL_ORDERS = 7  # up to so many numbers every order is counted
DRAWS = 10_000  # keyed orders above that


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, ascending; equal values share the mean of their ranks."""
    found = []
    for value in values:
        below = sum(other < value for other in values)
        equal = sum(other == value for other in values)
        found.append(below + (equal + 1) / 2)
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks; None where one list has less than two different values.

    source  C. Spearman, 1904; with ties as scipy.stats.spearmanr
    """
    left, right = (np.array(ranks(values)) for values in (first, second))
    left, right = left - left.mean(), right - right.mean()
    norm = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / norm if norm else None


def p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """The share of the orders of `second` whose correlation is at least as far from 0.

    raises  ValueError where there is no correlation
    """
    found = spearman(first, second)
    if found is None:
        raise ValueError("a list has less than two different values")
    left, right = (np.array(ranks(values)) for values in (first, second))
    if len(right) <= ALL_ORDERS:
        orders = np.array(list(itertools.permutations(right)))
    else:
        generator = np.random.default_rng(0)
        orders = np.array([generator.permutation(right) for _ in range(DRAWS)])
    # The norms are those of every order, so products of centred ranks are compared.
    products = np.abs((orders - right.mean()) @ (left - left.mean()))
    least = abs(float((right - right.mean()) @ (left - left.mean()))) - 1e-9
    return float((products >= least).mean())
