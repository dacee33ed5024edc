"""The text that `score` prints: a line for each metric and definition."""

from textwrap import wrap
from typing import Any

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.choices import LEAKAGE
from clear_ref.evaluation.definitions import OPEN_UNLEARNING, SETS, definitions
from clear_ref.evaluation.membership import definition

from . import zero_means

EVERY = "every set"
INTERVALS = (
    "95 % interval: over the records (percentile bootstrap, 1000 keyed draws); other records, the "
    "same training."
)


def score(summary: dict[str, Any]) -> str:
    """The numbers as a table, the definitions in words, and why a number is missing.

    summary    what commands.score.run returns
    """
    blocks = [
        _inputs(summary),
        [*_numbers(summary), "", INTERVALS],
        _zeros(summary["metrics"]),
        _definitions(summary["numbers"]),
        _wrong(summary["wrong"]),
        _missing(summary["missing"]),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _missing(reasons: dict[str, str]) -> list[str]:
    """Why numbers were not computed, wrapped: a sentence for each reason."""
    metrics: dict[str, list[str]] = {}
    for metric, reason in reasons.items():
        metrics.setdefault(reason, []).append(metric)
    sentences = [f"{', '.join(of)}: not computed; {reason}" for reason, of in metrics.items()]
    return [
        line
        for one in sentences
        for line in wrap(one, 110, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _inputs(summary: dict[str, Any]) -> list[str]:
    """The logs that were scored, their formats and their numbers of records."""
    gold = "gold: none"
    if summary["gold"]:
        gold = f"gold: {summary['gold']} ({summary['gold_format']})"
    counts = ", ".join(f"{task} {n}" for task, n in summary["records"].items())
    return [
        f"score: {', '.join(summary['log'])} ({summary['format']})",
        gold,
        *wrap(f"records: {counts}", 110, subsequent_indent="  "),
        *(f"unread, of no known task: {name}" for name in summary["unread"]),
    ]


def _numbers(summary: dict[str, Any]) -> list[str]:
    """A line for each number, its definition and the sets of definitions that have it."""
    lines = []
    for row in summary["numbers"]:
        scores = summary["metrics"][row["metrics"][0]]
        mark = zero_means.MARK if zero_means.zero_parts(scores, row["metric"]) else ""
        sets = EVERY if set(row["metrics"]) >= set(SETS) else ", ".join(row["metrics"])
        label = f"{row['definition']} v{row['version']}"
        interval = row["interval"]
        shown = f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else "-"
        lines.append([row["metric"], f"{row['value']:.6g}{mark}", shown, label, sets])
    header = ["metric", "value", "95 % interval", "definition", "definitions of"]
    return aligned(header, lines, left=(0, 3, 4))


def _zeros(metrics: dict[str, Any]) -> list[str]:
    """The sentence about marked zeros, wrapped; [] if there is none."""
    models = [(f"{name} definitions", [scores]) for name, scores in metrics.items()]
    found = zero_means.legend(models, zero_means.HEADINGS)
    return [line for mark in found for line in wrap(mark, 110, subsequent_indent="  ")]


def _definitions(rows: list[dict[str, Any]]) -> list[str]:
    """Words, direction and source of every definition that the numbers have."""
    words = {
        known.name: known.words
        for name in (*SETS, LEAKAGE, OPEN_UNLEARNING)
        for known in definitions(name).values()
    }
    lines: dict[tuple[str, str], list[str]] = {}
    about = []
    for row in rows:
        name = row["definition"]
        if name not in words:
            words[name] = definition(row["metric"]).words
        if (name, row["direction"]) not in lines:
            about.append(f"    a higher value: {row['direction']}; source: {row['source']}")
        shown = words[name].removeprefix("columns: ")
        lines[name, row["direction"]] = [f"{name} v{row['version']}", shown]
    header, *table = aligned(["definition", "in words"], list(lines.values()), left=(0, 1))
    return [header, *(line for pair in zip(table, about, strict=True) for line in pair)]


def _wrong(rows: list[dict[str, Any]]) -> list[str]:
    """What mistakes of public evaluations give; [] without any."""
    if not rows:
        return []
    lines = [
        [row["of"], f"{row['value']:.6g}", f"{row['definition']} v{row['version']}"] for row in rows
    ]
    seen = dict.fromkeys(f"{row['definition']}: {row['seen']}" for row in rows)
    return [
        "wrong, to recognise a published number (clear_ref/evaluation/wrong_definitions.py):",
        "",
        *aligned(["in place of", "value", "wrong definition"], lines, left=(0, 2)),
        *(line for text in seen for line in wrap(text, 110, subsequent_indent="  ")),
    ]
