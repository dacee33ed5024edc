"""Rows on disk and records in memory.

On disk: DIR/CONFIG/rows.jsonl, one JSON object a line, with CLEAR's column names; a row's `image` is a path relative to DIR.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .images import check_picture

CAPTIONS = ("image", "caption", "name")
QUESTIONS = ("question", "answer")
PERTURBED = ("image", "caption", "name", "paraphrased_caption", "perturbed_captions", "perturbed_names")
MIXED = ("image", "caption", "question", "answer")
PERTURBED_QUESTIONS = ("question", "answer", "paraphrased_answer", "perturbed_answer")
OPTIONAL = {"image", "caption", "question", "answer"}  # null in the rows of the other half of a +tofu config
LISTS = {"perturbed_captions", "perturbed_names", "perturbed_answer", "options"}


def columns(config: str) -> tuple[str, ...]:
    """The columns that a config's rows must have; UserError for a name that is none of CLEAR's or TOFU's."""
    splits = {"full"} | {f"forget{n:02d}" for n in (1, 5, 10)} | {f"retain{n}" for n in (99, 95, 90)}
    known = {name: CAPTIONS for name in splits} | {f"{name}+tofu": MIXED for name in splits}
    known |= {f"tofu/{name}": QUESTIONS for name in splits}
    perturbed = {f"forget{n:02d}_perturbed" for n in (1, 5, 10)} | {"retain_perturbed"}
    known |= {name: PERTURBED for name in perturbed} | {f"tofu/{name}": PERTURBED_QUESTIONS for name in perturbed}
    known |= {"real_faces": ("image", "answer", "options"), "real_world": ("image", "question", "answer", "options"),
              "pretrain": ("image", "question", "answer")}
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
    directory, expected = Path(directory), columns(config)
    path = directory / config / "rows.jsonl"
    if not path.exists():
        have = sorted(str(p.parent.relative_to(directory)) for p in directory.glob("**/rows.jsonl"))
        raise UserError(f"{path}: no such file; {directory} holds the configs: {', '.join(have) or 'none'}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            rows.append(_row(directory, expected, len(rows), f"{path}:{number}", line))
    if not rows:
        raise UserError(f"{path}: holds no row; expected at least one")
    return rows


def _row(directory, expected, index, where, line) -> Row:
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
            good = (isinstance(value, str) and value != "") or (value is None and column in OPTIONAL)
            kind = "a text"
        if not good:
            raise UserError(f"{where}: column {column} is {value!r}; expected {kind}")
    answer = values.get("caption") or values.get("answer")
    if answer is None or (values.get("caption") is None and "caption" in values and values.get("question") is None
                          and set(values) != set(CAPTIONS)):
        raise UserError(f"{where}: has neither a caption nor a question with its answer; expected one of them")
    image = None
    if values.get("image") is not None:
        image = directory / values["image"]
        if not image.resolve().is_relative_to(directory.resolve()):
            raise UserError(f"{where}: picture {values['image']} lies outside {directory}; expected a path inside it")
        if not image.exists():
            raise UserError(f"{where}: there is no picture {image}; put it there or drop the row")
        check_picture(image, where)
    elif values.get("caption") is not None:
        raise UserError(f"{where}: has a caption and no picture; expected a path in column image")
    return Row(index, where, values, image)


def training_record(row: Row, caption_question: str) -> Record:
    """What training asks of a row: a caption of the picture, or its own question."""
    values = row.values
    if values.get("caption") is not None:
        return Record(caption_question, values["caption"], row.image, values.get("name"))
    return Record(values["question"], values["answer"], row.image)
