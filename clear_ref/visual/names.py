"""The classes of the visual-only track: whose face each row shows, from the rows' names."""

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
            raise UserError(
                f"no picture shows {one_line(repr(name), 60)}; expected a name of the rows, such "
                f"as {self.names[0]!r}"
            )
        return self.names.index(name)


def classes_of(names: Sequence[str]) -> Classes:
    """The classes of rows with these names.

    source  released code, cv/prepare_vtofu_dataset.py:90-92 at bb14c96
    """
    classes = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Classes(tuple(classes), np.array([classes[name] for name in names], dtype=np.int64))


def check_classes(classes: Classes, n_references: int = N_REFERENCES) -> None:
    """UserError for one name alone, and for a name without a picture beside its references."""
    if len(classes.names) < 2:
        raise UserError(
            f"all pictures show {one_line(classes.names[0], 60) if classes.names else 'nobody'}; "
            "expected pictures of two people at least: a face is told from other faces"
        )
    for name, count in zip(classes.names, classes.counts(), strict=True):
        if count <= n_references:
            raise UserError(
                f"{one_line(name, 60)} has {count} pictures; expected {n_references + 1} at least: "
                f"{n_references} make the reference that the others are compared with. Add "
                "pictures, or remove the name's rows"
            )
