"""The classes of the visual-only track: whose face each row shows, from the rows' names.

A name is read without blanks at its ends, in the rows as in a list with one name a line.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

N_REFERENCES = 5  # pictures of a name that make its reference, see scores.py


@dataclass(frozen=True)
class Classes:
    """The classes of all rows.

    names   in the order of their first rows; a name's place is its class
    labels  [n] int64, the class of each row
    """

    names: tuple[str, ...]
    labels: np.ndarray

    def counts(self) -> np.ndarray:
        """[classes] rows of each class."""
        return np.bincount(self.labels, minlength=len(self.names))

    def rows_of(self, classes: Sequence[int]) -> np.ndarray:
        """The rows that show people of these classes, in the order of all rows."""
        return np.flatnonzero(np.isin(self.labels, list(classes)))

    def label(self, name: str) -> int:
        """The class of a name; UserError if no row has the name."""
        if name not in self.names:
            raise UserError(f"no picture shows {_quoted(name)}; {self.expected(name)}")
        return self.names.index(name)

    def expected(self, name: str) -> str:
        """What is expected in place of a name that no row has: an example, or the same name in
        the Unicode form of the rows.
        """
        of_rows = next((each for each in self.names if _nfc(each) == _nfc(name)), None)
        if of_rows is None:
            return f"expected names of the rows, such as {_quoted(self.names[0])}"
        return (
            f"the rows have this name in another Unicode form: {one_line(ascii(of_rows), 100)} in "
            f"the rows, {one_line(ascii(name), 100)} in the list; expected it as in the rows"
        )


def classes_of(names: Sequence[str]) -> Classes:
    """The classes of rows with these names, which are read without blanks at their ends.

    source  released code, cv/prepare_vtofu_dataset.py:90-92 at bb14c96
    """
    names = [name.strip() for name in names]
    classes = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Classes(tuple(classes), np.array([classes[name] for name in names], dtype=np.int64))


def check_classes(classes: Classes, n_references: int = N_REFERENCES) -> None:
    """UserError for one name alone, a name that no list can have, a name in two Unicode forms, and
    one without a picture beside its references.
    """
    _check_names(classes)
    if len(classes.names) < 2:
        raise UserError(
            f"all pictures show {_quoted(classes.names[0]) if classes.names else 'nobody'}; "
            "expected pictures of two people at least: a face is told from other faces"
        )
    for name, count in zip(classes.names, classes.counts(), strict=True):
        if count <= n_references:
            raise UserError(
                f"{_quoted(name)} has {count} picture{'s' if count > 1 else ''}; expected "
                f"{n_references + 1} at least: {n_references} make the reference that the others "
                "are compared with. Add pictures, or remove the name's rows"
            )


def _check_names(classes: Classes) -> None:
    """UserError for a name of blanks alone, one with a line end, and one in two Unicode forms."""
    seen: dict[str, str] = {}
    for label, name in enumerate(classes.names):
        if not name or "\n" in name:
            row = 1 + int(np.flatnonzero(classes.labels == label)[0])
            what = "is of blanks alone" if not name else f"has a line end: {_quoted(name)}"
            raise UserError(
                f"the name of row {row} {what}; expected the name of the person whose face it "
                "shows, on one line"
            )
        other = seen.setdefault(_nfc(name), name)
        if other != name:
            raise UserError(
                f"the rows have one name in two Unicode forms: {one_line(ascii(other), 100)} and "
                f"{one_line(ascii(name), 100)}; expected one form in all rows"
            )


def _nfc(name: str) -> str:
    """The composed form (NFC) of a name."""
    return unicodedata.normalize("NFC", name)


def _quoted(name: str) -> str:
    """A name in a message."""
    return one_line(repr(name), 60)
