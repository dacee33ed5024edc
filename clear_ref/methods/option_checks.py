"""Checks of a method's options: their types, and the ranges that the method files give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from clear_ref.common.errors import UserError
from clear_ref.common.guards import SETTINGS, fire
from clear_ref.common.settings import field_choices

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_finite(options: object, *names: str, positive: tuple[str, ...] = ()) -> None:
    """Raises UserError unless the named options are finite, and those in `positive` above 0."""
    for name in (*names, *positive):
        value = getattr(options, name)
        if not math.isfinite(value):
            raise UserError(f"option {name} is {value}; expected a finite number")
        if name in positive and value <= 0:
            raise UserError(f"option {name} is {value}; expected a number above 0")


def check_one_of(options: DataclassInstance, *names: str) -> None:
    """Raises UserError unless each named option is one of the choices of its field."""
    for name in names:
        choices = field_choices(type(options), name)
        value = getattr(options, name)
        if value not in choices:
            raise UserError(f"option {name} is {value!r}; expected one of {', '.join(choices)}")


def check_at_least(options: object, name: str, least: int) -> None:
    """Raises UserError unless the named option is at least `least`."""
    value = getattr(options, name)
    if value < least:
        raise UserError(f"option {name} is {value}; expected at least {least}")


def warn_zero_weights(options: DataclassInstance) -> None:
    """A guard that names the options that are weights and were set to 0, if there are any."""
    zero = [
        f"{each.name} ({each.metadata['meaning']})"
        for each in fields(options)
        if each.metadata.get("meaning", "").startswith("weight of")
        and getattr(options, each.name) == 0 != each.default
    ]
    if zero:
        were = "are 0: their terms have" if len(zero) > 1 else "is 0: its term has"
        fire("zero_weight", SETTINGS, f"option {', '.join(zero)} {were} no effect")


def options_from(kind: Any, method: str, semantics: str, given: Mapping[str, object]) -> Any:
    """An object of an options dataclass with the given values, which may be text.

    method, semantics  whose options they are, for messages
    raises             UserError on an unknown name or a wrong type
    """
    known = {field.name: field for field in fields(kind)}
    for name in given:
        if name not in known:
            described = [f"{field.name} ({field.metadata['meaning']})" for field in known.values()]
            raise UserError(
                f"{method} ({semantics}) has no option {name!r}; "
                f"its options: {'; '.join(described) or 'none'}"
            )
    return kind(
        **{name: typed_value(name, value, known[name].type) for name, value in given.items()}
    )


def typed_value(name: str, value: object, wanted: Any) -> object:
    """The value of an option as its type; UserError if it cannot be one."""
    if wanted is str and isinstance(value, str):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted in (int, float) and (is_number or isinstance(value, str)):
        number = _number(value, wanted)
        # A number of another type must keep its value: 2.5 is no int. NaN differs from itself.
        if number is not None and (isinstance(value, str) or number == value or value != value):
            return number
    article = "an" if wanted is int else "a"
    raise UserError(f"option {name} is {value!r}; expected {article} {wanted.__name__}")


def _number(value: Any, wanted: type) -> int | float | None:
    try:
        return float(value) if wanted is float else int(value)
    except (ValueError, OverflowError):
        return None
