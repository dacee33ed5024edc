"""A progress line on stderr: name, bar, count, speed, time left.

Nothing is written if stderr is no terminal, or if Progress.quiet is true.
"""

import sys
import time

CLEAR_LINE = "\r\x1b[K"
REDRAW_SECONDS = 0.1
LINE_WIDTH = 150


class Progress:
    """progress = Progress("train scrub", total=300); progress.step(note="loss 1.23"); .close()

    done    steps of an earlier, interrupted run: they count as progress but not for the speed
    """

    quiet = False

    def __init__(self, what: str, total: int, unit: str = "step", done: int = 0) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = done
        self.done_before = done
        self.started = time.monotonic()
        self.drawn = 0.0
        self.visible = sys.stderr.isatty() and not Progress.quiet

    def step(self, n: int = 1, note: str = "") -> None:
        """Count `n` more steps; redraw the line at most ten times a second."""
        self.done += n
        now = time.monotonic()
        due = now - self.drawn > REDRAW_SECONDS or self.done >= self.total
        if self.visible and due:
            self.drawn = now
            sys.stderr.write(CLEAR_LINE + self._line(now, note)[:LINE_WIDTH])
            sys.stderr.flush()

    def _line(self, now: float, note: str) -> str:
        """The line to show at the time `now`."""
        rate = (self.done - self.done_before) / max(now - self.started, 1e-9)
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else ""
        bar = "=" * round(20 * self.done / max(self.total, 1))
        count = f"{self.done}/{self.total} {self.unit}s"
        return f"{self.what}  [{bar:20}] {count}  {rate:.1f}/s  {left}  {note}"

    def close(self) -> None:
        """Remove the line, so that the next output starts on an empty line."""
        if self.visible:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
