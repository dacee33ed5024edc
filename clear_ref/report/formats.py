"""The leaderboard for other programs: every run in CSV, and the page's tables in LaTeX and Markdown."""

import csv
import io
import re

from .leaderboard import MARK, PANELS, Row, Table, collapsed
from .read_runs import EVALUATED, Report
from .table import columns_of

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: "\\" + sign for sign in "_%&#$"},
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    MARK: r"$\dagger$",
}
MARKDOWN = re.compile(r"([\\`*_{}\[\]|~<>#])")


def as_csv(report: Report, lines: list[Row]) -> str:
    """One line for base, for gold and for each run, every number in full; a value that there is none of is empty.

    columns  model, kind, method, semantics, modality, seed, retain_collapsed (true, false), out, and for every set of definitions
             SET.METRIC with SET.METRIC.definition beside it
    """
    every = {
        name: [
            *(sets[name] for sets in report.metrics.values()),
            *(run.metrics[name] for run in report.runs),
        ]
        for name in report.sets
    }
    metrics = [(name, metric) for name in report.sets for metric, _, _ in columns_of(every[name])]
    header = ["model", "kind", "method", "semantics", "modality", "seed", "retain_collapsed", "out"]
    header += [f"{name}.{metric}{end}" for name, metric in metrics for end in ("", ".definition")]
    found = [
        [model, model, "", "", "", "", "", "", *_numbers(sets, metrics)]
        for model, sets in report.metrics.items()
    ]
    for row in lines:
        for run in row.runs:
            lost = collapsed(run.paper, report.paper.get("base"))
            kind = ["evaluated", ""] if run.modality == EVALUATED else ["unlearned", run.name]
            found.append(
                [
                    row.label,
                    *kind,
                    run.semantics,
                    "" if run.modality == EVALUATED else run.modality,
                    "" if run.seed is None else run.seed,
                    "" if lost is None else str(lost).lower(),
                    str(run.where),
                    *_numbers(run.metrics, metrics),
                ]
            )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *found])
    return text.getvalue()


def _numbers(sets: dict, metrics) -> list:
    """The values of (set, metric) with their definitions' names; repr of a float is the float."""
    return [
        cell
        for name, metric in metrics
        for value in [sets[name].get(metric)]
        for cell in (
            ("", "") if value is None else (repr(value), sets[name]["definitions"].get(metric, ""))
        )
    ]


def title(table: Table, sets) -> str:
    """What stands above a table: what was forgotten, the semantics and whose definitions where they are not the paper's alone."""
    named = f", {table.semantics} semantics" if table.semantics else ""
    named += "" if tuple(sets) == ("paper",) else f", {table.definitions} definitions"
    return PANELS.get(table.panel, f"Forgetting {table.panel}") + named


def as_markdown(found: list[Table], sets, legend: list[str]) -> str:
    """The tables with their titles, best in bold, and the legend; whatever stands in a name is text."""
    blocks = []
    for table in found:
        head = ["model", *(f"{heading} {arrow}" for _, heading, arrow in table.columns)]
        lines = [head, ["---", *["---:"] * len(table.columns)]]
        lines += [
            [
                _markdown(line.label + f" {MARK}" * line.collapsed),
                *(f"**{cell.text}**" if cell.best else cell.text for cell in line.cells),
            ]
            for line in table.lines
        ]
        blocks += [
            f"## {_markdown(title(table, sets))}",
            "\n".join(f"| {' | '.join(cells)} |" for cells in lines),
        ]
    return "\n\n".join([*blocks, "\n".join(f"- {sentence}" for sentence in legend)]) + "\n"


def as_latex(found: list[Table], sets, legend: list[str]) -> str:
    """The tables as plain tabular, best in bold, each after its title as a comment; no package is needed.

    Letters other than Latin ones in a name need an engine that has them (XeLaTeX, LuaLaTeX).
    """
    blocks = []
    for table in found:
        head = ["model", *(f"{heading} {arrow}" for _, heading, arrow in table.columns)]
        lines = [" & ".join(map(_latex, head)) + r" \\ \hline"]
        for i, line in enumerate(table.lines):
            cells = [
                rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text)
                for cell in line.cells
            ]
            last = (
                line.kind != "unlearned"
                and i + 1 < len(table.lines)
                and table.lines[i + 1].kind == "unlearned"
            )
            lines.append(
                " & ".join([_latex(line.label + f" {MARK}" * line.collapsed), *cells])
                + r" \\"
                + r" \hline" * last
            )
        blocks.append(
            "\n".join(
                [
                    f"% {_line(title(table, sets))}",
                    rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
                    *lines,
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join([*blocks, "\n".join(f"% {_line(sentence)}" for sentence in legend)]) + "\n"


def _line(text: str) -> str:
    """A text as one line, so that it can neither leave a comment nor a table's line."""
    return " ".join(text.split())


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in _line(text))


def _markdown(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", _line(text)).replace("&", "&amp;")
