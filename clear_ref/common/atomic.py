"""Files and directories that appear completely or not at all, also when the disk is full.

What is not finished has a name that ends in `.unfinished`; after a kill it stays, and the next run
in the directory removes it.
"""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from . import distributed
from .errors import RunFailed, UserError

PathName = str | os.PathLike[str]
UNFINISHED = ".unfinished"
# The input is right, and the machine cannot take the bytes.
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# {directory of a run of this process: its number as an open file, so its inode stays its own}
held_directories: dict[Path, int] = {}


@contextmanager
def atomic_file(
    path: PathName, n_bytes: int = 0, by_all: bool = False, synced: bool = True
) -> Iterator[Path]:
    """A temporary file beside `path` to write to.

    At the end of the block it is synced and renamed to `path`; if the block raises, it is deleted.
    A reader of `path` sees the old file or the new one, never a part of it. Under torchrun only the
    first process writes; in the others the temporary file is elsewhere, and is deleted.

    n_bytes  what will be written, if that is known: it must be free
    by_all   under torchrun every process writes: each has a path of its own
    synced   False: do not wait for the disk. After a loss of power the file may be damaged: for
             what its reader checks and can compute again
    raises   RunFailed if the disk is full or read-only, or if the directory of the run is gone;
             UserError if `path` cannot be written for another reason
    """
    path = Path(path)
    if not by_all and not distributed.is_first():
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Path(elsewhere) / path.name
        return
    with _errors_of_writing(path):
        _make_parent(path, n_bytes)
        temporary = _unused_name(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            if synced:
                _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if synced:
            _sync(path.parent)


def append_bytes(path: PathName, data: bytes) -> None:
    """Write `data` at the end of a file, and wait until it is on the disk.

    A kill can leave a part of it: for a file whose whole length is written down elsewhere.
    raises  as atomic_file
    """
    path = Path(path)
    with _errors_of_writing(path):
        _make_parent(path, len(data))
        with open(path, "ab") as file:
            file.write(data)
        _sync(path)


@contextmanager
def new_directory(path: PathName) -> Iterator[Path]:
    """A temporary directory beside `path` to fill.

    At the end of the block it is renamed to `path`, which is absent or an empty directory; if the
    block raises, it is deleted with all that is in it.

    raises  as atomic_file
    """
    path = Path(path)
    with _errors_of_writing(path):
        _make_parent(path, 0)
        temporary = _unused_name(path)
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(path.parent)


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed process left in this directory and below it."""
    for path in sorted(directory.rglob(f".*{UNFINISHED}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _unused_name(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}{UNFINISHED}")


def _make_parent(path: Path, n_bytes: int) -> None:
    """Make the directory of `path`, but not again that of a run; its disk must have n_bytes."""
    absolute = path.absolute()
    for directory, number in held_directories.items():
        if absolute.is_relative_to(directory) and not _is_open_as(directory, number):
            raise RunFailed(
                f"{directory}: the directory of this run was removed or replaced while it ran; "
                f"{path.name} is not written; start the run again"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if n_bytes:
        free = shutil.disk_usage(path.parent).free
        if free < n_bytes:
            raise RunFailed(_full(path, f"{n_bytes:,} bytes are needed and {free:,} are free"))


def _is_open_as(directory: Path, number: int) -> bool:
    try:
        return os.path.samestat(directory.stat(), os.fstat(number))
    except OSError:
        return False


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Inside the block `directory` is that of a run: if it vanishes, it is not made again."""
    directory = directory.absolute()
    held_directories[directory] = os.open(directory, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(held_directories.pop(directory))


@contextmanager
def _errors_of_writing(path: Path) -> Iterator[None]:
    """Inside the block an OSError at `path` becomes one line that names it."""
    try:
        yield
    except OSError as error:
        if error.filename and not _is_beside(Path(os.fsdecode(error.filename)), path):
            raise
        reason = error.strerror or str(error)
        absolute = path.absolute()
        if error.errno in STORAGE_ERRORS or any(map(absolute.is_relative_to, held_directories)):
            raise RunFailed(_full(path, reason)) from error
        raise UserError(
            f"{path}: cannot be written ({reason}); choose a place that you may write to"
        ) from error


def _is_beside(found: Path, path: Path) -> bool:
    """Whether a file named in an error is `path`, its temporary file or one of its parents."""
    found, path = found.absolute(), path.absolute()
    return found == path or path.is_relative_to(found) or found.is_relative_to(path.parent)


def _full(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot be written ({reason}); what was written before is complete: free space or "
        "make the place writable, then start again, a run with --resume --out DIR"
    )


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():  # some disks sync no directory
            os.fsync(number)
    finally:
        os.close(number)
