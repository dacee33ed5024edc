"""Files that appear whole or not at all."""

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def whole(path):
    """The name of an empty file beside `path` to write to, which becomes `path` where the block ends and goes if the block fails.

    A reader sees the old file or the new one, never a part of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_bytes(path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text: str) -> None:
    """Write UTF-8 text with \\n line ends, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path, value) -> None:
    """Write `value` as JSON, two-space indented, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path, rows) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path) -> str:
    """A file's text; UserError if it is missing, cannot be read or is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); fetch or write the file again") from None


def read_bytes(path) -> bytes:
    """A file's bytes; UserError if it is missing or cannot be read."""
    path = Path(path)
    if not path.is_file():  # nor a pipe, which would keep us waiting
        raise UserError(f"{path}: no such file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a file that you may read"
        ) from None


def one_line(text, most: int = 300) -> str:
    """A foreign text as one line of at most `most` characters, as an error quotes it."""
    line = " ".join(str(text).split())
    line = line if line.isprintable() else ascii(line)[1:-1]
    return line if len(line) <= most else line[:most] + "..."


def parse_json(text: bytes, where) -> dict:
    """The object in JSON bytes (UTF-8); UserError that begins with `where` for anything else, a key given twice included."""

    def once(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in found if keys.count(key) > 1)
            raise UserError(
                f"{where}: the key {one_line(twice, 100)} stands twice in one object; expected once, fetch it again"
            )
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except UserError:
        raise
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: of JSON, of UTF-8, and of a number with too many digits
        raise UserError(
            f"{where}: not JSON ({one_line(error)}); fetch or write the file again"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: holds {type(found).__name__}; expected a JSON object")
    return found


def read_json(path) -> dict:
    """The object in a JSON file; UserError names the file and the place where it is not JSON, or what else it holds."""
    return parse_json(read_bytes(path), path)


def sha256(path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
