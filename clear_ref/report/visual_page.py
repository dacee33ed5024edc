"""The page and the tables of `visual` runs: report.html, visual.csv, leaderboard.tex and .md."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.files import write_text
from clear_ref.common.run_directory import RunRecord
from clear_ref.common.text_table import aligned, csv_cell
from clear_ref.visual import columns

from . import html_frame
from .formats import latex, latex_comment, markdown
from .html_frame import details, text
from .visual_runs import Found, VisualRun, failures, run_of

CSV = "visual.csv"
RETAIN_KEPT = 0.9  # share of base's Retain accuracy that a method of the verdict keeps
CSV_COLUMNS = ("model", "semantics", "definitions", "splits")
CSV_FACTS = ("failed", "given", "out")


def write(out: Path, found: Found, record: RunRecord) -> None:
    """Write the page and the three tables of a run; all are made before the first is written.

    found   what metrics.json holds
    record  what settings.json holds
    """
    for name, content in texts_of([run_of(out, found, record)]).items():
        write_text(out / name, content)


def texts_of(visual: Sequence[VisualRun]) -> dict[str, str]:
    """{file: its text} of the tables and the page of one or more runs; the page is last."""
    return {
        CSV: as_csv(visual),
        "leaderboard.tex": "\n".join(as_latex(run.found) for run in visual),
        "leaderboard.md": "\n".join(as_markdown(run.found) for run in visual),
        run_directory.REPORT_FILE: page(visual),
    }


def terminal(found: Found) -> list[str]:
    """The tables of one run for a terminal, and what the numbers mean."""
    lines = []
    for definition in found["metrics"]:
        rows = lines_of(found, definition)
        lines += [*wrap(title(found, definition), 96), ""]
        lines += [*aligned(columns.headings(), rows), ""]
    for each in legend(found):
        lines += wrap(each, 96)
    return lines


def title(found: Found, definition: str) -> str:
    """The title of one table, with what the command line named."""
    about = (
        f"Visual only, {found['semantics']} semantics, {definition} definitions: {found['names']} "
        f"people, {found['pictures']} pictures, {found['splits']} splits"
    )
    return "; ".join([about, *([", ".join(found["given"])] if found.get("given") else [])])


def lines_of(found: Found, definition: str) -> list[list[str]]:
    """The cells of each line of one table; a method that failed has no numbers."""
    lines = [columns.cells(stage, sets[definition]) for stage, sets in found["models"].items()]
    for method in failures(found):
        if method and method not in found["models"]:
            lines.append([f"{method} (failed)", *["-"] * len(columns.COLUMNS)])
    return lines


def legend(found: Found) -> list[str]:
    """What failed and what the numbers mean, a sentence or more each."""
    failed = [f"failed: {reason}." for reason in failures(found).values()]
    return [*failed, columns.MEANING, *(columns.WORDS[name] for name in found["metrics"])]


def directory_of(found: Found) -> str:
    """The sentence that names the directory of a run."""
    return f"Run: {found['out']}"


def section(run: VisualRun) -> list[str]:
    """The tables and the settings of a run as markup."""
    found = run.found
    parts = []
    for definition in found["metrics"]:
        numbers = range(1, 1 + len(columns.COLUMNS))
        parts.append(f"<h2>{text(title(found, definition))}</h2>")
        parts.append(html_frame.table(columns.headings(), lines_of(found, definition), numbers))
    said = [directory_of(found), *legend(found)]
    return [*parts, *(f'<p class="soft">{text(each)}</p>' for each in said), *made_from(run.record)]


def page(visual: Sequence[VisualRun]) -> str:
    """The page of one or more runs as HTML text."""
    body = []
    for run in visual:
        words = f"Visual-only track, {run.found['semantics']}: {verdict(run.found)}"
        body += [f"<h1>{text(words)}</h1>", *section(run)]
    return html_frame.page("clear_ref · visual", html_frame.STYLE, "\n".join(body))


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


def verdict(found: Found) -> str:
    """One sentence: the method whose U-LIRA is nearest to IDEAL among those that keep what base
    retains.
    """
    definition = found["metrics"][0]
    models = {stage: sets[definition] for stage, sets in found["models"].items()}
    base = _value(models.get("base", {}), "retain")
    methods = {
        stage: numbers
        for stage, numbers in models.items()
        if stage not in columns.LABELS and _value(numbers, "retain") is not None
    }
    if base is None or not methods:
        failed = [name for name in failures(found) if name]
        return "no method was measured" + (f": {', '.join(failed)} failed" if failed else "")
    able = {
        stage: _value(numbers, "u_lira")
        for stage, numbers in methods.items()
        if methods[stage]["retain"]["value"] >= RETAIN_KEPT * base
    }
    if not able:
        return "no method keeps nine tenths of base's Retain accuracy"
    attacked = {stage: value for stage, value in able.items() if value is not None}
    if not attacked:
        return f"{', '.join(able)} keep Retain; their U-LIRA was not measured"
    best = min(attacked, key=lambda stage: abs(attacked[stage] - columns.IDEAL))
    return (
        f"of the methods that keep Retain, {best} has the U-LIRA nearest to {columns.IDEAL}, "
        f"{attacked[best]:.2f}"
    )


def _value(numbers: Mapping[str, Any], name: str) -> float | None:
    """A number of one stage; None if it was not measured."""
    return numbers[name]["value"] if name in numbers else None


def as_csv(visual: Sequence[VisualRun]) -> str:
    """A line for each run, stage and definition, numbers in full; a method that failed has none.

    columns  CSV_COLUMNS, the numbers with their spreads; failed (why), given (what the command
             line named), out; every setting and option of any run, `setting.NAME` where a column
             before it has that name
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [part for name in columns.COLUMNS for part in (name, f"{name}_spread")]
    header = [*CSV_COLUMNS, *numbers, *CSV_FACTS]
    settings = [_settings(run.record, header) for run in visual]
    names = list(dict.fromkeys(name for own in settings for name in own))
    writer.writerow([*header, *names])
    for run, own in zip(visual, settings, strict=True):
        found = run.found
        values = [csv_cell(own.get(name, "")) for name in names]
        given = csv_cell(", ".join(found["given"]))
        failed = failures(found)
        stages = [*found["models"], *(name for name in failed if name not in found["models"])]
        for stage in stages:
            for definition in found["metrics"]:
                cells = [csv_cell(stage), found["semantics"], definition, found["splits"]]
                cells += _csv_numbers(found["models"].get(stage, {}).get(definition, {}))
                cells += [csv_cell(failed.get(stage, "")), given, csv_cell(found["out"])]
                writer.writerow([*cells, *values])
    return out.getvalue()


def _settings(record: RunRecord, taken: Sequence[str]) -> dict[str, str]:
    """{column: value} of every setting and option but the directory.

    taken  columns that have another meaning
    """
    entries = record["settings"] | record.get("options", {})
    return {
        f"setting.{name}" if name in taken else name: str(entry["value"])
        for name, entry in entries.items()
        if name != "out"
    }


def _csv_numbers(numbers: Mapping[str, Any]) -> list[str]:
    """Each number and its spread in full; empty cells for what was not measured."""
    cells = []
    for name in columns.COLUMNS:
        known = _value(numbers, name) is not None
        of = numbers.get(name, {})
        cells += [repr(of["value"]), repr(of["spread"])] if known else ["", ""]
    return cells


def as_markdown(found: Found) -> str:
    """The tables in Markdown."""
    lines = []
    for definition in found["metrics"]:
        header = columns.headings()
        lines += [f"**{markdown(title(found, definition))}**", ""]
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|---" + "|---:" * (len(header) - 1) + "|")
        lines += ["| " + " | ".join(cells) + " |" for cells in lines_of(found, definition)]
        lines.append("")
    lines += [markdown(directory_of(found)), ""]
    return "\n".join([*lines, *legend(found)]) + "\n"


def as_latex(found: Found) -> str:
    """The tables as plain LaTeX tabular."""
    lines = []
    for definition in found["metrics"]:
        lines.append(latex_comment(title(found, definition)))
        lines.append("\\begin{tabular}{l" + "r" * len(columns.COLUMNS) + "}")
        rows = [columns.headings(), *lines_of(found, definition)]
        lines += [" & ".join(map(latex, cells)) + " \\\\" for cells in rows]
        lines += ["\\end{tabular}", ""]
    said = [directory_of(found), *legend(found)]
    return "\n".join([*lines, *map(latex_comment, said)]) + "\n"
