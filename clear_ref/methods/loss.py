"""Loss, what a method returns, and the checks of its options."""

import math
from dataclasses import dataclass

import torch

from clear_ref.common.errors import ShapeError, UserError


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and the named scalars it is the sum of, signed and weighted as they enter it."""

    value: torch.Tensor
    terms: dict[str, torch.Tensor]

    @classmethod
    def of(cls, **terms) -> "Loss":
        """The Loss that is the sum of these scalars."""
        for name, term in terms.items():
            if term.ndim != 0:
                raise ShapeError(
                    f"loss term {name} has shape {list(term.shape)}; expected a scalar: reduce it first"
                )
        return cls(value=sum(terms.values()), terms=terms)


def check_finite(options, *names, positive=()):
    """Raises UserError unless the named options are finite numbers, and those of `positive` above 0."""
    for name in (*names, *positive):
        value = getattr(options, name)
        if not math.isfinite(value):
            raise UserError(f"option {name} is {value}; expected a finite number")
        if name in positive and value <= 0:
            raise UserError(f"option {name} is {value}; expected a number above 0")


def check_one_of(options, name, *choices):
    """Raises UserError unless the named option is one of the choices."""
    if getattr(options, name) not in choices:
        raise UserError(
            f"option {name} is {getattr(options, name)!r}; expected one of {', '.join(choices)}"
        )


def check_at_least(options, name, least):
    """Raises UserError unless the named option is this or more."""
    if getattr(options, name) < least:
        raise UserError(f"option {name} is {getattr(options, name)}; expected at least {least}")
