"""The tables of a sweep: for the terminal, and as CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from clear_ref.common.text_table import csv_cell
from clear_ref.evaluation.selection import HALVES, NEAREST_GOLD, least_retain

from .columns import PAPER_COLUMNS, number
from .thresholds import FEWEST
from .zero_means import MARK, MEANING


def rule_in_words(rule: str) -> str:
    """What a rule of evaluation/selection.py chooses, as a sentence without its end."""
    if rule == NEAREST_GOLD:
        return "nearest to gold by (Forget, Retain)"
    return f"the lowest Forget with at least {least_retain(rule):g} of base's Retain"


def columns_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(metric, heading)] of the table: Forget, Retain and, where there is gold, FQ."""
    pair = summary["pair"]
    wanted = [*pair, "forget_quality"] if "gold" in summary["models"] else pair
    return [
        (metric, f"{heading} {arrow}")
        for name in wanted
        for metric, heading, arrow in PAPER_COLUMNS
        if metric == name
    ]


def title(summary: Mapping[str, Any]) -> str:
    """One line that says what was swept."""
    seeds = ", ".join(map(str, summary["seeds"]))
    points = summary["points"]
    n_methods = len({point["method"] for point in points})
    methods = points[0]["method"] if n_methods == 1 else f"{n_methods} methods"
    return (
        f"sweep: {methods}, {len(points)} settings, semantics {summary['semantics']}, modality "
        f"{summary['modality']}, seeds {seeds}, recipe {summary['recipe']}"
    )


def missed(summary: Mapping[str, Any]) -> list[str]:
    """Methods of which no setting meets the rule's condition."""
    return [p["method"] for p in summary["points"] if p["chosen"] and not p["meets"]]


def quality_note(summary: Mapping[str, Any]) -> str:
    """What is to be known of FQ where it compares few records; "" where it does not."""
    if "gold" not in summary["models"]:
        return ""
    n = min(summary["quality_records"].values(), default=FEWEST)
    if n >= FEWEST:
        return ""
    return f"FQ compares {n} records here; with fewer than {FEWEST} it says little"


def cell(scores: Mapping[str, Any], metric: str) -> str:
    """A number of one half; marked if it is 0 because of some of its parts."""
    return number(scores.get(metric)) + (MARK if metric in scores.get("zeros", ()) else "")


def zero_note(summary: Mapping[str, Any]) -> str:
    """What the mark of a zero means; "" if no number that the tables show is marked."""
    rows = [*summary["models"].values(), *(p for p in summary["points"] if not p["failed"])]
    shown = {metric for metric, _ in columns_of(summary)}
    marked = any(shown & set(row[half].get("zeros", ())) for row in rows for half in HALVES)
    return f"{MARK} {MEANING}" if marked else ""


def terminal(summary: Mapping[str, Any]) -> str:
    """The chosen setting of each method, with the scores of both halves, beside base and gold."""
    columns = columns_of(summary)
    width = 10
    cells = len(columns) * width
    lines = [
        title(summary),
        f"chosen by {summary['rule']}, on the choosing half: {rule_in_words(summary['rule'])}",
        "",
        f"{'':12}{'choosing half':>{cells}}{'reporting half':>{cells + 3}}",
        f"{'model':12}"
        + "   ".join("".join(f"{h:>{width}}" for _, h in columns) for _ in HALVES)
        + "   setting",
    ]
    rows = [(name, models, "") for name, models in summary["models"].items()]
    counts: dict[str, int] = {}
    for point in summary["points"]:
        counts[point["method"]] = counts.get(point["method"], 0) + 1
    missing = set(missed(summary))
    rows += [
        (
            point["method"] + (" *" if point["method"] in missing else ""),
            point,
            f"{point['words']} (1 of {counts[point['method']]})",
        )
        for point in summary["points"]
        if point["chosen"]
    ]
    for name, scores, words in rows:
        numbers = "   ".join(
            "".join(f"{cell(scores[half], metric):>{width}}" for metric, _ in columns)
            for half in HALVES
        )
        lines.append(f"{name:12}{numbers}   {words}".rstrip())
    if missing:
        lines += [
            "",
            f"* no setting keeps {least_retain(summary['rule']):g} of base's Retain; this one "
            "keeps most",
        ]
    notes = [note for note in (zero_note(summary), quality_note(summary)) if note]
    lines += ["", *notes] if notes else []
    failed = [
        f"{p['method']} {p['words']}: {p['failed']}" for p in summary["points"] if p["failed"]
    ]
    lines += ["", *(f"failed: {one}" for one in failed)] if failed else []
    return "\n".join(
        [
            *lines,
            "",
            f"token terms: {summary['impl']}; sweep.csv, report.html written to {summary['out']}",
        ]
    )


def csv_text(summary: Mapping[str, Any]) -> str:
    """sweep.csv: a line for each setting, with every value and the scores of both halves.

    `sweep --points sweep.csv` runs the same settings again. `command` is that of the first seed.
    """
    points = summary["points"]
    names = list(dict.fromkeys(n for p in points for n in (*p["recipe"], *p["options"])))
    metrics = [
        m for m, _, _ in PAPER_COLUMNS if summary["models"]["base"]["all"].get(m) is not None
    ]
    if "gold" in summary["models"] and "forget_quality" not in metrics:
        metrics.append("forget_quality")
    parts = (*HALVES, "all")
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(
        ["number", "method", "semantics", "modality", "seeds", "rule", "split_seed", *names]
        + [f"{part}_{metric}" for part in parts for metric in metrics]
        + ["meets", "chosen", "failed", "command"]
    )
    for point in points:
        values = {**point["recipe"], **point["options"]}
        scores = [
            "" if point["failed"] or point[part].get(metric) is None else repr(point[part][metric])
            for part in parts
            for metric in metrics
        ]
        rows.writerow(
            [point["number"], point["method"], summary["semantics"], summary["modality"]]
            + [" ".join(map(str, summary["seeds"])), summary["rule"], summary["split_seed"]]
            + [values.get(name, "") for name in names]
            + scores
            + ["yes" if point.get(key) else "" for key in ("meets", "chosen")]
            + [csv_cell(str(point["failed"] or "")), csv_cell(point["command"])]
        )
    return out.getvalue()
