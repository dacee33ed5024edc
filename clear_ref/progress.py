"""One progress line on stderr: what, how far, how fast, how long still. Silent when stderr is no terminal, or on request."""

import sys
import time


class Progress:
    """progress = Progress("train scrub", total=300); progress.step(note="loss 1.23"); progress.close()"""

    quiet = False

    def __init__(self, what: str, total: int, unit: str = "step"):
        self.what, self.total, self.unit = what, total, unit
        self.done, self.start, self.shown = 0, time.monotonic(), 0.0
        self.live = sys.stderr.isatty() and not Progress.quiet

    def step(self, n: int = 1, note: str = "") -> None:
        """Count `n` more; redraw at most ten times a second."""
        self.done += n
        now = time.monotonic()
        if self.live and (now - self.shown > 0.1 or self.done >= self.total):
            self.shown = now
            rate = self.done / max(now - self.start, 1e-9)
            left = (self.total - self.done) / rate
            filled = round(20 * self.done / max(self.total, 1))
            sys.stderr.write(f"\r\x1b[K{self.what}  [{'=' * filled}{' ' * (20 - filled)}] {self.done}/{self.total} {self.unit}s"
                             f"  {rate:.1f}/s  {left:.0f} s left  {note}"[:160])
            sys.stderr.flush()

    def close(self) -> None:
        """Remove the line, so that what is printed next stands alone."""
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
