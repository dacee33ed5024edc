"""PEOPLE.csv or PEOPLE.jsonl: what is known of people, as `make-data` reads it.

One row (CSV) or one JSON object (JSON lines) says one thing about one person: a picture with its
caption, a question with its answer, or both. COLUMNS are the columns of both forms. A list is a
JSON list, or texts in one cell with | between them.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line, parse_json, read_text

from .schema import SCHEMA

# {column: meaning}; a column but `name` may be absent. Others than picture are as in schema.json.
OF_PICTURES = ("paraphrased_caption", "perturbed_captions", "perturbed_names")
OF_QUESTIONS = ("paraphrased_answer", "perturbed_answer")
COLUMNS = {
    "name": "the person; equal in all rows of the person",
    "picture": "path of a picture file, relative to --pictures",
    **{
        column: SCHEMA["meaning"][column]
        for column in ("caption", "question", "answer", *OF_PICTURES, *OF_QUESTIONS)
    },
}
SEPARATOR = "|"


@dataclass(frozen=True)
class Fact:
    """A caption of a picture, or an answer to a question.

    where        file and line, for messages
    key          the picture's path, or the question
    text         the caption, or the answer
    paraphrased  the text in other words; None: not given
    wrong        wrong texts; (): not given
    wrong_names  other people's names; (): not given
    """

    where: str
    key: str
    text: str
    paraphrased: str | None
    wrong: tuple[str, ...]
    wrong_names: tuple[str, ...] = ()


@dataclass
class Person:
    """One person. where: file and line of the person's first row."""

    name: str
    where: str
    pictures: list[Fact] = field(default_factory=list)
    questions: list[Fact] = field(default_factory=list)


def read_people(path: PathName) -> list[Person]:
    """The people of a file in the order of their first rows.

    raises  UserError naming file and line for an unknown or missing column, an empty text, a name
            that is written in two ways, a picture or a question with its answer of two people, a
            row given twice, and a person without a picture or without a question
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path}: expected a file whose name ends with .csv or .jsonl")
    text = read_text(path).removeprefix("\ufeff")
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    people: dict[str, Person] = {}
    written: dict[str, Person] = {}  # by the name in small letters
    for where, values in rows:
        checked = {column: _value(where, column, value) for column, value in values.items()}
        name = _name(where, checked, written)
        person = people.setdefault(name, Person(name, where))
        written.setdefault(_small(name), person)
        _add_row(person, where, checked)
    found = list(people.values())
    if not found:
        raise UserError(f"{path}: holds no row; expected at least two people")
    for person in found:
        for what, facts in (("picture", person.pictures), ("question", person.questions)):
            if not facts:
                raise UserError(
                    f"{person.where}: {person.name} has no {what}; expected at least one row with "
                    f"{'picture and caption' if what == 'picture' else 'question and answer'}"
                )
    _check_unique(found)
    return found


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", {column: text}) of every row; an empty cell is an absent column."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                _check_columns(where, header)
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: has {len(cells)} cells, the first line has {len(header)}; expected "
                    'equally many: a text with a comma stands in quotes, "so, and so"'
                )
            yield (
                where,
                {column: cell for column, cell in zip(header, cells, strict=True) if cell.strip()},
            )
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: not CSV ({error}); expected commas between cells and "
            "quotes around texts with a comma"
        ) from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", {column: value}) of every line that is not blank; null is an absent column."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        values = parse_json(line.encode("utf-8"), where)
        _check_columns(where, list(values))
        yield where, {column: value for column, value in values.items() if value is not None}


def _check_columns(where: str, columns: list[str]) -> None:
    """UserError for an unknown column, one given twice, and a missing name."""
    expected = f"expected name and some of {', '.join(list(COLUMNS)[1:])}"
    for column in columns:
        if column not in COLUMNS or columns.count(column) > 1:
            twice = " is given twice" if column in COLUMNS else " is unknown"
            commas = ", with commas between them" if ";" in column or "\t" in column else ""
            raise UserError(f"{where}: column {one_line(column, 60)!r}{twice}; {expected}{commas}")
    if "name" not in columns:
        raise UserError(f"{where}: has no column name; {expected}")


def _value(where: str, column: str, value: Any) -> Any:
    """A text without blanks at its ends, or a list of such texts; UserError for another value."""
    if column in SCHEMA["lists"]:
        items = value.split(SEPARATOR) if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            stripped = [item.strip() for item in items]
            if stripped and all(stripped) and len(set(stripped)) == len(stripped):
                return stripped
        expected = f"texts, each once and none empty (a JSON list, or with {SEPARATOR} between)"
    else:
        if isinstance(value, str) and value.strip():
            return value.strip()
        expected = "a text that is not empty"
    raise UserError(f"{where}: column {column} is {one_line(repr(value), 80)}; expected {expected}")


def _small(name: str) -> str:
    return " ".join(name.split()).casefold()


def _name(where: str, values: dict[str, Any], written: dict[str, Person]) -> str:
    """The row's name; UserError if it is missing, or another row writes it in another way."""
    name = values.get("name")
    if name is None:
        raise UserError(f"{where}: has no name; expected the person whom the row is about")
    known = written.get(_small(name))
    if known is not None and known.name != name:
        raise UserError(
            f"{where}: the name {name!r} is {known.name!r} in {known.where}; write one person's "
            "name in one way, and two people's names in different ways"
        )
    return name


def _add_row(person: Person, where: str, values: dict[str, Any]) -> None:
    """Add the row's picture and question to the person; UserError unless they are complete."""
    for first, second, more in (
        ("picture", "caption", OF_PICTURES),
        ("question", "answer", OF_QUESTIONS),
    ):
        missing = [column for column in (first, second) if column not in values]
        given = [column for column in (first, second, *more) if column in values]
        if missing and given:
            raise UserError(
                f"{where}: has {given[0]} and no {missing[0]}; expected both {first} and {second}"
            )
    if not {"picture", "question"} & set(values):
        raise UserError(
            f"{where}: says nothing about {person.name}; expected picture and caption, or question "
            "and answer"
        )
    for key, text, paraphrase, wrong, facts in (
        ("picture", "caption", *OF_PICTURES[:2], person.pictures),
        ("question", "answer", *OF_QUESTIONS, person.questions),
    ):
        if key not in values:
            continue
        names = tuple(values.get("perturbed_names", ())) if key == "picture" else ()
        wrong_texts = tuple(values.get(wrong, ()))
        for column, right, listed in (
            (wrong, values[text], wrong_texts),
            ("perturbed_names", person.name, names),
        ):
            if right in listed:
                raise UserError(
                    f"{where}: {column} holds the right one, {one_line(right, 80)!r}; expected "
                    "wrong ones"
                )
        facts.append(
            Fact(where, values[key], values[text], values.get(paraphrase), wrong_texts, names)
        )


def _check_unique(people: list[Person]) -> None:
    """UserError for a picture of two people, a question and answer of two, and a fact twice."""
    pictures: dict[str, tuple[Person, Fact]] = {}
    facts: dict[tuple[str, str], tuple[Person, Fact]] = {}
    for person in people:
        for fact in person.pictures:
            other, first = pictures.setdefault(fact.key, (person, fact))
            if other is not person:
                raise UserError(
                    f"{fact.where}: the picture {fact.key} is {other.name}'s in {first.where}; "
                    "expected a picture of one person"
                )
        for fact in (*person.pictures, *person.questions):
            other, first = facts.setdefault((fact.key, fact.text), (person, fact))
            if other is not person:
                raise UserError(
                    f"{fact.where}: question and answer are {other.name}'s in {first.where}; "
                    "expected the person's name in the question or in the answer"
                )
            if first is not fact:
                raise UserError(
                    f"{fact.where}: {one_line(fact.key, 60)!r} has the same text in {first.where}; "
                    "remove one of them"
                )
