"""Means with one rounding: the same bits in every order of records and candidates."""

import math
from collections.abc import Iterable

from clear_ref.common.errors import UserError


def mean(values: Iterable[float]) -> float:
    """The exactly rounded sum of the values divided by their number; UserError for no values."""
    numbers = [float(value) for value in values]
    if not numbers:
        raise UserError("mean of no values; expected one record or more")
    return math.fsum(numbers) / len(numbers)


def harmonic_mean(values: Iterable[float]) -> float:
    """n / sum(1/x) of values >= 0; 0 if any of them is 0.

    source  paper 5.2; scipy.stats.hmean is the same
    flaw    if one part is exactly 0 the mean is 0, whatever the other parts are; on Forget 0 is
            the best possible value
    """
    numbers = [float(value) for value in values]
    if not numbers or min(numbers) < 0:
        raise UserError(f"harmonic mean of {numbers}; expected one number or more, none negative")
    if 0.0 in numbers:
        return 0.0
    return len(numbers) / math.fsum(1.0 / number for number in numbers)


def log_sum_exp(values: Iterable[float]) -> float:
    """log(sum(exp(values))), shifted by the largest value, summed exactly."""
    numbers = [float(value) for value in values]
    largest = max(numbers)
    return largest + math.log(math.fsum(math.exp(number - largest) for number in numbers))
