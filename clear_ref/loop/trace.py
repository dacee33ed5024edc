"""trace.jsonl: one line per optimiser step; trace.csv: the same values in columns."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from clear_ref.common.atomic import append_bytes
from clear_ref.common.errors import UserError
from clear_ref.common.files import parse_json, read_bytes, write_bytes, write_text
from clear_ref.common.run_directory import TRACE_CSV_FILE, TRACE_FILE

FIRST_COLUMNS = ("step", "epoch", "stage", "phase", "loss")
LAST_COLUMNS = ("gradient_norm", "lr", "answer_tokens", "seconds")


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
    """The lines of both files: earlier stages, the steps of the checkpoint, then the new steps.

    trace.jsonl is written whole once, and then new lines are appended; n_bytes is its length. A
    kill can leave a part of the appended lines: a checkpoint has the length that belongs to it.

    out  run directory; None: no file is read or written
    """

    def __init__(self, out: Path | None, stage: str) -> None:
        self.path = None if out is None else out / TRACE_FILE
        self.stage = stage
        self.lines: list[str] = []
        self.n_bytes = 0
        self.n_written = 0

    def keep(self, step: int, n_bytes: int | None = None) -> None:
        """Take the lines on disk: those of other stages, and of this stage up to this step.

        n_bytes  the length of trace.jsonl at this step; None: unknown, and a last line without
                 its end is left out
        """
        if self.path is None or not self.path.exists():
            return

        def is_kept(row: TraceLine) -> bool:
            return row["stage"] != self.stage or row["step"] <= step

        try:
            *lines, _ = read_bytes(self.path)[:n_bytes].decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not UTF-8 ({error}): start a new run") from None
        for number, line in enumerate(lines, 1):
            if line and is_kept(checked_line(line, f"{self.path}:{number}")):
                self.lines.append(line)

    def last(self) -> TraceLine | None:
        """The line of the newest step, if it is one of this stage."""
        line = json.loads(self.lines[-1]) if self.lines else None
        return cast(TraceLine, line) if line and line["stage"] == self.stage else None

    def add(self, line: TraceLine) -> None:
        """Add the line of one more step."""
        self.lines.append(json.dumps(line))

    def append(self) -> None:
        """Write the new lines to trace.jsonl alone, if there is a run directory."""
        if self.path is None:
            return
        begin, self.n_written = self.n_written, len(self.lines)
        data = "".join(line + "\n" for line in self.lines[begin:]).encode("utf-8")
        if begin and self.path.is_file() and self.path.stat().st_size == self.n_bytes:
            append_bytes(self.path, data)
            self.n_bytes += len(data)
        else:
            data = "".join(line + "\n" for line in self.lines).encode("utf-8")
            write_bytes(self.path, data)
            self.n_bytes = len(data)

    def write(self) -> None:
        """Write the new lines to trace.jsonl, and trace.csv whole, if there is a run directory."""
        self.append()
        if self.path is not None:
            rows = [json.loads(line) for line in self.lines]
            write_text(self.path.with_name(TRACE_CSV_FILE), as_csv(rows))


def checked_line(text: str, where: str) -> TraceLine:
    """A line of trace.jsonl; UserError if it is none, for example cut in the middle."""
    row = parse_json(text.encode("utf-8"), where)
    terms = row.get("terms")
    known = {*FIRST_COLUMNS, *LAST_COLUMNS, "terms"}
    good = isinstance(row.get("stage"), str) and type(row.get("step")) is int and set(row) <= known
    if not good or not isinstance(terms, dict):
        raise UserError(
            f"{where}: is no line of a training's trace; expected stage, step, loss and terms: "
            "start a new run"
        )
    return cast(TraceLine, row)


def as_csv(lines: Sequence[TraceLine]) -> str:
    """The lines as CSV: a header, then one line for each step.

    Columns: step, epoch, stage, phase, loss, term.NAME for every term of any line, gradient_norm,
    lr, answer_tokens, seconds. A cell is empty where a line has no such value. Numbers have all
    their digits.
    """
    terms = dict.fromkeys(term for line in lines for term in line["terms"])
    names = [f"term.{term}" for term in terms]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*FIRST_COLUMNS, *names, *LAST_COLUMNS], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for line in lines:
        row: dict[str, object] = {f"term.{term}": value for term, value in line["terms"].items()}
        row |= {key: value for key, value in line.items() if key != "terms"}
        writer.writerow(row)
    return text.getvalue()
