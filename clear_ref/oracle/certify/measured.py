"""What a claim is measured as: an error and its bound."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clear_ref.methods import LOSSES

UNIT_ROUNDOFF = 2.0**-53
ROUNDING = 1000 * UNIT_ROUNDOFF
ROUNDING_REASON = "1000 roundings of the terms' size: no sum here has more summands"

Given = dict[str, Any]  # {option: value} of a method, beside the defaults


@dataclass(frozen=True)
class Trial:
    """One measurement of a claim; error: relative to the size of the terms."""

    method: str
    semantics: str
    error: float
    bound: float = ROUNDING
    reason: str = ROUNDING_REASON


@dataclass(frozen=True)
class Measured:
    """A claim about one method under one semantics: one line of the table.

    n       number of measurements
    error   the largest of them
    reason  why `bound` is the largest error that is allowed
    """

    claim: str
    method: str
    semantics: str
    n: int
    error: float
    bound: float
    reason: str

    @property
    def ok(self) -> bool:
        """Whether the claim holds. False if the error is NaN."""
        return self.error <= self.bound


def every_variant() -> list[tuple[str, str]]:
    """(method, semantics) of all variants."""
    return [
        (method, semantics) for method, module in LOSSES.items() for semantics in module.VARIANTS
    ]


def largest(*errors: float) -> float:
    """The largest error; NaN if one of them is NaN."""
    if any(error != error for error in errors):
        return float("nan")
    return max(errors)


def claim_of(function: Callable) -> str:
    """The claim that a function measures: its docstring on one line."""
    return " ".join(str(function.__doc__).split())
