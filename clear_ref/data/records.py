"""Rows on disk and records in memory.

On disk: DIR/CONFIG/rows.jsonl, one JSON object per line. schema.json lists the columns of every
config and explains them. A row's `image` is a path relative to DIR.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import (
    PathName,
    files_below,
    is_file,
    one_line,
    parse_json,
    read_text,
)
from clear_ref.common.guards import DATA, fire

from .images import ImageSource
from .schema import SCHEMA


def columns(config: str) -> tuple[str, ...]:
    """The columns of a config's rows; a column whose name ends with ? may be absent.

    raises  UserError for a name that is no config of CLEAR or TOFU
    """
    if config not in SCHEMA["configs"]:
        raise UserError(
            f"unknown dataset config {config!r}; expected one of "
            f"{', '.join(sorted(SCHEMA['configs']))}"
        )
    return tuple(SCHEMA["kinds"][kind_of(config)])


def kind_of(config: str) -> str:
    """The kind of a config's rows: captions, mixed, questions or another kind of schema.json."""
    return SCHEMA["configs"][config]["kind"]


@dataclass(frozen=True)
class Record:
    """One question to the model and its answer.

    answer  None: only the prompt is encoded
    image   a path, a Pillow image, or None; images.py says where the two differ
    name    the author in the picture; None if not known
    """

    question: str
    answer: str | None = None
    image: ImageSource | None = None
    name: str | None = None


@dataclass(frozen=True)
class Row:
    """One data row: one line of a config's rows.jsonl.

    index   number of the row in its config, from 0
    where   file and line, for messages
    values  {column: text, list of texts or None}
    image   path of its picture, or None
    """

    index: int
    where: str
    values: dict[str, Any]
    image: Path | None


def read_rows(directory: PathName, config: str) -> list[Row]:
    """The checked rows of one config.

    raises  UserError naming file and line for a line that is no JSON object, a missing, unknown or
            empty column, and a picture that is missing or outside the directory
    """
    if _noted is not None:
        return _noted.read(Path(directory), config)
    return _read_rows(Path(directory), config)


def has_config(directory: PathName, config: str) -> bool:
    """Whether a data directory has the rows of a config."""
    return (Path(directory) / config / "rows.jsonl").exists()


@dataclass
class Reads:
    """What read_rows was asked for while its reads are noted: each config is read once.

    rows    {config: its rows; [] where they cannot be read}
    errors  {config: why it cannot be read}
    asked   configs in the order of the questions; a caller may empty it
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    errors: dict[str, UserError] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)

    def read(self, directory: Path, config: str) -> list[Row]:
        """The rows of a config; [] where they cannot be read. All of one data directory."""
        self.asked[config] = None
        if config not in self.rows:
            try:
                self.rows[config] = _read_rows(directory, config)
            except UserError as error:
                self.rows[config] = []
                self.errors[config] = error
        return self.rows[config]


_noted: Reads | None = None


@contextmanager
def noting_reads() -> Iterator[Reads]:
    """Inside the block read_rows notes what it is asked for, and raises nothing.

    So check-data learns from a command's own code what the command reads.
    """
    global _noted
    _noted = Reads()
    try:
        yield _noted
    finally:
        _noted = None


def _read_rows(directory: Path, config: str) -> list[Row]:
    """See read_rows."""
    columns(config)
    path = directory / config / "rows.jsonl"
    if not path.exists():
        below = files_below(directory) if directory.is_dir() else []
        files = [path for path in below if path.name == "rows.jsonl"]
        have = [str(path.parent.relative_to(directory)) for path in files]
        raise UserError(
            f"{path}: no such file; {directory} holds the configs: {', '.join(have) or 'none'}"
        )
    rows = [
        checked_row(directory, config, index, where, line)
        for index, (where, line) in enumerate(read_lines(path))
    ]
    if not rows:
        raise UserError(f"{path}: holds no row; expected at least one")
    blank = [row for row in rows if has_blank(row)]
    if blank:
        reason = (
            f"{path}: {len(blank)} of {len(rows)} rows have a text of blanks alone, the first in "
            f"{blank[0].where}: a model learns or is asked nothing there"
        )
        fire("blank_text", DATA, reason)
    return rows


def has_blank(row: Row) -> bool:
    """True if a text of the row, or one of a list, is made of blanks alone."""
    for value in row.values.values():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and not text.strip() for text in texts):
            return True
    return False


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """("FILE:LINE", text) of every line that is not blank. Only \\n ends a line.

    raises  UserError for a file that cannot be read or is not UTF-8
    """
    texts = read_text(path).split("\n")
    return ((f"{path}:{number}", text) for number, text in enumerate(texts, 1) if text.strip())


def checked_row(directory: Path, config: str, index: int, where: str, line: str) -> Row:
    """One line as a checked row; raises as read_rows."""
    values = _values(config, where, line)
    for column, value in values.items():
        _check_column(config, column, value, where)
    if kind_of(config) == "mixed":
        _check_mixed(columns(config), values, where)
    return Row(index, where, values, _picture_path(directory, values.get("image"), where))


def _values(config: str, where: str, line: str) -> dict[str, Any]:
    """The columns of a line; UserError if it is no object with the config's columns."""
    expected = columns(config)
    known = {name.rstrip("?") for name in expected}
    needed = {name for name in expected if not name.endswith("?")}
    values = parse_json(line.encode("utf-8"), where)
    if not needed <= set(values) <= known:
        found = one_line(", ".join(sorted(values)))
        raise UserError(f"{where}: columns are {found}; expected {', '.join(sorted(expected))}")
    return values


def _check_column(config: str, column: str, value: object, where: str) -> None:
    """UserError unless the value is a text, or for some columns a list of texts or null."""
    if column in SCHEMA["lists"]:
        expected = "a list of texts, at least one"
        good = (
            isinstance(value, list)
            and len(value) > 0
            and all(isinstance(item, str) and item != "" for item in value)
        )
    else:
        expected = "a text"
        nullable = SCHEMA["nullable"].get(kind_of(config), ())
        good = (isinstance(value, str) and value != "") or (value is None and column in nullable)
    if not good:
        raise UserError(f"{where}: column {column} is {shown(value)}; expected {expected}")


def _check_mixed(expected: tuple[str, ...], values: dict[str, Any], where: str) -> None:
    """UserError unless exactly one pair is given: image and caption, or question and answer."""
    given = [column for column in expected if values[column] is not None]
    if given not in (list(expected[:2]), list(expected[2:])):
        raise UserError(
            f"{where}: has {', '.join(given) or 'nothing'}; expected image and caption, or "
            "question and answer, and null for the others"
        )


def _picture_path(directory: Path, image: str | None, where: str) -> Path | None:
    """The path of a row's picture; UserError if it is outside the directory or no regular file.

    The path itself may not lead out of the directory. A link inside the directory may: downloaded
    data sets are often links to files in a cache.
    """
    if image is None:
        return None
    path = directory / image
    leaves = Path(image).is_absolute() or ".." in Path(image).parts
    if "\0" in image:
        raise UserError(
            f"{where}: picture {one_line(image, 100)} has a zero byte, which no path can have; "
            "expected the path of a file"
        )
    if leaves and not path.resolve().is_relative_to(directory.resolve()):
        raise UserError(
            f"{where}: picture {one_line(image, 200)} is outside {directory}; expected a path "
            "inside it"
        )
    if not is_file(path):
        raise UserError(
            f"{where}: there is no picture {one_line(path)}; add the file or remove the row"
        )
    return path


def training_record(row: Row, caption_question: str) -> Record:
    """The record that a row becomes in training.

    A row with a caption asks `caption_question`; another row asks its own question.
    """
    values = row.values
    if values.get("caption") is not None:
        return Record(caption_question, values["caption"], row.image, values.get("name"))
    return Record(values["question"], values["answer"], row.image)
