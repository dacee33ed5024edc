"""Settings are dataclasses. Each field carries its meaning, the source of its default, its choices.

The command line, the help text and settings.json are made from these fields.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UserError
from .files import one_line
from .run_directory import SettingRecord

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = TypeVar("Value")
COMMAND_LINE = "command line"  # the source of a value that the user gave
DTYPES = ("float32", "float64", "bfloat16", "float16")  # names of torch dtypes


def setting(
    default: Value,
    meaning: str,
    source: str = "this project",
    choices: Sequence[Value] | None = None,
) -> Value:
    """A dataclass field with metadata: meaning, source of the default value, choices.

    choices  every allowed value; None if any value of the default's type is allowed
    """
    if choices is not None:
        choices = tuple(choices)
    return field(
        default=default, metadata={"meaning": meaning, "source": source, "choices": choices}
    )


def setting_names(kind: type[DataclassInstance]) -> list[str]:
    """The field names of a settings dataclass."""
    return [each.name for each in fields(kind)]


def parse_names(
    text: str, known: Collection[str], option: str, alternatives: str = "all"
) -> list[str]:
    """The names in "a, b"; each must be in `known` and be given once.

    option        for the error message: the option whose value is `text`
    alternatives  for the error message: values that the caller handles itself
    """
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in known or chosen.count(name) > 1:
            twice = " twice" if name in known else ""
            raise UserError(
                f"{option} names {name!r}{twice}; expected {alternatives}, or some of: "
                + ", ".join(known)
            )
    return chosen


def convert(kind: type[DataclassInstance], name: str, text: str) -> Any:
    """`text` as a value of the field `name`, in the type of the field's default.

    raises  UserError for an unknown name, a wrong type, and a value that is not in the choices
    """
    known = {each.name: each for each in fields(kind)}
    if name not in known:
        raise UserError(f"unknown setting {one_line(repr(name), 60)}; known: {', '.join(known)}")
    default: Any = known[name].default
    wanted = type(default)
    try:
        value = wanted(text)
    except ValueError:
        raise UserError(
            f"setting {name} is {one_line(repr(text), 60)}; expected {wanted.__name__}, such as "
            f"{default}"
        ) from None
    _check_choice(known[name], value, name)
    return value


def field_choices(kind: type[DataclassInstance], name: str) -> tuple[Any, ...]:
    """The choices of a field; () if any value of the default's type is allowed."""
    [chosen] = [each for each in fields(kind) if each.name == name]
    return chosen.metadata.get("choices") or ()


def check_choices(settings: DataclassInstance, as_options: bool = False) -> None:
    """UserError for the first field whose value is neither its default nor one of its choices.

    as_options  the error names --the-option of the command line, not the_field
    """
    for each in fields(settings):
        name = f"--{each.name.replace('_', '-')}" if as_options else each.name
        _check_choice(each, getattr(settings, each.name), name)


def _check_choice(each: Field[Any], value: object, name: str) -> None:
    choices = each.metadata.get("choices")
    if choices is not None and value != each.default and value not in choices:
        expected = ", ".join(str(choice) for choice in choices)
        raise UserError(f"{name} is {one_line(repr(value), 60)}; expected one of {expected}")


def with_sources(
    settings: DataclassInstance,
    given: Collection[str],
    mini: Collection[str] = (),
    recorded: Mapping[str, str] = {},
) -> dict[str, SettingRecord]:
    """{name: {value, source}} for settings.json.

    given     names given on the command line: their source is "command line"
    mini      names whose default is the embedded world's: their source is "mini"
    recorded  {name: source} of values that are an earlier run's
    The source of every other name is the source of its default.
    """
    found: dict[str, SettingRecord] = {}
    for each in fields(settings):
        if each.name in recorded:
            source = recorded[each.name]
        elif each.name in given:
            source = COMMAND_LINE
        elif each.name in mini:
            source = "mini"
        else:
            source = each.metadata["source"]
        found[each.name] = {"value": getattr(settings, each.name), "source": source}
    return found


def as_given(values: Mapping[str, object]) -> dict[str, SettingRecord]:
    """{name: {value, source}} for settings.json of values that the user gave."""
    return {name: {"value": value, "source": COMMAND_LINE} for name, value in values.items()}
