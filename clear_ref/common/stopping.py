"""SIGINT and SIGTERM: they end the command at once, but a training after the step that runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """waits: a signal is kept in `requested` (0: none) until someone asks for it."""

    waits = False
    requested = 0


@contextmanager
def signals_stop() -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM raise Stopped, or wait if `after_the_step` says so."""
    if threading.current_thread() is not threading.main_thread():  # only this one gets signals
        yield
        return
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        _State.requested = 0
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.waits and not _State.requested:
        _State.requested = number
        return
    raise Stopped(number)


def after_the_step() -> AbstractContextManager[None]:
    """Inside the block a first signal waits: `requested` has its number. A second one does not."""
    return _with_waits(True)


def at_once() -> AbstractContextManager[None]:
    """Inside the block, which may be inside `after_the_step`, a signal raises Stopped at once.

    So does one that waits already, when the block begins.
    """
    if _State.requested:
        raise Stopped(_State.requested)
    return _with_waits(False)


@contextmanager
def _with_waits(waits: bool) -> Iterator[None]:
    before, _State.waits = _State.waits, waits
    try:
        yield
    finally:
        _State.waits = before


def requested() -> int:
    """The number of the signal that waits; 0: none."""
    return _State.requested
