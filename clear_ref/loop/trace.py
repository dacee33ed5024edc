"""trace.jsonl: one line per optimiser step; trace.csv: the same values in columns.

A number that is not finite, in the line of a step that ended the run, is the text nan, inf or -inf.
"""

import csv
import io
import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from clear_ref.common.atomic import append_bytes
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import parse_json, read_bytes, write_bytes, write_text
from clear_ref.common.guards import EVALUATION, Guard, each_once, is_guards
from clear_ref.common.run_directory import TRACE_CSV_FILE, TRACE_FILE
from clear_ref.common.text_table import csv_cell

FIRST_COLUMNS = ("step", "epoch", "stage", "phase", "loss")
LAST_COLUMNS = ("gradient_norm", "lr", "answer_tokens", "seconds")
GUARDS = "guards"
NOT_FINITE = ("nan", "inf", "-inf")
NEW_RUN = "start a new run"  # how a message about a damaged file of a stopped training ends


class TraceLine(TypedDict):
    """One optimiser step.

    step           counts from 1 in its stage; epoch counts from 0
    phase          the phase that made the step, only in stages with phases
    loss, terms    the loss and its named terms, weight regularisation included
    gradient_norm  before clipping
    lr             learning rate of the step
    answer_tokens  supervised tokens of the step
    seconds        time of the step
    guards         those that fired in the step (common/guards.py); only where there are any. The
                   first line has those of settings and data too, the last line those of the whole
                   stage and of the evaluation after it
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
    guards: NotRequired[list[Guard]]


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
                 its end is left out. The last line may have got guards since, and is read whole
        """
        if self.path is None or not self.path.exists():
            return

        def is_kept(row: TraceLine) -> bool:
            return row["stage"] != self.stage or row["step"] <= step

        try:
            data = read_bytes(self.path)
            end = data.find(b"\n", n_bytes - 1) + 1 if n_bytes else n_bytes
            *lines, _ = data[:end].decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not UTF-8 ({error}): {NEW_RUN}") from None
        if n_bytes and not end:
            raise UserError(
                f"{self.path}: no line ends at byte {n_bytes} or after it; expected the end of the "
                f"line of the checkpoint's step: {NEW_RUN}"
            )
        for number, line in enumerate(lines, 1):
            if line and is_kept(checked_line(line, f"{self.path}:{number}")):
                self.lines.append(line)

    def last(self) -> TraceLine | None:
        """The line of the newest step, if it is one of this stage."""
        line = json.loads(self.lines[-1]) if self.lines else None
        return cast(TraceLine, line) if line and line["stage"] == self.stage else None

    def of_stage(self) -> list[TraceLine]:
        """The lines of this stage."""
        lines = [cast(TraceLine, json.loads(line)) for line in self.lines]
        return [line for line in lines if line["stage"] == self.stage]

    def add(self, line: TraceLine, guards: Sequence[Guard] = ()) -> None:
        """Add the line of one more step, with the guards that fired in it."""
        self.lines.append(_as_text(line))
        self.add_to_last(guards)

    def add_to_last(self, guards: Sequence[Guard]) -> None:
        """Add guards to the last line, if there is one; a guard that it has already is kept."""
        if guards and self.lines:
            if self.n_written == len(self.lines):
                self.n_written = 0  # the file is written whole again
            self.lines[-1] = _with_guards(json.loads(self.lines[-1]), guards)

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
    known = {*FIRST_COLUMNS, *LAST_COLUMNS, "terms", GUARDS}
    norm = row.get("gradient_norm")
    good = isinstance(row.get("stage"), str) and type(row.get("step")) is int and set(row) <= known
    good = good and (is_number(norm) or norm in NOT_FINITE)
    if not good or not isinstance(terms, dict) or not is_guards(row.get(GUARDS, [])):
        raise UserError(
            f"{where}: is no line of a training's trace; expected stage, step, terms and "
            f"gradient_norm: {NEW_RUN}"
        )
    return cast(TraceLine, row)


def as_csv(lines: Sequence[TraceLine]) -> str:
    """The lines as CSV: a header, then one line for each step.

    Columns: step, epoch, stage, phase, loss, term.NAME for every term of any line, gradient_norm,
    lr, answer_tokens, seconds, and guards if any line has some: their names with ; between them. A
    cell is empty where a line has no such value. Numbers have all their digits.
    """
    terms = dict.fromkeys(term for line in lines for term in line["terms"])
    names = [f"term.{term}" for term in terms]
    text = io.StringIO()
    last = [*LAST_COLUMNS, GUARDS] if any(GUARDS in line for line in lines) else LAST_COLUMNS
    columns = [*FIRST_COLUMNS, *names, *last]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        row: dict[str, object] = {f"term.{term}": value for term, value in line["terms"].items()}
        row |= {key: value for key, value in line.items() if key not in ("terms", GUARDS)}
        if GUARDS in line:
            row[GUARDS] = ";".join(dict.fromkeys(guard["guard"] for guard in line["guards"]))
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """A value for the CSV writer: a text is never a formula."""
    return csv_cell(value) if isinstance(value, str) else value


def _as_text(line: TraceLine) -> str:
    """A line as JSON, which has no inf and no NaN."""

    def finite(value: object) -> object:
        return str(value) if isinstance(value, float) and not isfinite(value) else value

    terms = {name: finite(value) for name, value in line["terms"].items()}
    return json.dumps({**{key: finite(value) for key, value in line.items()}, "terms": terms})


def _with_guards(line: TraceLine, guards: Sequence[Guard]) -> str:
    """A line as JSON with more guards, each once."""
    before = line.get("guards", [])
    more = [guard for guard in guards if guard not in before]
    return _as_text({**line, "guards": [*before, *more]})


def guards_in(out: Path, of_evaluation: Sequence[Guard] = ()) -> list[Guard]:
    """The guards of trace.jsonl in a run directory, each once.

    of_evaluation  those of the evaluation after the training: the last line gets them instead of
                   what an earlier evaluation of the run gave it
    """
    trace = Trace(out, "")
    trace.keep(0)
    if not trace.lines:
        return list(of_evaluation)
    lines = [cast(TraceLine, json.loads(line)) for line in trace.lines]
    last = lines[-1]
    own = [guard for guard in last.get("guards", []) if not guard["at"].startswith(EVALUATION)]
    now = [*own, *of_evaluation]
    if now != last.get("guards", []):
        last.pop("guards", None)
        trace.lines[-1] = _with_guards(last, now) if now else _as_text(last)
        trace.write()
        lines[-1] = cast(TraceLine, json.loads(trace.lines[-1]))
    return each_once(guard for line in lines for guard in line.get("guards", []))
