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
from clear_ref.common.run_directory import CHECKPOINT_DIRECTORY

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
    if found.keys() and not {"sha256", "content"} <= found.keys():
        raise UserError(
            f"{path}: is not in the form in which this version keeps it; if another version began "
            f"this evaluation, remove {_all_kept(path)}, and --resume computes what was kept there "
            "again"
        )
    content = found.get("content")
    if not found or found["sha256"] != digest(content):
        raise UserError(
            f"{path}: is not the file that was written there (its SHA-256 differs); {what_to_do}"
        )
    if not fits(content):
        raise UserError(f"{path}: has not the values that this version writes there; {what_to_do}")
    return content


def _all_kept(path: Path) -> Path:
    """The directory of all that the stopped evaluation keeps: the one below checkpoint/."""
    for folder in path.parents:
        if folder.parent.name == CHECKPOINT_DIRECTORY:
            return folder
    return path


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
