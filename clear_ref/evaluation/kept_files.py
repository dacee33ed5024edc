"""Files that a stopped evaluation keeps for --resume. Each holds the SHA-256 of its content.

One run writes them and reads them back. A file that is not what was written there is refused, and
one with other values than this version writes: numbers of two versions do not belong together.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json, write_json

COMPUTE_AGAIN = "remove it, and --resume computes it again"


def write_kept(path: Path, content: object) -> None:
    """Write a value that JSON can hold, and the SHA-256 of its JSON text."""
    write_json(path, {"sha256": digest(content), "content": content})


def read_kept(path: Path, fits: Callable[[Any], bool], what_to_do: str = COMPUTE_AGAIN) -> Any:
    """The value that `write_kept` wrote there; None if there is no such file.

    fits        whether a value has all that this version writes
    what_to_do  how it is computed again, for the message
    raises      UserError if the file holds anything else
    """
    if not path.exists():
        return None
    try:
        found = read_json(path)
    except UserError:
        found = {}
    content = found.get("content")
    if "content" not in found or found.get("sha256") != digest(content):
        raise UserError(
            f"{path}: is not the file that was written there (its SHA-256 differs); {what_to_do}"
        )
    if not fits(content):
        raise UserError(f"{path}: has not the values that this version writes there; {what_to_do}")
    return content


def digest(content: object) -> str:
    """The SHA-256 of a value's JSON text."""
    return hashlib.sha256(json.dumps(content).encode("utf-8")).hexdigest()


def all_have(rows: object, n: int, names: set[str]) -> bool:
    """Whether `rows` is a list of n objects with exactly these names."""
    return (
        isinstance(rows, list)
        and len(rows) == n
        and all(isinstance(row, dict) and set(row) == names for row in rows)
    )
