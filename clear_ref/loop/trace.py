"""trace.jsonl: one line per optimiser step."""

import json
from pathlib import Path
from typing import NotRequired, TypedDict

from clear_ref.common.files import write_text
from clear_ref.common.run_directory import TRACE_FILE


class TraceLine(TypedDict):
    """One optimiser step.

    step           counts from 1 in its stage; epoch counts from 0
    phase          the phase that made the step, only in stages with phases
    loss, terms    the loss and its named terms, weight regularisation included
    gradient_norm  before clipping
    lr             learning rate of the step
    answer_tokens  supervised tokens of the step
    seconds        time of the step
    """

    stage: str
    step: int
    epoch: int
    phase: NotRequired[str]
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    lr: float
    answer_tokens: int
    seconds: float


class Trace:
    """The lines of trace.jsonl: earlier stages, the steps of the checkpoint, then the new steps.

    out  run directory; None: no file is read or written
    """

    def __init__(self, out: Path | None, stage: str) -> None:
        self.path = None if out is None else out / TRACE_FILE
        self.stage = stage
        self.lines: list[str] = []

    def keep(self, step: int) -> None:
        """Take the lines on disk: those of other stages, and of this stage up to this step."""
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["stage"] != self.stage or row["step"] <= step:
                self.lines.append(line)

    def add(self, line: TraceLine) -> None:
        """Add the line of one more step."""
        self.lines.append(json.dumps(line))

    def write(self) -> None:
        """Write the whole file, if there is a run directory."""
        if self.path is not None:
            write_text(self.path, "".join(line + "\n" for line in self.lines))
