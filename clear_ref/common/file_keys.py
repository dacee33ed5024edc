"""What happens to each key of a file that other libraries read too.

A `KeyTable` is one file, or one part of it, of one family. Each key has one fate: `Used`,
`NoEffect` (with the reason) or `Only` (every other value is refused). Readers check a file with its
table, and the page model/keys.md is made from all tables.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UserError
from .files import PathName, one_line


@dataclass(frozen=True)
class Used:
    """The key decides something; its reader checks the value.

    what     what it decides
    refused  the values that the reference accepts and the reader refuses, in words; "": none
    """

    what: str
    refused: str = ""


@dataclass(frozen=True)
class NoEffect:
    """No value of the key changes a result of this package or of the reference.

    why  the reason
    """

    why: str


@dataclass(frozen=True)
class Only:
    """Every value other than `values` is refused: the reference computes something else with it.

    values  what is accepted beside an omitted key; a null in the file needs None here
    why     what another value changes, and what the user can do
    """

    values: tuple[Any, ...]
    why: str


Fate = Used | NoEffect | Only


@dataclass(frozen=True)
class KeyTable:
    """The keys of a file that the reference reads, and their fates.

    file       the file's name
    part       which part of it, of which family
    reference  the library, its version and the class that reads the keys
    keys       {key: fate}
    others     why a key that is not listed may be ignored (the reference ignores it too); "": such
               a key is refused
    """

    file: str
    part: str
    reference: str
    keys: Mapping[str, Fate]
    others: str = ""

    def check(self, config: Mapping[str, Any], where: PathName) -> None:
        """UserError for the first key whose value is refused.

        config  the file's values
        where   the file, for the error message
        """
        for key, value in config.items():
            fate = self.keys.get(key)
            if fate is None and not self.others:
                raise UserError(
                    f"{where}: {one_line(key, 60)} is {shown(value)}, a key that is not known "
                    "here; expected it absent, remove it if it changes nothing"
                )
            if isinstance(fate, Only) and not any(same(value, each) for each in fate.values):
                expected = " or ".join(shown(each) for each in fate.values) or "it absent"
                raise UserError(
                    f"{where}: {key} is {shown(value)}; expected {expected}: {fate.why}"
                )


def shown(value: object) -> str:
    """A JSON value in an error message: one short line."""
    return one_line(repr(value), 60)


def same(value: object, other: object) -> bool:
    """Equal as JSON values: true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def is_number(value: object) -> bool:
    """True for a finite number that a float can hold; not for true and false.

    JSON has integers that no float holds, such as 10^400.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max
