"""Progress on stderr: one line drawn again on a terminal, a plain line every 30 s elsewhere."""

import io
import os
import sys
import time

import pytest
import torch

from clear_ref.common import progress as module
from clear_ref.common.processes import map_in_processes
from clear_ref.common.progress import Progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def command_begins(monkeypatch):
    """A command that began now."""
    monkeypatch.setattr(Progress, "line_written", time.monotonic())


def test_progress_shows_rate_and_time_left_on_a_terminal(monkeypatch):
    """10 steps, 4 done in an earlier run: the bar counts them, the rate does not."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("train", 10, done=4)
    progress.started -= 2.0
    progress.step(note="loss 1")
    shown = sys.stderr.getvalue()
    assert "train  [==========          ] 5/10 steps  0.5/s  10 s left  loss 1" in shown
    progress.close()
    assert sys.stderr.getvalue().endswith("\r\x1b[K")
    monkeypatch.setattr(Progress, "quiet", True)
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("train", 2)
    progress.step()
    progress.close()
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_elsewhere_a_plain_line_every_30_seconds(quiet, monkeypatch):
    """200 steps of one second, in two parts: lines after 30, 60, ... 180 s, none with --quiet."""
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    Progress.begin(quiet)
    for what in ("evaluate base", "train scrub"):
        progress = Progress(what, 100)
        for step in range(100):
            clock[0] += 1.0
            progress.step(note=f"note {step + 1}")
        progress.close()
    lines = sys.stderr.getvalue().splitlines()
    monkeypatch.setattr(Progress, "quiet", False)
    if quiet:
        assert lines == []
        return
    assert len(lines) == 6
    assert lines[0] == "evaluate base: 30/100 steps  1.0/s  70 s left  note 30"
    assert lines[3] == "train scrub: 20/100 steps  1.0/s  80 s left  note 20"


def test_a_line_is_written_by_one_process(monkeypatch, capfd):
    """Three processes count four items each; each would be due, and the first one writes."""
    monkeypatch.setattr(module, "LINE_SECONDS", 0)
    torch.set_num_threads(1)
    progress = Progress("evaluate", 12, "group")
    me = os.getpid()

    def compute(item):
        progress.step(note=f"process {os.getpid()}")
        return item

    assert map_in_processes(compute, list(range(12)), 3) == list(range(12))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.endswith(f"process {me}") for line in lines)
