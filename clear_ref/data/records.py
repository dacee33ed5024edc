"""Rows on disk and records in memory.

On disk: DIR/CONFIG/rows.jsonl, one JSON object a line, with the columns that schema.json lists and explains;
a row's `image` is a path relative to DIR.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError

SCHEMA = json.loads(
    (Path(__file__).parent / "schema.json").read_text(encoding="utf-8")
)  # data_fetch.py reads the same file


def columns(config: str) -> tuple[str, ...]:
    """The columns of a config's rows; one that ends with ? may be absent.

    raises  UserError for a name that is none of CLEAR's or TOFU's
    """
    if config not in SCHEMA["configs"]:
        raise UserError(
            f"unknown dataset config {config!r}; expected one of {', '.join(sorted(SCHEMA['configs']))}"
        )
    return tuple(SCHEMA["kinds"][kind(config)])


def kind(config: str) -> str:
    """What rows a known config has: captions, mixed, questions or another of the schema's kinds."""
    return SCHEMA["configs"][config]["kind"]


@dataclass(frozen=True)
class Record:
    """One question to the model. image: a picture, a path or None; answer None: prompt only."""

    question: str
    answer: str | None = None
    image: Any = None
    name: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of a config: its number, its file and line for messages, its columns, and the path of its picture."""

    index: int
    where: str
    values: dict
    image: Path | None


def read_rows(directory, config: str) -> list[Row]:
    """The rows of one config, checked: every column there, of its kind, every picture's file there.

    raises  UserError naming file and line for a line that is no JSON object, a missing, unknown or empty column, a picture
            that is missing or lies outside the directory
    """
    directory = Path(directory)
    columns(config)
    path = directory / config / "rows.jsonl"
    if not path.exists():
        have = sorted(str(p.parent.relative_to(directory)) for p in directory.glob("**/rows.jsonl"))
        raise UserError(
            f"{path}: no such file; {directory} holds the configs: {', '.join(have) or 'none'}"
        )
    rows = [
        row(directory, config, index, where, line)
        for index, (where, line) in enumerate(lines(path))
    ]
    if not rows:
        raise UserError(f"{path}: holds no row; expected at least one")
    return rows


def lines(path) -> Iterator[tuple[str, str]]:
    """("FILE:LINE", text) of every line that is not blank; UserError for a file that is not UTF-8. Only \\n ends a line."""
    try:
        texts = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); write the file again as UTF-8") from None
    return ((f"{path}:{number}", text) for number, text in enumerate(texts, 1) if text.strip())


def row(directory, config: str, index: int, where: str, line: str) -> Row:
    """One line as a checked row; errors as `read_rows`."""
    expected, nullable = columns(config), SCHEMA["nullable"].get(kind(config), ())
    known, needed = (
        {name.rstrip("?") for name in expected},
        {name for name in expected if name[-1] != "?"},
    )
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not a JSON object ({error}); mend or remove the line") from None
    if not isinstance(values, dict) or not needed <= set(values) <= known:
        found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        raise UserError(f"{where}: columns are {found}; expected {', '.join(sorted(expected))}")
    for column, value in values.items():
        if column in SCHEMA["lists"]:
            good = (
                isinstance(value, list)
                and value
                and all(isinstance(item, str) and item for item in value)
            )
            wanted = "a list of texts, at least one"
        else:
            good = (isinstance(value, str) and value != "") or (
                value is None and column in nullable
            )
            wanted = "a text"
        if not good:
            raise UserError(f"{where}: column {column} is {value!r}; expected {wanted}")
    if kind(config) == "mixed":
        halves = [
            tuple(values[column] is not None for column in half)
            for half in (expected[:2], expected[2:])
        ]
        if halves not in ([(True, True), (False, False)], [(False, False), (True, True)]):
            there = (
                ", ".join(column for column in expected if values[column] is not None) or "nothing"
            )
            raise UserError(
                f"{where}: has {there}; expected image and caption, or question and answer, and null for the others"
            )
    image = None
    if values.get("image") is not None:
        image = directory / values["image"]
        if not image.resolve().is_relative_to(directory.resolve()):
            raise UserError(
                f"{where}: picture {values['image']} lies outside {directory}; expected a path inside it"
            )
        if not image.is_file():
            raise UserError(f"{where}: there is no picture {image}; put it there or drop the row")
    return Row(index, where, values, image)


def training_record(row: Row, caption_question: str) -> Record:
    """What training asks of a row: a caption of the picture, or its own question."""
    values = row.values
    if values.get("caption") is not None:
        return Record(caption_question, values["caption"], row.image, values.get("name"))
    return Record(values["question"], values["answer"], row.image)
