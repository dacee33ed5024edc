"""The page and the table of a sequence of requests: report.html, sequence.csv, the terminal."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.files import write_text
from clear_ref.common.guards import guards_of
from clear_ref.common.guards import line as guard_line
from clear_ref.common.run_directory import RunRecord
from clear_ref.common.text_table import aligned, csv_cell
from clear_ref.evaluation.sequence import CHANGE, OF_ALL, OF_REQUEST

from . import html_frame
from .columns import PAPER_COLUMNS, number
from .command_line import command_line
from .html_frame import details, text
from .record_intervals import MEANING, as_text
from .visual_page import made_from

CSV = "sequence.csv"
HEADINGS = {metric: f"{heading} {arrow}" for metric, heading, arrow in PAPER_COLUMNS}
ABOUT = (
    "Forget and Forget text of a request are of the records of its people alone; Retain and Real "
    "are of all records. Gold is one model that saw nobody of the sequence."
)
Found = Mapping[str, Any]


def write(out: Path, found: Found, record: RunRecord) -> None:
    """Write the table, and the page last.

    found   what metrics.json holds
    record  what settings.json holds
    """
    write_text(out / CSV, as_csv(found))
    write_text(out / run_directory.REPORT_FILE, page(found, record))


def states_of(found: Found) -> list[tuple[str, Any]]:
    """(name, state) of base, of the model after each request, and of gold if there is one."""
    names = ["base", *(f"after {label}" for label in found["sequence"])]
    states = list(zip(names, found["states"], strict=True))
    return [*states, ("gold", found["gold"])] if found["gold"] else states


def cells_of(found: Found, intervals: bool = False) -> tuple[list[str], list[list[str]]]:
    """(header, lines): a line for each model; the numbers, or their intervals.

    A number that no model has gets no column.
    """
    columns = [(label, metric) for label in found["sequence"] for metric in OF_REQUEST]
    columns += [("", metric) for metric in OF_ALL]
    states = states_of(found)
    columns = [each for each in columns if any(_value(own, *each) is not None for _, own in states)]
    header = [heading(*each) for each in columns]
    lines = []
    for name, own in states:
        if intervals:
            cells = [as_text(own["intervals"][label].get(metric)) for label, metric in columns]
        else:
            cells = [number(_value(own, label, metric)) for label, metric in columns]
        lines.append([name, *cells])
    return ["model", *header], lines


def heading(label: str, metric: str) -> str:
    """The heading of a column; label: the request, or "" for all records."""
    return f"{label}: {HEADINGS[metric]}" if label else HEADINGS[metric]


def _value(state: Any, label: str, metric: str) -> float | None:
    """A number of one request's people, or of all records."""
    return (state["requests"][label] if label else state["all"]).get(metric)


def change_lines(found: Found) -> list[str]:
    """A sentence for each request but the last: how far its people have come back."""
    said = []
    for label in found["sequence"][:-1]:
        own = found["changes"][label]
        parts = [
            f"{HEADINGS[metric].split(' ↓')[0]} {value:+.3f}"
            for metric, value in own.items()
            if value is not None
        ]
        said.append(f"{label}, from right after the own request to the end: {', '.join(parts)}")
    return said


def definition_line(found: Found) -> str:
    """The definitions, with their versions."""
    used: dict[str, list[str]] = {}
    for metric, label in found["definitions"].items():
        used.setdefault(label, []).append(HEADINGS.get(metric, "change").split(" ")[0])
    shown = "; ".join(f"{label}: {', '.join(dict.fromkeys(of))}" for label, of in used.items())
    return f"{shown}. {CHANGE.name}: {CHANGE.words}, {CHANGE.direction} if higher"


def about(found: Found) -> str:
    """What was run, in one line."""
    return (
        f"{found['method']} --sequence: {found['semantics']} semantics, forgetting "
        f"{found['modality']}, seed {found['seed']}, recipe {found['recipe']}"
    )


def terminal(found: Found) -> str:
    """The text for people."""
    blocks = [about(found), ""]
    for run in found["runs"]:
        seconds = ", ".join(f"{phase} {value:.0f} s" for phase, value in run["seconds"].items())
        blocks.append(
            f"{run['request']}: {run['forget_rows']} rows to forget, {run['retain_rows']} to "
            f"retain, {run['steps']} steps, {seconds}; {run['directory']}"
        )
        blocks += [f"  {guard_line(guard)}" for guard in guards_of(run)]
    blocks += ["", *aligned(*cells_of(found)), "", f"{MEANING}:", ""]
    blocks += [*aligned(*cells_of(found, intervals=True)), "", *change_lines(found), ""]
    blocks += [*wrap(ABOUT, 110), *wrap(definition_line(found), 110), ""]
    return "\n".join([*blocks, f"token terms: {found['impl']}; written to {found['out']}"])


def page(found: Found, record: RunRecord) -> str:
    """The page as HTML text."""
    header, lines = cells_of(found)
    numbers = range(1, len(header))
    requests = [
        [
            run["request"],
            run["forget_rows"],
            run["retain_rows"],
            run["steps"],
            "; ".join(guard_line(guard) for guard in guards_of(run)),
            f"{run['directory']}/{run_directory.REPORT_FILE}",
        ]
        for run in found["runs"]
    ]
    body = [
        f"<h1>{text(about(found))}</h1>",
        f'<p class="soft">{text(ABOUT)}</p>',
        "<h2>After each request</h2>",
        html_frame.table(header, lines, numbers),
        *(f"<p>{text(line)}.</p>" for line in change_lines(found)),
        f'<p class="soft">{text(definition_line(found))}.</p>',
        details(MEANING, html_frame.table(*cells_of(found, intervals=True), numbers)),
        "<h2>The requests</h2>",
        html_frame.table(
            ["request", "rows to forget", "rows to retain", "steps", "warnings", "its own page"],
            requests,
            (1, 2, 3),
        ),
        f"<h3>The command</h3><pre>{text(command_line(record))}</pre>",
        *made_from(record),
    ]
    return html_frame.page(f"clear_ref · {about(found)}", html_frame.STYLE, "\n".join(body))


def as_csv(found: Found) -> str:
    """A line for each model, request (empty: all records) and number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "request", "number", "value", "low", "high", "definition"])
    for name, own in states_of(found):
        groups = [*own["requests"].items(), ("", own["all"])]
        for label, numbers in groups:
            for metric, value in numbers.items():
                if value is None:
                    continue
                between = own["intervals"][label].get(metric) or ("", "")
                cells = [csv_cell(name), csv_cell(label), metric, repr(value), *between]
                writer.writerow([*cells, found["definitions"][metric]])
    for label, numbers in found["changes"].items():
        for metric, value in numbers.items():
            if value is not None:
                cells = ["change", csv_cell(label), metric, repr(value), "", ""]
                writer.writerow([*cells, found["definitions"]["change"]])
    return out.getvalue()
