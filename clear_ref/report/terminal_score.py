"""The text that `score` prints: a line for each metric and definition."""

from textwrap import wrap
from typing import Any

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.definitions import OPEN_UNLEARNING, SETS, definitions
from clear_ref.evaluation.membership import definition

from . import zero_means


def score(summary: dict[str, Any]) -> str:
    """The numbers as a table, the definitions in words, and why a number is missing.

    summary    what commands.score.run returns
    """
    blocks = [
        _inputs(summary),
        _numbers(summary),
        _zeros(summary["metrics"]),
        _definitions(summary["numbers"]),
        [f"{metric}: not computed; {reason}" for metric, reason in summary["missing"].items()],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


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
    ]


def _numbers(summary: dict[str, Any]) -> list[str]:
    """A line for each number, its definition and the sets of definitions that have it."""
    lines = []
    for row in summary["numbers"]:
        scores = summary["metrics"][row["metrics"][0]]
        mark = zero_means.MARK if zero_means.zero_parts(scores, row["metric"]) else ""
        sets = ", ".join(row["metrics"])
        lines.append([row["metric"], f"{row['value']:.6g}{mark}", row["definition"], sets])
    return aligned(["metric", "value", "definition", "definitions of"], lines, left=(0, 2, 3))


def _zeros(metrics: dict[str, Any]) -> list[str]:
    """The sentence about marked zeros, wrapped; [] if there is none."""
    models = [(f"{name} definitions", [scores]) for name, scores in metrics.items()]
    found = zero_means.legend(models, zero_means.HEADINGS)
    return [line for mark in found for line in wrap(mark, 110, subsequent_indent="  ")]


def _definitions(rows: list[dict[str, Any]]) -> list[str]:
    """The words of every definition that the numbers have."""
    words = {
        known.name: known.words
        for name in (*SETS, OPEN_UNLEARNING)
        for known in definitions(name).values()
    }
    lines = {}
    for row in rows:
        name = row["definition"]
        if name not in words:
            words[name] = definition(row["metric"]).words
        lines[name] = [name, words[name].removeprefix("columns: ")]
    return aligned(["definition", "in words"], list(lines.values()), left=(0, 1))
