"""Settings of methods, one in each line of a CSV file: what `sweep` compares and writes.

Columns: `method`, and one for each value of the recipe or option of a method; an empty cell keeps
the default. The columns with which sweep.csv says what a sweep was of and what came out are not
settings.
"""

import csv
import io
from dataclasses import dataclass, field, fields
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, read_text
from clear_ref.common.settings import convert, setting_names
from clear_ref.methods import table

from .recipes import Recipe

# Columns of sweep.csv that are no settings.
NOT_SETTINGS = (
    "number",
    "semantics",
    "modality",
    "seeds",
    "rule",
    "split_seed",
    "meets",
    "chosen",
    "failed",
    "command",
)
RESULT_PREFIXES = ("choosing_", "reporting_", "all_")
CHOSEN = "yes"


@dataclass(frozen=True)
class Point:
    """One setting of one method.

    recipe   {field of the recipe: value as text}
    options  {option of the method: value as text}
    """

    method: str
    recipe: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The settings as text: "lr 0.002, epochs 12, alpha 3"; "defaults" if there is none."""
        named = {**self.recipe, **self.options}
        return ", ".join(f"{name} {value}" for name, value in named.items()) or "defaults"


def from_words(method: str, words: str, semantics: str) -> Point:
    """The point whose `words` these are, as settings.json of a sweep has them.

    raises  UserError for words that begin with no value of the recipe and no option of the method
    """
    options = setting_names(table.variant(method, semantics).options)
    found: dict[str, str] = {}
    for part in [] if words == Point(method).words else words.split(", "):
        name, _, value = part.partition(" ")
        if value and (name in setting_names(Recipe) or name in options):
            found[name] = value
        elif found:  # a value with commas of its own, such as layers
            last = next(reversed(found))
            found[last] += f", {part}"
        else:
            raise UserError(
                f"{one_line(repr(words), 60)} of {method}: expected values of the recipe and "
                "options with commas between them, such as lr 0.001, epochs 5"
            )
    recipe = {name: value for name, value in found.items() if name in setting_names(Recipe)}
    return Point(method, recipe, {n: value for n, value in found.items() if n not in recipe})


def read_points(path: Path, semantics: str) -> list[tuple[Point, bool]]:
    """The points of a CSV file, and whether the column `chosen` marks them.

    raises  UserError for a line of another length, an unknown method or column, a column that is
            there twice, another semantics, a value of the wrong type, an option that the method
            does not have under the semantics
    """
    rows = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""))
    try:
        names = [name.strip() for name in rows.fieldnames or []]
        rows.fieldnames = names
        _check_columns(path, names)
        return [
            (_point(row, path, rows.line_num, semantics), row.get("chosen") == CHOSEN)
            for row in rows
        ]
    except csv.Error as error:
        raise UserError(
            f"{path}: not CSV ({error}); expected commas between cells and a line for each setting"
        ) from None


def _check_columns(path: Path, names: list[str]) -> None:
    """UserError for a missing column `method`, an unknown column, and one that is there twice."""
    if "method" not in names:
        raise UserError(
            f"{path}: has no column method; expected it, and one for each value of the recipe or "
            "option of a method, with commas between them"
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{path}: column {one_line(repr(name), 60)} is there twice; expected it once"
            )
        if _is_setting(name) and name not in {*setting_names(Recipe), *_options_of_any()}:
            raise UserError(
                f"{path}: column {one_line(name, 60)!r} is neither a value of the recipe nor an "
                "option of a method; METHOD --help lists both"
            )


def _is_setting(name: str) -> bool:
    return name not in ("method", *NOT_SETTINGS) and not name.startswith(RESULT_PREFIXES)


def _point(row: dict[str, str], path: Path, line: int, semantics: str) -> Point:
    where = f"{path}, line {line}"
    if None in row or None in row.values():
        raise UserError(f"{where}: has not as many cells as the first line has columns")
    method = row["method"]
    of = row.get("semantics") or semantics
    if of != semantics:
        raise UserError(
            f"{where}: is of --semantics {one_line(of, 60)}, and this run is of {semantics}; "
            f"expected --semantics {one_line(of, 60)}, or a file without the column semantics"
        )
    if method not in table.METHODS:
        raise UserError(
            f"{where}: method is {one_line(repr(method), 60)}; expected one of "
            f"{', '.join(table.METHODS)}"
        )
    recipe: dict[str, str] = {}
    options: dict[str, str] = {}
    known = setting_names(table.variant(method, semantics).options)
    for name, value in row.items():
        if not _is_setting(name) or not value:
            continue
        if name in setting_names(Recipe):
            _check_value(value, name, where)
            recipe[name] = value
        elif name in known:
            options[name] = value
        else:
            raise UserError(
                f"{where}: {method} ({semantics}) has no option {name!r}; leave it empty"
            )
    return Point(method, recipe, options)


def _check_value(value: str, name: str, where: str) -> None:
    """UserError that names file and line for a value of the recipe of another type."""
    try:
        convert(Recipe, name, value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _options_of_any() -> set[str]:
    """The names of all options of all methods and semantics."""
    variants = [one for module in table.METHODS.values() for one in module.VARIANTS.values()]
    return {option.name for one in variants for option in fields(one.options)}
