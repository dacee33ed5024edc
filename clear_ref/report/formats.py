"""The leaderboard for other programs: every run in CSV, the page's tables in LaTeX and Markdown."""

import csv
import io
import re
from collections.abc import Sequence

from clear_ref.common.text_table import csv_cell
from clear_ref.evaluation.definitions import label_of
from clear_ref.evaluation.metrics import Scores

from . import zero_means
from .columns import columns_of, headings
from .leaderboard import MARK, PANELS, Line, Table
from .read_runs import EVALUATED, Report, Run
from .record_intervals import Intervals
from .run_groups import RunGroup, has_collapsed

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
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "–": "--",
    MARK: r"$\dagger$",
    zero_means.MARK: r"$\ddagger$",
}
MARKDOWN = re.compile(r"([\\`*_{}\[\]|~<>#])")


CSV_COLUMNS = (
    "model",
    "kind",
    "method",
    "semantics",
    "modality",
    "seed",
    "retain_collapsed",
    "zero_parts",
    "out",
)
# Columns of a run that are no settings: the recipe by name, what the labels cover, ...
RUN_COLUMNS = ("recipe", "label_mask", "impl", "steps")


def as_csv(report: Report, groups: list[RunGroup]) -> str:
    """One line for base, for gold and for each run, every number in full.

    A value that does not exist is empty.
    columns  model, kind, method, semantics, modality, seed, retain_collapsed (true, false),
             zero_parts ("METRIC: PART of TASK; ...": harmonic means that are 0 because of a part),
             out; recipe, label_mask, impl, steps; every setting, recipe value and option that any
             run has (setting.model, and "option.NAME" where a setting has that name); for every
             set of definitions SET.METRIC with SET.METRIC.definition beside it, and
             SET.METRIC.low and .high, its 95 % interval over the records
    """
    metrics = []
    for name in report.sets:
        all_scores = [sets[name] for sets in report.metrics.values()]
        all_scores += [run.metrics[name] for run in report.runs]
        shown = [metric for metric, _, _ in columns_of(all_scores)]
        metrics += [(name, metric) for metric in dict.fromkeys([*shown, *_others(all_scores)])]
    settings = {run: _settings(run) for run in report.runs}
    names = [*RUN_COLUMNS, *dict.fromkeys(name for own in settings.values() for name in own)]
    names = list(dict.fromkeys(name for name in names if name not in CSV_COLUMNS))
    header = [*CSV_COLUMNS, *names]
    for name, metric in metrics:
        header += [f"{name}.{metric}{end}" for end in ("", ".definition", ".low", ".high")]
    rows = []
    for model, sets in report.metrics.items():
        facts = ["", "", "", "", "", _zero_parts(report, sets), ""]
        rows.append(
            [
                model,
                model,
                *facts,
                *[""] * len(names),
                *_numbers(sets, metrics, report.intervals[model]),
            ]
        )
    base = report.paper.get("base")
    for group in groups:
        for run in group.runs:
            own = [settings[run].get(name, "") for name in names]
            facts = _facts(report, run, base)
            rows.append([group.label, *facts, *own, *_numbers(run.metrics, metrics, run.intervals)])
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows(
        [[csv_cell(cell) for cell in row] for row in [header, *rows]]
    )
    return output.getvalue()


def _others(all_scores: list[Scores]) -> list[str]:
    """The numbers that at least one model has, those without a column of the tables included."""
    return [
        metric
        for scores in all_scores
        for metric, value in scores.items()
        if isinstance(value, float)
    ]


def _facts(report: Report, run: Run, base: Scores | None) -> list[str]:
    """The values of CSV_COLUMNS, without the model."""
    is_unlearned = run.modality != EVALUATED
    collapsed = has_collapsed(run.paper, base)
    return [
        "unlearned" if is_unlearned else "evaluated",
        run.name if is_unlearned else "",
        run.semantics,
        run.modality if is_unlearned else "",
        "" if run.seed is None else str(run.seed),
        "" if collapsed is None else str(collapsed).lower(),
        _zero_parts(report, run.metrics),
        str(run.where),
    ]


def _zero_parts(report: Report, sets: dict[str, Scores]) -> str:
    """The marked zeros of a model by the first set of definitions, with their parts."""
    scores = sets[report.sets[0]]
    zero = {metric: zero_means.zero_parts(scores, metric) for metric in zero_means.HEADINGS}
    return "; ".join(f"{metric}: {', '.join(parts)}" for metric, parts in zero.items() if parts)


def _settings(run: Run) -> dict[str, str]:
    """{column: value} of RUN_COLUMNS, of every setting and recipe value, and of every option."""
    settings = {name: entry["value"] for name, entry in run.record["settings"].items()}
    found = {
        **settings,
        "recipe": run.record.get("recipe", settings.get("recipe", "")),
        "label_mask": run.record.get("label_mask", ""),
        "impl": run.summary["impl"],
        "steps": run.summary.get("steps", ""),
    }
    # The column `model` holds the label of the line.
    found["setting.model"] = found.pop("model", "")
    for name, entry in run.record.get("options", {}).items():
        found[f"option.{name}" if name in found else name] = entry["value"]
    return {name: value if isinstance(value, str) else repr(value) for name, value in found.items()}


def _numbers(
    sets: dict[str, Scores], metrics: list[tuple[str, str]], intervals: Intervals
) -> list[str]:
    """The values of (set, metric), each with its definition's name and version and its interval.

    repr gives a float in full.
    """
    cells = []
    for name, metric in metrics:
        value = sets[name].get(metric)
        if value is None:
            cells += ["", "", "", ""]
        else:
            interval = intervals[name].get(metric)
            ends = ["", ""] if interval is None else [repr(end) for end in interval]
            cells += [repr(value), label_of(sets[name]["definitions"].get(metric, "")), *ends]
    return cells


def title(table: Table, sets: Sequence[str]) -> str:
    """The title of a table: what was forgotten, by which semantics, by whose definitions.

    Semantics and definitions are left out if they are the paper's alone.
    """
    words = PANELS.get(table.panel, f"Forgetting {table.panel}")
    if table.semantics:
        words += f", {table.semantics} semantics"
    if tuple(sets) != ("paper",):
        words += f", {table.definitions} definitions"
    return words + (": 95 % intervals" if table.intervals else "")


def as_markdown(tables: list[Table], sets: Sequence[str], legend: list[str]) -> str:
    """The tables with their titles, the best in bold, and the legend. Names are shown as text."""
    blocks = []
    for table in tables:
        rows = [
            ["model", *headings(table.columns)],
            ["---", *["---:"] * len(table.columns)],
        ]
        for line in table.lines:
            cells = [f"**{cell.marked}**" if cell.best else cell.marked for cell in line.cells]
            rows.append([markdown(_label(line)), *cells])
        blocks.append(f"## {markdown(title(table, sets))}")
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
    blocks.append("\n".join(f"- {sentence}" for sentence in legend))
    return "\n\n".join(blocks) + "\n"


def as_latex(tables: list[Table], sets: Sequence[str], legend: list[str]) -> str:
    """The tables as plain tabular, the best in bold, each after its title as a comment.

    No package is needed. Letters other than Latin ones in a name need an engine that has them
    (XeLaTeX, LuaLaTeX).
    """
    blocks = []
    for table in tables:
        header = ["model", *headings(table.columns)]
        lines = [" & ".join(map(latex, header)) + r" \\ \hline"]
        for line, following in zip(table.lines, [*table.lines[1:], None], strict=True):
            cells = [latex(_label(line))]
            for cell in line.cells:
                shown = latex(cell.marked)
                cells.append(rf"\textbf{{{shown}}}" if cell.best else shown)
            ends_models = (
                line.kind != "unlearned" and following is not None and following.kind == "unlearned"
            )
            lines.append(" & ".join(cells) + r" \\" + (r" \hline" if ends_models else ""))
        blocks.append(
            "\n".join(
                [
                    latex_comment(title(table, sets)),
                    rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
                    *lines,
                    r"\end{tabular}",
                ]
            )
        )
    blocks.append("\n".join(map(latex_comment, legend)))
    return "\n\n".join(blocks) + "\n"


def _label(line: Line) -> str:
    return line.label + (f" {MARK}" if line.collapsed else "")


def _one_line(text: str) -> str:
    """A text as one line, so that it can neither end a comment nor a line of a table."""
    return " ".join(text.split())


def latex_comment(text: str) -> str:
    """A text as a comment of LaTeX."""
    return f"% {_one_line(text)}"


def latex(text: str) -> str:
    """A text for LaTeX, on one line."""
    return "".join(LATEX.get(sign, sign) for sign in _one_line(text))


def markdown(text: str) -> str:
    """A text for Markdown, shown as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", _one_line(text)).replace("&", "&amp;")
