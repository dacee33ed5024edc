"""Lines of the leaderboard: which runs are seeds of one line, what it is called, which Retain collapsed, which number is best."""

import hashlib
import math
from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.methods.table import METHODS, SEMANTICS

from .read_runs import EVALUATED, Report, Run
from .table import columns_of, number, spread

COLLAPSED = 0.5
"""A model's Retain has collapsed where it is less than this share of base's: Retain or Retain text, whichever were evaluated,
by the paper's definitions, the mean over the seeds. The paper shades such methods by eye; the half is ours."""
MARK = "†"
PANELS = {
    "both": "Forgetting pictures and text",
    "visual": "Forgetting pictures",
    "text": "Forgetting text",
    EVALUATED: "Evaluated alone",
}
HIGHER, LOWER = "↑", "↓"
# Settings that do not tell runs apart: paths, whose meaning the inputs' hashes are, and those whose outcome is told beside them.
UNTOLD = {"out", "seed", "metrics", "data", "model", "gold", "adapter", "recipe", "mask"}


@dataclass(frozen=True, eq=False)
class Row:
    """One line: a method in one meaning, with one modality and one set of settings; its runs differ in their seed alone."""

    label: str
    panel: str
    runs: tuple[Run, ...]
    collapsed: bool | None


@dataclass(frozen=True)
class Cell:
    """One number of a table: as it is printed, its mean (None: not evaluated), and whether it is the best of its column."""

    text: str
    value: float | None
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One model of a table. kind: base, gold or unlearned."""

    label: str
    kind: str
    collapsed: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """One leaderboard: of one panel, by one set of definitions.

    semantics  the one meaning that all methods of the page have, if it is not the paper's
    columns    (metric, heading, arrow)
    """

    panel: str
    semantics: str
    definitions: str
    columns: tuple[tuple[str, str, str], ...]
    lines: tuple[Line, ...]
    seeds: int


def collapsed(metrics: dict, base: dict | None) -> bool | None:
    """Whether Retain has collapsed (see COLLAPSED); None where base or both numbers are missing.

    metrics, base   {metric: number} by the paper's definitions
    """
    pairs = [
        (metrics.get(metric), (base or {}).get(metric)) for metric in ("retain", "text_retain")
    ]
    pairs = [pair for pair in pairs if None not in pair]
    return any(value < COLLAPSED * before for value, before in pairs) if pairs else None


def rows(report: Report) -> list[Row]:
    """The lines of every panel, in the order of PANELS and of METHODS.

    Runs of one name, meaning and modality whose settings, options, inputs and implementation are equal are seeds of one line;
    where such a value differs, the label says it; the meaning is named where there are several.
    raises  UserError for two runs with everything equal, the seed too
    """
    several = len(_meanings(report)) > 1
    groups = {}
    for run in report.runs:
        groups.setdefault((run.modality, run.name, run.semantics), []).append(run)
    found = []
    for (modality, name, semantics), runs in groups.items():
        told = [_told(run) for run in runs]
        varying = [
            key
            for key in dict.fromkeys(key for one in told for key in one)
            if len({repr(one[key]) for one in told if key in one}) > 1
        ]
        lines = {}
        for run, one in zip(runs, told):
            lines.setdefault(
                tuple(one_line(f"{key} {one.get(key)}", 60) for key in varying), []
            ).append(run)
        for own, seeds in lines.items():
            words = [semantics] * (several and bool(semantics)) + list(own)
            label = name + (f" ({', '.join(words)})" if words else "")
            found.append(
                Row(
                    label,
                    modality,
                    _seeds(seeds),
                    collapsed(_means(seeds), report.paper.get("base")),
                )
            )
    panels, names, meanings = (
        [*known, *dict.fromkeys(others)]
        for known, others in (
            (PANELS, (row.panel for row in found)),
            (METHODS, (row.runs[0].name for row in found)),
            (SEMANTICS, _meanings(report)),
        )
    )
    return sorted(
        found,
        key=lambda row: (
            panels.index(row.panel),
            names.index(row.runs[0].name),
            meanings.index(row.runs[0].semantics or SEMANTICS[0]),
        ),
    )


def _meanings(report: Report) -> list[str]:
    """The semantics that occur among methods."""
    return list(dict.fromkeys(run.semantics for run in report.runs if run.semantics))


def _told(run: Run) -> dict:
    """What tells runs of one method apart: settings and options but UNTOLD, label mask, implementation, the inputs' hashes."""
    found = {
        key: entry.get("value")
        for group in ("settings", "options")
        for key, entry in run.record.get(group, {}).items()
        if key not in UNTOLD
    }
    hashes = "".join(sorted(map(str, run.record["inputs"].values())))
    return {
        **found,
        "label mask": run.record.get("label_mask"),
        "token terms": run.summary["impl"],
        "inputs": hashlib.sha256(hashes.encode()).hexdigest()[:8],
    }


def _seeds(runs) -> tuple[Run, ...]:
    """The runs of a line by their seeds; UserError for one that is there twice."""
    ordered = sorted(runs, key=lambda run: (run.seed is not None, run.seed))
    for one, other in zip(ordered, ordered[1:]):
        if one.seed == other.seed:
            raise UserError(
                f"report {other.where}: is the same run as {one.where}: {one.name}, seed {one.seed}, every setting; "
                "name one of them"
            )
    return tuple(ordered)


def _means(runs) -> dict:
    """{metric: mean} of retain and text_retain over runs, by the paper's definitions; None where a run has none."""
    values = {
        metric: [run.paper.get(metric) for run in runs] for metric in ("retain", "text_retain")
    }
    return {
        metric: None if None in found else math.fsum(found) / len(found)
        for metric, found in values.items()
    }


def panels(lines: list[Row]) -> dict[str, list[Row]]:
    """{modality: its rows}, in the order of the rows."""
    return {
        panel: [row for row in lines if row.panel == panel]
        for panel in dict.fromkeys(row.panel for row in lines)
    }


def tables(report: Report, lines: list[Row]) -> list[Table]:
    """A table for each panel and set of definitions: base and gold first, then the rows."""
    return [
        _table(report, panel, name, own)
        for panel, own in panels(lines).items()
        for name in report.sets
    ]


def _table(report: Report, panel: str, name: str, lines: list[Row]) -> Table:
    every = [(model, model, False, [sets[name]]) for model, sets in report.metrics.items()]
    every += [
        (row.label, "unlearned", bool(row.collapsed), [run.metrics[name] for run in row.runs])
        for row in lines
    ]
    columns = columns_of([metrics for _, _, _, seeds in every for metrics in seeds])
    seeds = max(len(row.runs) for row in lines)
    cells = [
        [
            _cell([metrics.get(metric) for metrics in found], 2 if seeds > 1 else 3)
            for metric, _, _ in columns
        ]
        for _, _, _, found in every
    ]
    entitled = [j for j, (_, kind, lost, _) in enumerate(every) if kind == "unlearned" and not lost]
    for i, (_, _, arrow) in enumerate(columns if len(lines) > 1 else ()):
        for j in best([cells[j][i] for j in entitled], arrow):
            cell = cells[entitled[j]][i]
            cells[entitled[j]][i] = Cell(cell.text, cell.value, True)
    meanings = _meanings(report)
    return Table(
        panel,
        meanings[0] if len(meanings) == 1 and meanings[0] != SEMANTICS[0] else "",
        name,
        tuple(columns),
        tuple(
            Line(label, kind, lost, tuple(own)) for (label, kind, lost, _), own in zip(every, cells)
        ),
        seeds,
    )


def _cell(values, decimals: int) -> Cell:
    mean = None if None in values else math.fsum(values) / len(values)
    return Cell(spread(values, decimals), mean)


def best(cells: list[Cell], arrow: str) -> list[int]:
    """Which cells are best: the one with the best mean, and those whose mean prints alike; none where all of several print alike.

    arrow   of the column: higher or lower is better
    """
    known = {i: cell.text.split("±")[0] for i, cell in enumerate(cells) if cell.value is not None}
    if not known:
        return []
    first = (max if arrow == HIGHER else min)(known, key=lambda i: cells[i].value)
    found = [i for i in known if known[i] == known[first]]
    return found if len(found) < len(known) or len(known) == 1 else []


def legend(found: list[Table], report: Report) -> list[str]:
    """What the marks of these tables mean, a sentence each, in plain text."""
    counts = sorted({table.seeds for table in found} - {1})
    said = [f"{HIGHER} higher is better, {LOWER} lower is better, - not evaluated."]
    if counts:
        said.append(
            f"Mean ± standard deviation (n - 1) over {' or '.join(map(str, counts))} seeds; else one run."
        )
    if len(report.runs) > 1:
        said.append("Bold: the best of its column among unlearned models, and what prints alike.")
    if "base" in report.paper:
        said.append(
            f"{MARK} Retain collapsed: Retain or Retain text is less than {number(COLLAPSED, 1)} of base's. Such a model "
            "has a low Forget for nothing, so it is never best."
        )
    else:
        said.append("No run here evaluated base, so whether a Retain collapsed cannot be told.")
    return said
