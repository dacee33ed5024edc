"""Values of a config.json, checked before anything of their size is made."""

from collections.abc import Collection, Mapping
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName, one_line

# Upper bounds far above every model of these families.
LARGEST = 1 << 24
MOST_LAYERS = 1000
MOST_SIDE = 8192  # of a picture, in pixels
MOST = {"num_hidden_layers": MOST_LAYERS, "depth": MOST_LAYERS, "image_size": MOST_SIDE}


def part_of(config: Mapping[str, Any], key: str, where: PathName) -> dict[str, Any]:
    """config[key], or {} if it is absent or null; UserError unless it is an object."""
    part = config.get(key)
    if not isinstance(part, dict | None):
        raise UserError(f"{where}: {key} is {shown(part)}; expected an object")
    return part or {}


def number(values: Mapping[str, Any], key: str, where: PathName) -> float:
    """values[key] as a positive float; UserError for anything else."""
    value = values[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The upper bound excludes integers that no float holds: JSON has 10^400.
    if not is_number or not 0 < value < 1e30:
        raise UserError(f"{where}: {key} is {one_line(repr(value), 60)}; expected a number above 0")
    return float(value)


def whole_number(values: Mapping[str, Any], key: str, where: PathName) -> int:
    """values[key], 1 to LARGEST (or what MOST has for the key); UserError for anything else.

    Checked before any tensor of that size is made.
    """
    value = values[key]
    most = MOST.get(key, LARGEST)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"{where}: {key} is {one_line(repr(value), 60)}; "
            f"expected a whole number above 0, at most {most}"
        )
    return value


def flag(values: Mapping[str, Any], key: str, where: PathName) -> bool:
    """values[key], true or false; UserError for anything else."""
    value = values[key]
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} is {one_line(repr(value), 60)}; expected true or false")
    return value


def one_of(values: Mapping[str, Any], key: str, expected: Collection[str], where: PathName) -> str:
    """values[key], a word of `expected`; UserError for anything else."""
    value = values[key]
    if not isinstance(value, str) or value not in expected:
        words = " or ".join(repr(word) for word in expected)
        raise UserError(f"{where}: {key} is {one_line(repr(value), 60)}; expected {words}")
    return value


def token_id(values: Mapping[str, Any], key: str, vocabulary: int, where: PathName) -> int:
    """values[key], an id below `vocabulary`; UserError for anything else."""
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
        raise UserError(
            f"{where}: {key} is {one_line(repr(value), 60)}; expected an id in [0, {vocabulary})"
        )
    return value


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json whose weights are written in `dtype`.

    Old and new spelling, where they stand, say the same at every level: transformers 5 reads
    `dtype` first, 4.45 reads `torch_dtype` alone and without it takes the type of the weights.
    """
    written = {**config, "dtype": dtype}
    if "torch_dtype" in config:
        written["torch_dtype"] = dtype
    for part in ("text_config", "vision_config"):
        if isinstance(config.get(part), dict):
            given = config[part]
            written[part] = given | {key: dtype for key in ("dtype", "torch_dtype") if key in given}
    return written
