"""report DIR...: one page of any number of finished runs, and its table in CSV, LaTeX and Markdown.

Its files and marks: REPORT_HELP in file_settings.py.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, write_text
from clear_ref.mini import directories
from clear_ref.report import (
    formats,
    leaderboard,
    read_runs,
    samples,
    sequence_table,
    terminal,
    visual_page,
    visual_runs,
)
from clear_ref.report.headline import headline
from clear_ref.report.page import page
from clear_ref.report.run_groups import RunGroup, has_collapsed, run_groups
from clear_ref.report.visual_runs import VisualRun

from .given import settings_from
from .output import Output
from .settings import Report

PAGE = run_directory.REPORT_FILE
TABLES = ("leaderboard.csv", "leaderboard.tex", "leaderboard.md")


def command(arguments: Namespace) -> Output:
    """What `report` prints."""
    found = run(arguments.run, settings_from(arguments, Report))
    return Output(found, sequence_table.terminal if "sequences" in found else terminal.report)


def run(paths: list[str], settings: Report) -> dict[str, Any]:
    """Write the page and the three tables of these run directories into `out`.

    returns  {"command", "out", "files", "title", "metrics": sets of definitions, "models": {"base",
             "gold": {set: metrics}}, "intervals": the same of their intervals, "runs": [see
             run_entry], "lines": [{"label", "modality", "seeds", "retain_collapsed"}] of the
             tables, "failed": names, "notes": sentences}
    raises   UserError for a directory that is not a finished run, runs that cannot be compared, a
             run given twice, an `out` that is in use
    """
    check_each_once(paths)
    sequences = {path: sequence_table.read(Path(path)) for path in paths}
    if any(sequences.values()):
        return only_sequences(sequences, settings)
    found = {path: visual_runs.read(Path(path)) for path in paths}
    visual = [each for each in found.values() if each is not None]
    others = [path for path in paths if found[path] is None]
    if not others:
        return only_visual(visual, settings)
    report = read_runs.read(others, settings.metrics)
    groups = run_groups(report)
    cards, notes = cards_of(report, groups, settings.data)
    out = Path(settings.out) if settings.out else run_directory.unused_directory("report")
    run_directory.check_empty(out, "--out")
    write(report, groups, cards, notes, out, visual)
    return {
        "command": "report",
        "out": str(out),
        "files": [PAGE, *TABLES, *([visual_page.CSV] if visual else [])],
        "title": headline(report, groups),
        "metrics": list(report.sets),
        "models": report.metrics,
        "intervals": report.intervals,
        "runs": [run_entry(report, group, run) for group in groups for run in group.runs],
        "lines": [
            {
                "label": group.label,
                "modality": group.panel,
                "seeds": len(group.runs),
                "retain_collapsed": group.collapsed,
            }
            for group in groups
        ],
        "failed": list(report.failed),
        "notes": notes,
        **({"visual": [each.found for each in visual]} if visual else {}),
    }


def check_each_once(paths: Sequence[str]) -> None:
    """UserError for a directory that is given twice, whatever run it holds."""
    seen: dict[Path, str] = {}
    for path in paths:
        where = Path(path).resolve()
        if where in seen:
            raise UserError(
                f"report {path}: is there twice, as {seen[where]} too; name each run once"
            )
        seen[where] = path


def only_sequences(sequences: dict[str, dict[str, Any] | None], settings: Report) -> dict[str, Any]:
    """`run` of sequences: {"command", "out", "files", "sequences": metrics.json of each}.

    raises  UserError for other runs among them, and for settings that such a report does not read
    """
    known = {path: found for path, found in sequences.items() if found is not None}
    for path, found in sequences.items():
        if found is None:
            raise UserError(
                f"report {path}: is no sequence of requests, as {next(iter(known))} is; make a "
                "report of each kind"
            )
    for name in ("metrics", "data"):
        if getattr(settings, name) != getattr(Report(), name):
            raise UserError(
                f"--{name} changes nothing in a report of sequences; expected --out or no option"
            )
    sequence_table.check_together(known)
    out = Path(settings.out) if settings.out else run_directory.unused_directory("report")
    run_directory.check_empty(out, "--out")
    texts = sequence_table.texts_of(list(known.values()))
    for name, content in texts.items():
        write_text(out / name, content)
    return {
        "command": "report",
        "out": str(out),
        "files": list(texts),
        "sequences": list(known.values()),
    }


def only_visual(visual: list[VisualRun], settings: Report) -> dict[str, Any]:
    """`run` of `visual` runs alone: {"command", "out", "files", "title", "visual": metrics.json of
    each, with its directory and what it was given}.

    raises  UserError for settings that such a report does not read
    """
    for name in ("metrics", "data"):
        if getattr(settings, name) != getattr(Report(), name):
            raise UserError(
                f"--{name} changes nothing in a report of visual runs alone; expected --out or no "
                "option: each run's own definitions are shown"
            )
    out = Path(settings.out) if settings.out else run_directory.unused_directory("report")
    run_directory.check_empty(out, "--out")
    for name, content in visual_page.texts_of(visual).items():
        write_text(out / name, content)
    return {
        "command": "report",
        "out": str(out),
        "files": [PAGE, *TABLES[1:], visual_page.CSV],
        "title": visual_page.verdict(visual[0].found),
        "visual": [each.found for each in visual],
    }


def run_entry(report: read_runs.Report, group: RunGroup, run: read_runs.Run) -> dict[str, Any]:
    """One run in the JSON output; method, semantics and modality are null for an evaluate run."""
    unlearned = bool(run.semantics)
    return {
        "directory": str(run.where),
        "label": group.label,
        "method": run.name if unlearned else None,
        "semantics": run.semantics or None,
        "modality": run.modality if unlearned else None,
        "seed": run.seed,
        "retain_collapsed": has_collapsed(run.paper, report.paper.get("base")),
        "metrics": run.metrics,
        "intervals": run.intervals,
        **({"guards": run.summary["guards"]} if run.summary.get("guards") else {}),
    }


def of_run(out: Path, metrics: str) -> None:
    """Write the page of one run into its directory, from what the directory holds."""
    report = read_runs.read([out], metrics)
    cards, notes = cards_of(report, run_groups(report))
    write_text(out / PAGE, page(report, cards, notes))


def of_all(out: Path, metrics: str) -> None:
    """Write the page and the tables of what `all` wrote, into its directory."""
    report = read_runs.read([out], metrics)
    groups = run_groups(report)
    cards, notes = cards_of(report, groups)
    write(report, groups, cards, notes, out)


def write(
    report: read_runs.Report,
    groups: list[RunGroup],
    cards: list[samples.Card],
    notes: list[str],
    out: Path,
    visual: Sequence[VisualRun] = (),
) -> None:
    """Write the page and the three tables; all are made before the first is written.

    visual  `visual` runs: their tables come after the others
    """
    tables = leaderboard.with_intervals(leaderboard.tables(report, groups))
    legend = leaderboard.legend(tables, report)
    sections = [line for each in visual for line in visual_page.section(each)]
    texts = {
        PAGE: page(report, cards, notes, sections),
        "leaderboard.csv": formats.as_csv(report, groups),
        "leaderboard.tex": formats.as_latex(tables, report.sets, legend),
        "leaderboard.md": formats.as_markdown(tables, report.sets, legend),
    }
    for each in visual:
        texts["leaderboard.tex"] += "\n" + visual_page.as_latex(each.found)
        texts["leaderboard.md"] += "\n" + visual_page.as_markdown(each.found)
    if visual:
        texts[visual_page.CSV] = visual_page.as_csv(visual)
    for name, text in texts.items():
        write_text(out / name, text)


def cards_of(
    report: read_runs.Report, groups: list[RunGroup], data: str = ""
) -> tuple[list[samples.Card], list[str]]:
    """(records to show, notes), with pictures of a data directory (mini, or a path).

    data    "": the data directory of the first run; where it is gone or has changed, a note says so
            and there are no pictures
    raises  UserError if the named directory is not that of the runs
    """
    if data:
        return samples.cards(report, groups, directories.data_directory(data)), []
    entry = report.runs[0].record["settings"].get("data")
    named = entry["value"] if entry else "mini"
    try:
        return samples.cards(report, groups, directories.data_directory(named)), []
    except UserError as error:
        note = (
            f"Without pictures: {one_line(error)}; report --data names a directory that has them."
        )
        return samples.cards(report, groups, None), [note]
