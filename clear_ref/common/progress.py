"""Progress on stderr: name, bar, count, speed, time left.

On a terminal it is one line that is drawn again. Where stderr is no terminal (a file, a pipe) it is
a plain line every LINE_SECONDS at most, whatever is in progress, so a short command prints none.
Nothing is written if Progress.quiet is true.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CLEAR_LINE = "\r\x1b[K"
REDRAW_SECONDS = 0.1
LINE_SECONDS = 30
LINE_WIDTH = 150


class Progress:
    """progress = Progress("train scrub", total=300); progress.step(note="loss 1.23"); .close()

    done    steps of an earlier, interrupted run: they count as progress but not for the speed
    """

    quiet = False
    # When the command began or the last plain line was written; of all progress together.
    line_written = time.monotonic()

    def __init__(self, what: str, total: int, unit: str = "step", done: int = 0) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = done
        self.done_before = done
        self.started = time.monotonic()
        self.drawn = 0.0
        self.visible = sys.stderr.isatty() and not Progress.quiet
        # Forks of this process count too (processes.py); one of them writes lines.
        self.process = os.getpid()

    @classmethod
    def begin(cls, quiet: bool) -> None:
        """Begin a command: no plain line for the next LINE_SECONDS, and none at all if quiet."""
        cls.quiet = quiet
        cls.line_written = time.monotonic()

    def step(self, n: int = 1, note: str = "") -> None:
        """Count `n` more steps; redraw the line at most ten times a second."""
        self.done += n
        now = time.monotonic()
        if not self.visible:
            self._plain_line(now, note)
        elif now - self.drawn > REDRAW_SECONDS or self.done >= self.total:
            self.drawn = now
            bar = "=" * round(20 * self.done / max(self.total, 1))
            line = self._line(f"{self.what}  [{bar:20}] ", now, note)
            sys.stderr.write(CLEAR_LINE + line[:LINE_WIDTH])
            sys.stderr.flush()

    def _plain_line(self, now: float, note: str) -> None:
        """Write a whole line if one is due."""
        due = now - Progress.line_written >= LINE_SECONDS
        if not due or Progress.quiet or sys.stderr.isatty() or os.getpid() != self.process:
            return
        Progress.line_written = now
        print(self._line(f"{self.what}: ", now, note).rstrip(), file=sys.stderr, flush=True)

    def _line(self, head: str, now: float, note: str) -> str:
        """The line to show at the time `now`."""
        rate = (self.done - self.done_before) / max(now - self.started, 1e-9)
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else ""
        return f"{head}{self.done}/{self.total} {self.unit}s  {rate:.1f}/s  {left}  {note}"

    def close(self) -> None:
        """Remove the line, so that the next output starts on an empty line."""
        if self.visible:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


@contextmanager
def only_line(what: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress line beside which no other is shown, also of forks, until the block ends."""
    progress = Progress(what, total, unit)
    quiet = Progress.quiet
    Progress.quiet = True
    try:
        yield progress
    finally:
        Progress.quiet = quiet
        progress.close()
