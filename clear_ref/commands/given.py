"""What the command line named: settings, recipe values and method options, as text or values."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.common.settings import COMMAND_LINE, check_choices

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


@dataclass(frozen=True)
class Given:
    """The names and values of a command line; what it does not name keeps its default.

    settings  names of the settings that were named
    recipe    {field of the recipe: text}
    options   {option of the method: text} of --set NAME=VALUE
    recorded  {name: source} of settings and recipe values that are an earlier run's (repeat.py)
    recorded_options    the same of its options
    """

    settings: frozenset[str] = frozenset()
    recipe: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, str] = field(default_factory=dict)
    recorded_options: dict[str, str] = field(default_factory=dict)


def settings_from(arguments: Namespace, kind: type[Settings], **more: Any) -> Settings:
    """The settings of a command: the values named on the command line, else the defaults.

    more    values that the command line gives in another way, such as the method's name
    raises  UserError for a value that is not one of the field's choices
    """
    named = vars(arguments)
    own = {f.name: named[f.name] for f in fields(kind) if f.name in named}
    settings = kind(**own, **more)
    check_choices(settings, as_options=True)
    return settings


def given_from(arguments: Namespace, kind: type[DataclassInstance], *more: str) -> Given:
    """What the command line named; `more` names settings that it gave in another way.

    A setting of an earlier run counts as named if it was named there.
    """
    named = vars(arguments)
    recorded = named.get("recorded", {})
    defaults = {name for name, source in recorded.items() if source != COMMAND_LINE}
    own = {f.name for f in fields(kind) if f.name in named}
    return Given(
        frozenset(own - defaults | set(more)),
        {
            name.removeprefix("recipe_"): value
            for name, value in named.items()
            if name.startswith("recipe_")
        },
        pairs(named.get("options", [])),
        recorded,
        named.get("recorded_options", {}),
    )


def pairs(options: list[str], option: str = "--set", example: str = "beta=0.1") -> dict[str, str]:
    """{name: value} of --set NAME=VALUE.

    raises  UserError for a text without "=", and for a name that is given twice
    """
    found: dict[str, str] = {}
    for each in options:
        name, equals, value = each.partition("=")
        if not equals:
            raise UserError(f"{option} {each}: expected NAME=VALUE, such as {option} {example}")
        check_once(option, name, found, value)
        found[name] = value
    return found


def check_once(option: str, name: str, values: Mapping[str, str], value: str) -> None:
    """UserError that names both values if an option's name has one already.

    values  {name: value} of what is before it on the command line
    """
    if name in values:
        raise UserError(
            f"{option} {one_line(name, 60)} is given twice: {one_line(repr(values[name]), 60)} and "
            f"{one_line(repr(value), 60)}; expected it once"
        )


def numbers(text: str, option: str) -> list[int]:
    """The whole numbers of "0,1,2", each once; raises UserError that names the option."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option} is {text!r}; expected whole numbers with commas, such as 0,1,2"
        ) from None
    if len(set(found)) < len(found):
        raise UserError(f"{option} is {text!r}: a number is given twice; expected each once")
    return found
