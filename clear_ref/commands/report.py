"""report DIR...: one page of any number of runs that are already there, and its table in CSV, LaTeX and Markdown.

Each DIR is the directory of a METHOD or evaluate run, or one that all wrote. Every number is computed again from the logs, by the
definitions asked for. A panel for each modality; runs that differ in their seed alone are one line, mean and standard deviation.

report.html       tables that sort, Forget against Retain, truth ratios, learning curves, what the models say, settings, hashes
leaderboard.csv   a line for base, gold and every run, numbers in full, each with its definition's name
leaderboard.tex   the page's tables as plain tabular            leaderboard.md   the same for Markdown

bold   the best of its column among unlearned models
†      Retain, of pictures or of text, is less than half of base's: a low Forget is then had for nothing, and never the best

All runs must have one base, one gold, one forget split, the same questions and answer lengths, and none may stand there twice:
the first difference is named, nothing is written, exit status 2. Models of several bases are several reports.

  python -m clear_ref.run report runs/all-paper runs/all-released       two leaderboards in one table
  python -m clear_ref.run report runs/all-paper --metrics all           the same runs by three sets of definitions
"""

from pathlib import Path

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, write_text
from clear_ref.mini import directories
from clear_ref.report import formats, leaderboard, read_runs, samples
from clear_ref.report.page import headline, page

PAGE, TABLES = "report.html", ("leaderboard.csv", "leaderboard.tex", "leaderboard.md")


def run(paths: list[str], settings) -> dict:
    """What `report` prints; the page and the three tables are in out.

    returns  {"command", "out", "files", "title", "metrics": sets of definitions, "models": {"base", "gold": {set: metrics}},
              "runs": [{"directory", "label", "method", "semantics", "modality", "seed", "retain_collapsed",
                        "metrics": {set: ...}}],
              "lines": [{"label", "modality", "seeds", "retain_collapsed"}] of the tables, "failed": names, "notes": sentences}
    raises   UserError for a directory that is no finished run, runs that cannot be compared, one named twice, an `out` in use
    """
    report = read_runs.read(paths, settings.metrics)
    lines = leaderboard.rows(report)
    cards, notes = cards_of(report, lines, settings.data)
    out = Path(settings.out) if settings.out else run_directory.unused_directory("report")
    run_directory.check_empty(out, "--out")
    write(report, lines, cards, notes, out)
    runs = [
        {
            "directory": str(one.where),
            "label": row.label,
            "method": one.name if one.semantics else None,
            "semantics": one.semantics or None,
            "modality": one.modality if one.semantics else None,
            "seed": one.seed,
            "retain_collapsed": leaderboard.collapsed(one.paper, report.paper.get("base")),
            "metrics": one.metrics,
        }
        for row in lines
        for one in row.runs
    ]
    return {
        "command": "report",
        "out": str(out),
        "files": [PAGE, *TABLES],
        "title": headline(report, lines),
        "metrics": list(report.sets),
        "models": report.metrics,
        "runs": runs,
        "lines": [
            {
                "label": row.label,
                "modality": row.panel,
                "seeds": len(row.runs),
                "retain_collapsed": row.collapsed,
            }
            for row in lines
        ],
        "failed": list(report.failed),
        "notes": notes,
    }


def of_run(out: Path, metrics: str) -> None:
    """The page of one run, from what its directory holds, into that directory."""
    report = read_runs.read([out], metrics)
    lines = leaderboard.rows(report)
    write_text(out / PAGE, page(report, *cards_of(report, lines)))


def of_all(out: Path, metrics: str) -> None:
    """The page and the tables of what `all` wrote, into its directory."""
    report = read_runs.read([out], metrics)
    lines = leaderboard.rows(report)
    write(report, lines, *cards_of(report, lines), out)


def write(report: read_runs.Report, lines, cards, notes, out: Path) -> None:
    """The page and the three tables into a directory; nothing is written before all have been made."""
    found = leaderboard.tables(report, lines)
    legend = leaderboard.legend(found, report)
    made = {
        PAGE: page(report, cards, notes),
        **dict(
            zip(
                TABLES,
                (
                    formats.as_csv(report, lines),
                    formats.as_latex(found, report.sets, legend),
                    formats.as_markdown(found, report.sets, legend),
                ),
            )
        ),
    }
    for name, text in made.items():
        write_text(out / name, text)


def cards_of(
    report: read_runs.Report, lines, data: str = ""
) -> tuple[list[samples.Card], list[str]]:
    """The records to show, with the pictures of a data directory (mini, or a path).

    data     "": the first run's own; if that is gone or no longer what was evaluated, a note says so and there are none
    raises   UserError if the directory that was named is not the one of the runs
    """
    if data:
        return samples.cards(report, lines, directories.data_directory(data)), []
    named = report.runs[0].record["settings"].get("data", {}).get("value", "mini")
    try:
        return samples.cards(report, lines, directories.data_directory(named)), []
    except UserError as error:
        note = (
            f"Without pictures: {one_line(error)}; report --data names a directory that has them."
        )
        return samples.cards(report, lines, None), [note]
