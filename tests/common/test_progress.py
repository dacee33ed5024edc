"""The progress line on stderr."""

import io
import sys

from clear_ref.common.progress import Progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def test_progress_shows_rate_and_time_left_on_a_terminal_alone(monkeypatch):
    """10 steps, 4 done in an earlier run: the bar counts them, the rate does not."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("train", 10, done=4)
    progress.started -= 2.0
    progress.step(note="loss 1")
    shown = sys.stderr.getvalue()
    assert "train  [==========          ] 5/10 steps  0.5/s  10 s left  loss 1" in shown
    progress.close()
    assert sys.stderr.getvalue().endswith("\r\x1b[K")
    for quiet, stream in ((True, Terminal()), (False, io.StringIO())):
        monkeypatch.setattr(Progress, "quiet", quiet)
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress("train", 2)
        progress.step()
        progress.close()
        assert stream.getvalue() == ""
