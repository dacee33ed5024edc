"""One process in a run directory at a time."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .atomic import hold, remove_unfinished
from .errors import UserError
from .files import one_line

LOCK = ".lock"


class InUse(UserError):
    """Another process has the lock."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Inside the block this process alone runs in `directory`, which is made if it is absent.

    The lock is the kernel's, on the file `.lock`: it ends with the process, also by a kill. What a
    killed process did not finish is removed. Forked processes share the lock of their parent.

    raises  InUse, which names the process that runs there
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    number = _locked_file(path)
    try:
        remove_unfinished(directory)
        os.ftruncate(number, 0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(number, f"process {os.getpid()} on {platform.node()}, {started}".encode(), 0)
        with hold(directory):
            yield
    finally:
        path.unlink(missing_ok=True)
        os.close(number)


def remove_left(directory: Path) -> None:
    """Remove what a killed process left in a directory, unless another one runs there."""
    if (directory / LOCK).exists():
        with suppress(InUse), locked(directory):
            pass


def _locked_file(path: Path) -> int:
    """The number of the open and locked file; the holder of an earlier one may have removed it."""
    while True:
        number = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = one_line(os.pread(number, 200, 0).decode("utf-8", "replace"), 200)
            os.close(number)
            raise InUse(
                f"--out {path.parent}: {holder or 'another process'} runs there; wait until it "
                "has ended, or choose another directory"
            ) from None
        if path.exists() and os.path.samestat(os.fstat(number), path.stat()):
            return number
        os.close(number)
