"""The page and the tables of `visual` runs: report.html, visual.csv, leaderboard.tex and .md."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import read_json, write_text
from clear_ref.common.run_directory import RunRecord
from clear_ref.common.text_table import aligned, csv_cell
from clear_ref.visual import columns

from . import html_frame
from .html_frame import details, text

CSV = "visual.csv"


def write(out: Path, found: Mapping[str, Any], record: RunRecord) -> None:
    """Write the page and the three tables of a run; all are made before the first is written.

    found   what metrics.json holds
    record  what settings.json holds
    """
    texts = texts_of([found], made_from(record))
    for name, content in texts.items():
        write_text(out / name, content)


def texts_of(visual: Sequence[Mapping[str, Any]], more: Sequence[str] = ()) -> dict[str, str]:
    """{file: its text} of the tables and the page of one or more runs; the page is last.

    more  markup at the end of the page
    """
    return {
        CSV: as_csv(visual),
        "leaderboard.tex": "\n".join(as_latex(found) for found in visual),
        "leaderboard.md": "\n".join(as_markdown(found) for found in visual),
        run_directory.REPORT_FILE: page(visual, more),
    }


def read(directory: Path) -> dict[str, Any] | None:
    """What metrics.json of a finished `visual` run holds; None for a run of another command.

    raises  UserError for a run that has not finished, and if metrics.json is not what it writes
    """
    settings, path = directory / run_directory.SETTINGS_FILE, directory / run_directory.METRICS_FILE
    if not settings.exists() or read_json(settings).get("command") != "visual":
        return None
    if not path.is_file():
        raise UserError(
            f"report {directory}: holds no {path.name}, as a run that has not finished; "
            "finish it with --resume"
        )
    found = read_json(path)
    models, metrics = found.get("models"), found.get("metrics")
    right = (
        isinstance(models, dict)
        and all(_is_model(sets) for sets in models.values())
        and isinstance(metrics, list)
        and len(metrics) > 0
        and all(isinstance(name, str) and name in columns.WORDS for name in metrics)
        and all(type(found.get(name)) is int for name in ("splits", "names", "pictures"))
        and isinstance(found.get("semantics"), str)
    )
    if not right:
        raise UserError(
            f"{path}: is not the summary of a finished visual run; the same command with --resume "
            "writes it again"
        )
    return found


def _is_model(sets: object) -> bool:
    """Whether these are the numbers of one stage, in each definition."""
    return isinstance(sets, dict) and all(
        isinstance(sets.get(definition), dict)
        and all(_is_number(sets[definition].get(name)) for name in columns.COLUMNS)
        for definition in columns.WORDS
    )


def _is_number(found: object) -> bool:
    """Whether this is a Number of visual/columns.py."""
    return isinstance(found, dict) and (
        (found.get("value") is None or is_number(found["value"]))
        and is_number(found.get("spread"))
        and type(found.get("n")) is int
    )


def terminal(found: Mapping[str, Any]) -> list[str]:
    """The tables of one run for a terminal, and what the numbers mean."""
    lines = []
    for definition in found["metrics"]:
        rows = lines_of(found, definition)
        lines += [title(found, definition), "", *aligned(columns.headings(), rows), ""]
    for each in legend(found):
        lines += wrap(each, 96)
    return lines


def title(found: Mapping[str, Any], definition: str) -> str:
    """The title of one table."""
    return (
        f"Visual only, {found['semantics']} semantics, {definition} definitions: {found['names']} "
        f"people, {found['pictures']} pictures, {found['splits']} splits"
    )


def lines_of(found: Mapping[str, Any], definition: str) -> list[list[str]]:
    """The cells of each line of one table."""
    return [columns.cells(stage, sets[definition]) for stage, sets in found["models"].items()]


def legend(found: Mapping[str, Any]) -> list[str]:
    """What the numbers mean, a sentence or more each."""
    return [columns.MEANING, *(columns.WORDS[name] for name in found["metrics"])]


def section(found: Mapping[str, Any]) -> list[str]:
    """The tables as markup."""
    parts = []
    for definition in found["metrics"]:
        numbers = range(1, 1 + len(columns.COLUMNS))
        parts.append(f"<h2>{text(title(found, definition))}</h2>")
        parts.append(html_frame.table(columns.headings(), lines_of(found, definition), numbers))
    return [*parts, *(f'<p class="soft">{text(each)}</p>' for each in legend(found))]


def page(visual: Sequence[Mapping[str, Any]], more: Sequence[str] = ()) -> str:
    """The page of one or more runs as HTML text."""
    body = []
    for found in visual:
        title = f"Visual-only track, {found['semantics']}: {verdict(found)}"
        failed = [f"<p>Failed: {text(each)}</p>" for each in found.get("failed", [])]
        body += [f"<h1>{text(title)}</h1>", *failed, *section(found)]
    style = html_frame.STYLE
    return html_frame.page("clear_ref · visual", style, "\n".join([*body, *more]))


def made_from(record: RunRecord) -> list[str]:
    """Settings, inputs and versions of a run as markup."""
    settings = [
        [name, str(entry["value"]), entry["source"]]
        for name, entry in (record["settings"] | record.get("options", {})).items()
    ]
    inputs = list(record["inputs"].items())
    versions = list(record["versions"].items())
    return [
        "<h2>How it was made</h2>",
        details("Settings", html_frame.table(["setting", "value", "source"], settings)),
        details("Inputs", html_frame.table(["input", "SHA-256"], inputs)),
        details("Versions", html_frame.table(["package", "version"], versions)),
    ]


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence: the method whose U-LIRA is lowest among those that keep what base retains."""
    definition = found["metrics"][0]
    models = {stage: sets[definition] for stage, sets in found["models"].items()}
    base = models.get("base", {}).get("retain", {}).get("value")
    able = {
        stage: numbers["u_lira"]["value"]
        for stage, numbers in models.items()
        if stage not in columns.LABELS
        and base is not None
        and numbers["u_lira"]["value"] is not None
        and numbers["retain"]["value"] is not None
        and numbers["retain"]["value"] >= 0.9 * base
    }
    if not able:
        return "no method keeps nine tenths of base's Retain accuracy"
    best = min(able, key=lambda stage: able[stage])
    return f"of the methods that keep Retain, {best} has the lowest U-LIRA, {able[best]:.2f}"


def as_csv(visual: Sequence[Mapping[str, Any]]) -> str:
    """A line for each run, stage and definition, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [part for name in columns.COLUMNS for part in (name, f"{name}_spread")]
    writer.writerow(["model", "semantics", "definitions", "splits", *names])
    for found in visual:
        for stage, sets in found["models"].items():
            for definition in found["metrics"]:
                cells = [csv_cell(stage), found["semantics"], definition, found["splits"]]
                for name in columns.COLUMNS:
                    number = sets[definition][name]
                    known = number["value"] is not None
                    cells += [repr(number["value"]), repr(number["spread"])] if known else ["", ""]
                writer.writerow(cells)
    return out.getvalue()


def as_markdown(found: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    lines = []
    for definition in found["metrics"]:
        header = columns.headings()
        lines += [f"**{title(found, definition)}**", ""]
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|---" + "|---:" * (len(header) - 1) + "|")
        lines += ["| " + " | ".join(cells) + " |" for cells in lines_of(found, definition)]
        lines.append("")
    return "\n".join([*lines, *legend(found)]) + "\n"


def as_latex(found: Mapping[str, Any]) -> str:
    """The tables as plain LaTeX tabular."""
    lines = []
    for definition in found["metrics"]:
        lines.append(f"% {title(found, definition)}")
        lines.append("\\begin{tabular}{l" + "r" * len(columns.COLUMNS) + "}")
        rows = [columns.headings(), *lines_of(found, definition)]
        lines += [" & ".join(_latex(cell) for cell in cells) + " \\\\" for cells in rows]
        lines += ["\\end{tabular}", ""]
    return "\n".join([*lines, *(f"% {each}" for each in legend(found))]) + "\n"


def _latex(cell: str) -> str:
    """A cell for LaTeX."""
    for sign, code in (
        ("_", "\\_"),
        ("±", "$\\pm$"),
        (columns.LOWER, "$\\downarrow$"),
        (columns.HIGHER, "$\\uparrow$"),
    ):
        cell = cell.replace(sign, code)
    return cell
