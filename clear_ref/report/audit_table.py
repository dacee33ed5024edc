"""The table of `metrics-audit` for the terminal, in CSV and in Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from clear_ref.audit.members import WITH, WITHOUT
from clear_ref.audit.results import Row, Told
from clear_ref.common.text_table import aligned, csv_cell

# An AUC this near to 1/2, or nearer, is counted as unable to tell; one of TELLS or more as telling.
NEAR = 0.1
TELLS = 0.9


def headings(found: Mapping[str, Any]) -> list[str]:
    """The columns of terminal and Markdown."""
    first, *others = found["conditions"]
    return [
        *("number", "definition", "about", "with is", f"AUC {first}", "95 %", "p"),
        *(*others, "rank", "sets"),
    ]


def cells(row: Row) -> list[str]:
    """One line of the table."""
    first, *others = row["conditions"].values()
    label = f"{row['definition']} v{row['version']}"
    correlation = row["correlation"]
    return [
        row["metric"],
        label,
        row["about"],
        row["expects"],
        _auc(first) + ("*" if row["note"] else ""),
        "" if first["low"] is None else f"{first['low']:.2f}–{first['high']:.2f}",
        "" if first["p"] is None else f"{first['p']:.3f}",
        *map(_auc, others),
        "-" if correlation is None else f"{correlation:.2f}",
        " ".join(row["sets"]),
    ]


def _auc(told: Told) -> str:
    return "-" if told["auc"] is None else f"{told['auc']:.2f}"


def summary(found: Mapping[str, Any]) -> str:
    """One sentence: which models, how they were trained and measured."""
    n = found["models"]
    return (
        f"{n} models with the people to forget against {n} without ({found['epochs']} epochs at "
        f"rate {found['lr']:g}), gold {found['members'][0]}; relearned: {found['relearn_steps']} "
        f"steps on {found['relearned_records']} forget records. AUC 1: the number always tells "
        "them apart, 0.5: it cannot, 0: it tells the wrong way round"
    )


def counts(found: Mapping[str, Any]) -> list[str]:
    """For each condition, how many numbers always tell, cannot tell, tell the wrong way round."""
    lines = []
    for condition in found["conditions"]:
        known = [row["conditions"][condition]["auc"] for row in found["rows"]]
        aucs = [auc for auc in known if auc is not None]
        near = sum(abs(auc - 0.5) <= NEAR for auc in aucs)
        lines.append(
            f"{condition}: of {len(aucs)} numbers {aucs.count(1.0)} have AUC 1, {near} are within "
            f"{NEAR} of 0.5, {sum(auc < 0.5 - NEAR for auc in aucs)} are below; "
            f"{len(known) - len(aucs)} undefined"
        )
    return lines


def findings(found: Mapping[str, Any]) -> list[str]:
    """What is not as a reader expects: numbers that should tell and do not, that tell and should
    not, and that tell as trained and no more after relearning or rounding. Constant ones are left
    to `notes`.
    """
    first, *others = found["conditions"]
    known = [
        row
        for row in found["rows"]
        if not row["note"] and all(told["auc"] is not None for told in row["conditions"].values())
    ]
    auc = {
        id(row): {name: told["auc"] for name, told in row["conditions"].items()} for row in known
    }
    lines = [
        _listed(
            f"about the people to forget, and {first} at {0.5 + NEAR} or less",
            [r for r in known if r["about"] == "forget" and auc[id(r)][first] <= 0.5 + NEAR],
        ),
        _listed(
            f"about others, and {first} at {TELLS} or more, or {1 - TELLS:.1f} or less",
            [r for r in known if r["about"] != "forget" and _is_far(auc[id(r)][first])],
        ),
    ]
    for condition in others:
        lost = [
            r for r in known if auc[id(r)][first] >= TELLS and auc[id(r)][condition] <= 0.5 + NEAR
        ]
        words = f"{first} at {TELLS} or more, and {condition} at {0.5 + NEAR} or less"
        lines.append(_listed(words, lost))
    return lines


def _is_far(auc: float) -> bool:
    return auc >= TELLS or auc <= 1 - TELLS + 1e-9


def _listed(words: str, rows: Sequence[Row]) -> str:
    names = ", ".join(f"{row['metric']} ({row['definition']})" for row in rows)
    return f"{words} ({len(rows)}): {names or 'none'}"


def notes(rows: Sequence[Row]) -> list[str]:
    """The numbers that are constant or undefined, and why."""
    return [
        f"* {row['metric']} ({row['definition']}): {row['note']}" for row in rows if row["note"]
    ]


def terminal(found: Any) -> str:
    """What the command prints."""
    rows = found["rows"]
    columns = headings(found)
    left = (0, 1, 2, 3, len(columns) - 1)
    lines = [summary(found), "", *aligned(columns, map(cells, rows), left), "", *counts(found)]
    for line in findings(found):
        lines += wrap(line, 110, subsequent_indent="  ")
    lines += notes(rows)
    if found["missing"]:
        lines.append(f"membership not computed of {found['missing']}")
    return "\n".join([*lines, f"{found['out']}  {found['seconds']:.0f} s"])


def as_markdown(found: Mapping[str, Any]) -> str:
    """The same table in Markdown."""
    columns = headings(found)
    ends = [*["---"] * 4, *["---:"] * (len(columns) - 5), "---"]
    lines = [summary(found) + ".", "", f"| {' | '.join(columns)} |", f"|{'|'.join(ends)}|"]
    for row in found["rows"]:
        metric, label, *others = cells(row)
        others = [cell.replace("*", "\\*") for cell in others]
        lines.append(f"| {' | '.join([f'`{metric}`', f'`{label}`', *others])} |")
    lines += ["", *(f"- {line}" for line in (*counts(found), *findings(found)))]
    lines += [f"- \\{line}" for line in notes(found["rows"])]
    return "\n".join(lines) + "\n"


def as_csv(found: Mapping[str, Any]) -> str:
    """Every number of the table in full.

    columns  metric, definition, version, sets, source, about, expects, correlation, note; for each
             condition CONDITION.auc, .low, .high, .p, and CONDITION.with and .without: the models'
             values in the order of their seeds, with blanks between
    """
    header = [
        *("metric", "definition", "version", "sets", "source"),
        *("about", "expects", "correlation", "note"),
    ]
    for condition in found["conditions"]:
        header += [f"{condition}.{end}" for end in ("auc", "low", "high", "p", WITH, WITHOUT)]
    table = [header]
    for row in found["rows"]:
        line = [row["metric"], row["definition"], str(row["version"]), " ".join(row["sets"])]
        line += [
            row["source"],
            row["about"],
            row["expects"],
            _full(row["correlation"]),
            row["note"],
        ]
        for told in row["conditions"].values():
            line += [_full(told["auc"]), _full(told["low"]), _full(told["high"]), _full(told["p"])]
            for kind in (WITH, WITHOUT):
                line.append(" ".join(_full(value) or "-" for value in told["values"][kind]))
        table.append(line)
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows(
        [[csv_cell(cell) for cell in line] for line in table]
    )
    return output.getvalue()


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)
