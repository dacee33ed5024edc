"""Columns of an evaluation log, checked: errors name the task, the column and the record."""

import math
from collections.abc import Iterable, Mapping
from typing import TypeGuard

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number, shown
from clear_ref.common.files import one_line

# A log of any kind: column name -> column. logs.py checks no values, so they are checked here.
AnyLog = Mapping[str, object]


def name_of(log: AnyLog) -> str:
    """The task of a log, for messages."""
    return one_line(log.get("task", "log"), 100)


def has(log: AnyLog, column: str) -> bool:
    """Whether the log has the column, with a record or more."""
    return bool(log.get(column))


def column_of(log: AnyLog, column: str) -> dict[str, object]:
    """A column, unchanged; UserError if it is missing, not a dict, or empty."""
    values = log.get(column)
    if not isinstance(values, dict):
        columns = one_line(", ".join(key for key in log if key != "task") or "none")
        raise UserError(f"{name_of(log)}: no column {column}; found {columns}; evaluate again")
    if not values:
        raise UserError(
            f"{name_of(log)}: column {column} is empty; expected one record or more; evaluate again"
        )
    return values


def finite(log: AnyLog, column: str, index: str, value: object) -> float:
    """The value; UserError unless it is a finite number and not below -1e-3.

    Losses and shares are not negative, except by rounding.
    """
    number = math.nan
    if isinstance(value, (int, float)) and is_number(value):
        number = float(value)
    if not math.isfinite(number) or number < -1e-3:
        raise UserError(
            f"{name_of(log)}: {column} of record {one_line(index, 40)} "
            f"is {shown(value)}; expected a finite "
            "number >= 0; the model may have diverged"
        )
    return number


def numbers(log: AnyLog, column: str) -> dict[str, float]:
    """A column of one finite number for each record."""
    return {
        index: finite(log, column, index, value) for index, value in column_of(log, column).items()
    }


def lists(log: AnyLog, column: str) -> dict[str, list[float]]:
    """A column of a list of one or more finite numbers for each record."""
    checked = {}
    for index, values in column_of(log, column).items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{name_of(log)}: {column} of record {one_line(index, 40)} "
                f"is {shown(values)}; expected a list "
                "of numbers"
            )
        checked[index] = [finite(log, column, index, value) for value in values]
    return checked


def texts(log: AnyLog) -> dict[str, list[str]]:
    """The column generated_text: [prompt, generated, expected] for each record."""
    checked = {}
    for index, values in column_of(log, "generated_text").items():
        if not _is_three_texts(values):
            raise UserError(
                f"{name_of(log)}: generated_text of record {one_line(index, 40)} "
                f"is {shown(values)}; expected "
                "[prompt, generated, expected]; evaluate again"
            )
        checked[index] = values
    return checked


def _is_three_texts(value: object) -> TypeGuard[list[str]]:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(isinstance(text, str) for text in value)


def same_records(log: AnyLog, a: Iterable[str], b: Iterable[str], name_a: str, name_b: str) -> None:
    """UserError unless two columns hold the same records.

    a, b            the columns, or their indices
    name_a, name_b  what messages call them
    """
    indices_a, indices_b = set(a), set(b)
    odd = sorted(indices_a ^ indices_b)
    if odd:
        raise UserError(
            f"{name_of(log)}: record {one_line(odd[0], 60)} is in only one of {name_a} "
            f"({len(indices_a)} records) and {name_b} ({len(indices_b)} records); evaluate again"
        )
