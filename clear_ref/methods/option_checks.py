"""Checks of a method's options, called by the options classes of the method files."""

import math

from clear_ref.common.errors import UserError


def check_finite(options: object, *names: str, positive: tuple[str, ...] = ()) -> None:
    """Raises UserError unless the named options are finite, and those in `positive` above 0."""
    for name in (*names, *positive):
        value = getattr(options, name)
        if not math.isfinite(value):
            raise UserError(f"option {name} is {value}; expected a finite number")
        if name in positive and value <= 0:
            raise UserError(f"option {name} is {value}; expected a number above 0")


def check_one_of(options: object, name: str, *choices: str) -> None:
    """Raises UserError unless the named option is one of the choices."""
    value = getattr(options, name)
    if value not in choices:
        raise UserError(f"option {name} is {value!r}; expected one of {', '.join(choices)}")


def check_at_least(options: object, name: str, least: int) -> None:
    """Raises UserError unless the named option is at least `least`."""
    value = getattr(options, name)
    if value < least:
        raise UserError(f"option {name} is {value}; expected at least {least}")
