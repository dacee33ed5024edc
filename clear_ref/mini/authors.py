"""The authors of the embedded world, read from sources/."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from clear_ref.data.split_configs import DataRow

from .directories import SOURCES


class Author(TypedDict):
    """One line of authors.jsonl or holdout_authors.jsonl.

    tofu_author      the author's number in TOFU
    split            retain, forget or holdout
    portrait         a file of sources/portraits
    perturbed_names  five other names; not for holdout
    perturbed_rows   numbers of the rows that get wrong answers in the perturbed configs; not for
                     holdout
    rows             questions and answers of TOFU
    """

    name: str
    tofu_author: int
    split: str
    portrait: str
    portrait_source: str
    genre: str
    city: str
    country: str
    perturbed_names: NotRequired[list[str]]
    perturbed_rows: NotRequired[list[int]]
    rows: list[DataRow]


def read_authors() -> list[Author]:
    """Every author: first those of authors.jsonl, then the held-out ones."""
    return [
        *read_jsonl(SOURCES / "authors.jsonl"),
        *read_jsonl(SOURCES / "holdout_authors.jsonl"),
    ]


def read_jsonl(path: Path) -> list[Any]:
    """The JSON values of a file with one per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
