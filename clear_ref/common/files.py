"""Reading files with clear errors; writing files completely or not at all."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import distributed
from .atomic import PathName, atomic_file
from .errors import UserError

# Brackets inside each other in a JSON file. No file that is read here has more than ten.
MOST_NESTED = 100
MOST_DIGITS = 308  # of a whole number: a float holds those with fewer
# How JSON can write a surrogate: one half of a pair of two. Alone it is no character.
_SURROGATE_IN_JSON = re.compile(r"\\u[dD][89a-fA-F]")
# What to do about a file that is not what was written.
FETCH_AGAIN = "fetch or write the file again"
_SURROGATE = re.compile("[\ud800-\udfff]")


def write_bytes(path: PathName, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all."""
    if not distributed.is_first():
        return
    with atomic_file(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: PathName, text: str) -> None:
    """Write UTF-8 text with \\n line ends, completely or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: PathName, value: object) -> None:
    """Write `value` as JSON, indented by two spaces, completely or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: PathName, rows: Iterable[object]) -> None:
    """Write one JSON value per line, completely or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path: PathName) -> str:
    """A file's text; UserError if it is missing, cannot be read or is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); {FETCH_AGAIN}") from None


def is_file(path: PathName) -> bool:
    """True for a regular file or a link to one; False also for a name that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # the name is too long, or has a zero byte
        return False


def no_file(path: PathName, expected: str = "") -> str:
    """What a message says about a path for which is_file is False: what is there, and `expected`,
    such as "a safetensors file"."""
    if not os.path.exists(path):  # False also for a name that no file can have
        return f"no such file; expected {expected}" if expected else "no such file"
    kind = "a directory" if os.path.isdir(path) else "no regular file"
    return f"is {kind}; expected {expected or 'a file'}"


def read_bytes(path: PathName) -> bytes:
    """A file's bytes; UserError if it is missing, is a directory or cannot be read."""
    path = Path(path)
    note_read(path)
    if not is_file(path):  # this also excludes FIFOs, on which open() would block
        raise UserError(f"{path}: {no_file(path)}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a file that you may read"
        ) from None


_last_read: list[PathName] = []


def note_read(path: PathName) -> None:
    """Remember that this file is read, for the message of an error that was not foreseen."""
    _last_read[:] = [path]


def last_read() -> PathName | None:
    """The file that was read last, or None; of this process."""
    return _last_read[0] if _last_read else None


def one_line(text: object, most: int = 300) -> str:
    """`text` on one line of at most `most` characters, to quote unknown text in a message."""
    line = " ".join(str(text).split())
    if not line.isprintable():
        line = ascii(line)[1:-1]
    return line if len(line) <= most else line[:most] + "..."


def check_characters(text: str, value: object, where: object) -> None:
    """UserError for a text or key of `value`, as JSON read it from `text`, with a lone surrogate.

    No file and no library takes such a text: UTF-8 has no form for it.
    """
    if not _SURROGATE_IN_JSON.search(text):
        return
    left = [("", value)]
    while left:
        name, each = left.pop()
        if isinstance(each, str) and _SURROGATE.search(each):
            raise UserError(
                f"{where}: {one_line(name or 'the text', 100)} is {one_line(repr(each), 60)}, and "
                f"a lone surrogate in it is no character; expected Unicode text; {FETCH_AGAIN}"
            )
        if isinstance(each, list):
            left += [(f"{name}[{index}]", item) for index, item in enumerate(each)]
        if isinstance(each, dict):
            left += [(f"a key of {name or 'the object'}", key) for key in each]
            left += [(f"{name}.{key}" if name else key, item) for key, item in each.items()]


def parse_json(text: bytes, where: object) -> dict[str, Any]:
    """The JSON object in UTF-8 bytes.

    where   the file, or the file and line: every error message begins with it
    raises  UserError for invalid JSON, a value that is no object, a key given twice, a lone
            surrogate, a whole number that no float holds, and more than 100 brackets inside each
            other
    """

    def object_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            duplicate = next(key for key in found if keys.count(key) > 1)
            raise UserError(
                f"{where}: the key {one_line(duplicate, 100)} is given twice in one object; "
                f"expected it once; {FETCH_AGAIN}"
            )
        return found

    def whole_number(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise UserError(
                f"{where}: holds the number {digits[:12]}... of {len(digits)} signs; expected at "
                f"most {MOST_DIGITS}; {FETCH_AGAIN}"
            )
        return int(digits)

    try:
        characters = text.decode("utf-8")
        found = json.loads(
            characters, object_pairs_hook=object_of_unique_keys, parse_int=whole_number
        )
        _check_depth(found, where)
        check_characters(characters, found, where)
    except UserError:
        raise
    # ValueError is raised for wrong JSON, wrong UTF-8 and a number with too many digits.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({one_line(error)}); {FETCH_AGAIN}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: holds {type(found).__name__}; expected a JSON object")
    return found


def _check_depth(value: object, where: object) -> None:
    """UserError for a JSON value with more than MOST_NESTED brackets inside each other."""
    level = [value]
    for _ in range(MOST_NESTED):
        inside: list[object] = []
        for each in level:
            items = each.values() if isinstance(each, dict) else each
            if isinstance(items, Iterable) and not isinstance(items, str):
                inside += [item for item in items if isinstance(item, (dict, list))]
        if not inside:
            return
        level = inside
    raise UserError(
        f"{where}: has more than {MOST_NESTED} brackets inside each other; expected fewer; "
        f"{FETCH_AGAIN}"
    )


def read_json(path: PathName) -> dict[str, Any]:
    """The JSON object in a file; UserError as parse_json and read_bytes raise it."""
    return parse_json(read_bytes(path), path)


def files_below(directory: PathName) -> list[Path]:
    """Every file below a directory, sorted; links to files and to directories are followed.

    Downloaded data are often links into a cache. A link to a directory that it is in is not
    followed.
    """
    found: list[Path] = []
    left = [(Path(directory), frozenset({os.path.realpath(directory)}))]
    while left:
        folder, above = left.pop()
        for path in folder.iterdir():
            if path.is_file():
                found.append(path)
            elif path.is_dir() and os.path.realpath(path) not in above:
                left.append((path, above | {os.path.realpath(path)}))
    return sorted(found)


def sha256(path: PathName) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
