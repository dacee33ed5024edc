"""One progress line on stderr: what, how far, how fast, how long still. Silent when stderr is no terminal, or on request."""

import sys
import time


class Progress:
    """progress = Progress("train scrub", total=300); progress.step(note="loss 1.23"); progress.close()

    done    how many were done before: they count as progress, not as speed
    """

    quiet = False

    def __init__(self, what: str, total: int, unit: str = "step", done: int = 0):
        self.what, self.total, self.unit = what, total, unit
        self.done, self.first, self.start, self.shown = done, done, time.monotonic(), 0.0
        self.live = sys.stderr.isatty() and not Progress.quiet

    def step(self, n: int = 1, note: str = "") -> None:
        """Count `n` more; redraw at most ten times a second."""
        self.done += n
        now = time.monotonic()
        if self.live and (now - self.shown > 0.1 or self.done >= self.total):
            self.shown = now
            rate = (self.done - self.first) / max(now - self.start, 1e-9)
            left = f"{(self.total - self.done) / rate:.0f} s left" if rate else ""
            bar = "=" * round(20 * self.done / max(self.total, 1))
            line = f"{self.what}  [{bar:20}] {self.done}/{self.total} {self.unit}s  {rate:.1f}/s  {left}  {note}"
            sys.stderr.write("\r\x1b[K" + line[:150])
            sys.stderr.flush()

    def close(self) -> None:
        """Remove the line, so that what is printed next stands alone."""
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
