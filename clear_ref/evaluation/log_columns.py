"""Columns of an evaluation log, read with care: what is missing or no finite number is named with its task and record."""

import math

from clear_ref.common.errors import UserError


def name_of(log: dict) -> str:
    """What messages call a log: its task."""
    return log.get("task", "log")


def column_of(log: dict, column: str) -> dict:
    """A column as it is; UserError if it is missing, no dict, or empty."""
    found = log.get(column)
    if not isinstance(found, dict):
        raise UserError(
            f"{name_of(log)}: no column {column}; found {', '.join(k for k in log if k != 'task') or 'none'}"
            "; evaluate again"
        )
    if not found:
        raise UserError(
            f"{name_of(log)}: column {column} is empty; expected one record or more; evaluate again"
        )
    return found


def finite(log: dict, column: str, key: str, value) -> float:
    """The value; UserError unless it is finite and, but for rounding, not negative, as losses and shares are."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < -1e-3:
        raise UserError(
            f"{name_of(log)}: {column} of record {key} is {value!r}; expected a finite number >= 0; "
            "the model may have diverged"
        )
    return float(value)


def numbers(log: dict, column: str) -> dict[str, float]:
    """A column of one finite number a record."""
    return {key: finite(log, column, key, value) for key, value in column_of(log, column).items()}


def lists(log: dict, column: str) -> dict[str, list[float]]:
    """A column of one or more finite numbers a record."""
    found = column_of(log, column)
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{name_of(log)}: {column} of record {key} is {values!r}; expected a list of numbers"
            )
    return {
        key: [finite(log, column, key, value) for value in values] for key, values in found.items()
    }


def texts(log: dict) -> dict[str, list[str]]:
    """The column generated_text: [prompt, generated, expected] a record."""
    found = column_of(log, "generated_text")
    for key, texts in found.items():
        if (
            not isinstance(texts, list)
            or len(texts) != 3
            or not all(isinstance(text, str) for text in texts)
        ):
            raise UserError(
                f"{name_of(log)}: generated_text of record {key} is {str(texts)[:80]}"
                "; expected [prompt, generated, expected]; evaluate again"
            )
    return found


def same_records(log: dict, a: dict, b: dict, name_a: str, name_b: str) -> None:
    """UserError unless two columns hold the same records."""
    odd = sorted(set(a) ^ set(b))
    if odd:
        raise UserError(
            f"{name_of(log)}: record {odd[0]} is in only one of {name_a} ({len(a)} records) and {name_b} "
            f"({len(b)} records); evaluate again"
        )
