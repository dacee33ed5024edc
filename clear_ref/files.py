"""Files that appear whole or not at all."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from .errors import UserError


def write_bytes(path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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
    """A file's text; UserError if it is missing or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); fetch or write the file again") from None


def read_json(path):
    """The object in a JSON file; UserError names the file and the place where it is not JSON, or what else it holds."""
    path = Path(path)
    try:
        found = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch or write the file again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}; expected a JSON object")
    return found


def sha256(path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
