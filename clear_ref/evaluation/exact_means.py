"""Means, exactly rounded: the same bits in every order of records and candidates."""

import math

from clear_ref.common.errors import UserError


def mean(values) -> float:
    """The exactly rounded sum of the values divided by their number; UserError when there are none."""
    values = [float(value) for value in values]
    if not values:
        raise UserError("mean of no values; expected one record or more")
    return math.fsum(values) / len(values)


def harmonic_mean(values) -> float:
    """n / sum(1/x) of values >= 0; 0 if any of them is 0.

    source  paper 5.2; scipy.stats.hmean is the same
    flaw    one part at exactly 0 hides every other; on Forget that is the best value there is
    """
    values = [float(value) for value in values]
    if not values or min(values) < 0:
        raise UserError(f"harmonic mean of {values}; expected one number or more, none negative")
    return 0.0 if 0.0 in values else len(values) / math.fsum(1.0 / value for value in values)


def log_sum_exp(values) -> float:
    """log(sum(exp(values))), shifted by the largest, summed exactly."""
    top = max(float(value) for value in values)
    return top + math.log(math.fsum(math.exp(float(value) - top) for value in values))
