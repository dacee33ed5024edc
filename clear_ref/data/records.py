"""Rows on disk and records in memory.

On disk: DIR/CONFIG/rows.jsonl, one JSON object a line, with CLEAR's column names; a row's `image` is a path relative to DIR.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

CAPTIONS = ("image", "caption", "name")
QUESTIONS = ("question", "answer")
PERTURBED = ("image", "caption", "name", "paraphrased_caption", "perturbed_captions", "perturbed_names")
MIXED = ("image", "caption", "question", "answer")
PERTURBED_QUESTIONS = ("question", "answer", "paraphrased_answer", "perturbed_answer")
PERTURBED_REAL = ("question", "answer", "perturbed_answer")
PRETRAIN = ("image", "question", "answer")
NULLABLE = {MIXED: MIXED, PRETRAIN: ("image",)}  # in a +tofu config, one half of the columns; questions may lack a picture
LISTS = {"perturbed_captions", "perturbed_names", "perturbed_answer", "options"}


def columns(config: str) -> tuple[str, ...]:
    """The columns that a config's rows must have; UserError for a name that is none of CLEAR's or TOFU's."""
    splits = {"full"} | {f"forget{n:02d}" for n in (1, 5, 10)} | {f"retain{n}" for n in (99, 95, 90)}
    known = {name: CAPTIONS for name in splits} | {f"{name}+tofu": MIXED for name in splits}
    known |= {f"tofu/{name}": QUESTIONS for name in splits}
    perturbed = {f"forget{n:02d}_perturbed" for n in (1, 5, 10)} | {"retain_perturbed"}
    known |= {name: PERTURBED for name in perturbed} | {f"tofu/{name}": PERTURBED_QUESTIONS for name in perturbed}
    known |= {f"tofu/{name}_perturbed": PERTURBED_REAL for name in ("real_authors", "world_facts")}
    known |= {"real_faces": ("image", "answer", "options"), "real_world": ("image", "question", "answer", "options"),
              "pretrain": PRETRAIN}
    if config not in known:
        raise UserError(f"unknown dataset config {config!r}; expected one of {', '.join(sorted(known))}")
    return known[config]


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
        raise UserError(f"{path}: no such file; {directory} holds the configs: {', '.join(have) or 'none'}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); write the file again as UTF-8") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_row(directory, config, len(rows), f"{path}:{number}", line))
    if not rows:
        raise UserError(f"{path}: holds no row; expected at least one")
    return rows


def _row(directory, config, index, where, line) -> Row:
    expected = columns(config)
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not a JSON object ({error}); mend or remove the line") from None
    if not isinstance(values, dict) or set(values) != set(expected):
        found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        raise UserError(f"{where}: columns are {found}; expected {', '.join(sorted(expected))}")
    for column, value in values.items():
        if column in LISTS:
            good = isinstance(value, list) and value and all(isinstance(item, str) and item for item in value)
            kind = "a list of texts, at least one"
        else:
            good = (isinstance(value, str) and value != "") or (value is None and column in NULLABLE.get(expected, ()))
            kind = "a text"
        if not good:
            raise UserError(f"{where}: column {column} is {value!r}; expected {kind}")
    if expected == MIXED:
        halves = [tuple(values[column] is not None for column in half) for half in (("image", "caption"), QUESTIONS)]
        if halves not in ([(True, True), (False, False)], [(False, False), (True, True)]):
            there = ", ".join(column for column in MIXED if values[column] is not None) or "nothing"
            raise UserError(f"{where}: has {there}; expected image and caption, or question and answer, and null for the others")
    image = None
    if values.get("image") is not None:
        image = directory / values["image"]
        if not image.resolve().is_relative_to(directory.resolve()):
            raise UserError(f"{where}: picture {values['image']} lies outside {directory}; expected a path inside it")
        if not image.is_file():
            raise UserError(f"{where}: there is no picture {image}; put it there or drop the row")
    return Row(index, where, values, image)


def training_record(row: Row, caption_question: str) -> Record:
    """What training asks of a row: a caption of the picture, or its own question."""
    values = row.values
    if values.get("caption") is not None:
        return Record(caption_question, values["caption"], row.image, values.get("name"))
    return Record(values["question"], values["answer"], row.image)
