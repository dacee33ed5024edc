"""The leaderboard of a page: a panel for each modality, base and gold first, then the runs.

run_groups.py decides which runs are seeds of one line, and the order of the lines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clear_ref.evaluation import leakage_parts
from clear_ref.evaluation.bootstrap import Interval
from clear_ref.evaluation.metrics import Scores
from clear_ref.methods.table import SEMANTICS

from . import zero_means
from .columns import HIGHER, LOWER, Column, columns_of, mean, not_computed, number, spread
from .given_settings import common_words
from .read_runs import EVALUATED, Report
from .record_intervals import as_text, meaning, of_line
from .run_groups import RunGroup, by_panel, run_groups, semantics_of
from .thresholds import COLLAPSED

MARK = "†"
PANELS = {
    "both": "Forgetting pictures and text",
    "visual": "Forgetting pictures",
    "text": "Forgetting text",
    EVALUATED: "Evaluated alone",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    text     as it is printed
    value    the mean over seeds; None: not evaluated
    best     whether it is the best of its column
    zero     whether it is a harmonic mean that is 0 because of some of its parts (zero_means.py)
    interval 95 %: over the records of one run, over several seeds (record_intervals.py)
    """

    text: str
    value: float | None
    best: bool = False
    zero: bool = False
    interval: Interval | None = None

    @property
    def marked(self) -> str:
        """The text with its mark."""
        return self.text + (zero_means.MARK if self.zero else "")


@dataclass(frozen=True)
class Line:
    """One line of a table, of so many seeds. kind: base, gold or unlearned."""

    label: str
    kind: str
    seeds: int
    collapsed: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """One leaderboard: of one panel, by one set of definitions.

    semantics    the semantics that all methods of the page have; "" if it is the paper's, or if
                 there are several
    seeds        the largest number of seeds of a line
    intervals    whether the cells are the intervals of the numbers, not the numbers
    zeros        the sentence about marked zeros; [] if there is none
    """

    panel: str
    semantics: str
    definitions: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    seeds: int
    zeros: tuple[str, ...] = ()
    intervals: bool = False


def tables(report: Report, groups: list[RunGroup]) -> list[Table]:
    """A table for each panel and set of definitions: base and gold first, then the groups."""
    return [
        _table(report, panel, definitions, own)
        for panel, own in by_panel(groups).items()
        for definitions in report.sets
    ]


@dataclass(frozen=True)
class _Model:
    """One line of a table before its cells are made: metrics has one entry for each seed."""

    label: str
    kind: str
    collapsed: bool
    metrics: list[Scores]
    intervals: Mapping[str, Interval]


def _table(report: Report, panel: str, definitions: str, groups: list[RunGroup]) -> Table:
    models = [
        _Model(name, name, False, [sets[definitions]], report.intervals[name][definitions])
        for name, sets in report.metrics.items()
    ]
    for group in groups:
        metrics = [run.metrics[definitions] for run in group.runs]
        found = of_line(metrics, group.runs[0].intervals[definitions])
        models.append(_Model(group.label, "unlearned", bool(group.collapsed), metrics, found))
    columns = columns_of(metrics for model in models for metrics in model.metrics)
    seeds = max(len(group.runs) for group in groups)
    cells = _cells(models, columns, decimals=2 if seeds > 1 else 3, mark_best=len(groups) > 1)
    lines = [
        Line(model.label, model.kind, len(model.metrics), model.collapsed, tuple(own))
        for model, own in zip(models, cells, strict=True)
    ]
    semantics = semantics_of(report)
    is_one_other = len(semantics) == 1 and semantics[0] != SEMANTICS[0]
    return Table(
        panel=panel,
        semantics=semantics[0] if is_one_other else "",
        definitions=definitions,
        columns=tuple(columns),
        lines=tuple(lines),
        seeds=seeds,
        zeros=tuple(
            zero_means.legend(
                [(model.label, model.metrics) for model in models], [name for name, _, _ in columns]
            )
        ),
    )


def _cells(
    models: list[_Model], columns: list[Column], decimals: int, mark_best: bool
) -> list[list[Cell]]:
    """The cells of every model. An unlearned model that has not collapsed can have the best one."""
    cells = []
    for model in models:
        own = []
        for metric, _, _ in columns:
            values = [metrics.get(metric) for metrics in model.metrics]
            zero = zero_means.is_zero(model.metrics, metric)
            interval = model.intervals.get(metric)
            own.append(Cell(spread(values, decimals), mean(values), zero=zero, interval=interval))
        cells.append(own)
    if not mark_best:
        return cells
    competing = [
        own
        for model, own in zip(models, cells, strict=True)
        if model.kind == "unlearned" and not model.collapsed
    ]
    for column, (_, _, arrow) in enumerate(columns):
        for number_of_model in best([own[column] for own in competing], arrow):
            cell = competing[number_of_model][column]
            competing[number_of_model][column] = replace(cell, best=True)
    return cells


def with_intervals(found: list[Table]) -> list[Table]:
    """Each table, and after it the 95 % intervals of its numbers as a table of the same form."""
    return [each for table in found for each in (table, _intervals(table))]


def _intervals(table: Table) -> Table:
    lines = [
        replace(line, cells=tuple(Cell(as_text(cell.interval), None) for cell in line.cells))
        for line in table.lines
    ]
    return replace(table, lines=tuple(lines), intervals=True, zeros=())


def best(cells: list[Cell], arrow: str) -> list[int]:
    """Numbers of the best cells: the one with the best mean, and all whose mean prints the same.

    arrow      of the column: HIGHER or LOWER is better
    returns    [] if several cells have a number and all print the same
    """
    values = {
        i: cell.value for i, cell in enumerate(cells) if cell.value is not None and not cell.zero
    }
    if not values:
        return []
    printed_mean = {i: cells[i].text.split("±")[0] for i in values}
    choose = max if arrow == HIGHER else min
    first = choose(values, key=lambda i: values[i])
    equal = [i for i in values if printed_mean[i] == printed_mean[first]]
    if len(equal) == len(values) and len(values) > 1:
        return []
    return equal


def legend(tables: list[Table], report: Report) -> list[str]:
    """The meaning of the marks in these tables, a sentence each, in plain text."""
    sentences = [f"{HIGHER} higher is better, {LOWER} lower is better, - not evaluated."]
    counts = sorted({table.seeds for table in tables} - {1})
    if counts:
        several = " or ".join(map(str, counts))
        sentences.append(f"Mean ± standard deviation (n - 1) over {several} seeds; else one run.")
    if len(report.runs) > 1:
        sentences.append(
            "Bold: the best unlearned model of the column, and those with the same printed number."
        )
    if "base" in report.paper:
        sentences.append(
            f"{MARK} Retain collapsed: Retain or Retain text is less than {number(COLLAPSED, 1)} "
            "of base's. A low Forget of such a model is no success, so it is never the best."
        )
    else:
        sentences.append(
            "No run here evaluated base, so it is unknown whether a Retain has collapsed."
        )
    if any(table.intervals for table in tables):
        sentences.append(f"{meaning(bool(counts))}.")
    sentences += dict.fromkeys(sentence for table in tables for sentence in table.zeros)
    for name in report.sets:
        sentences += [
            f"{name} definitions, {sentence}"
            for sentence in not_computed([run.metrics[name] for run in report.runs])
        ]
    sentences += leakage_parts.legend(report.sets)
    asked_less = [run.summary.get("not_asked") or {} for run in report.runs]
    sentences += dict.fromkeys(line for one in asked_less for line in leakage_parts.sentences(one))
    groups = run_groups(report)
    words = common_words(report.runs, len(groups))
    if words and len(groups) > 1:
        sentences.append(f"Given to all runs: {', '.join(words)}.")
    return sentences
