"""Tables for the terminal: the leaderboard, its spread over seeds, and the parts that every task gives."""

import math

from clear_ref.common.errors import UserError
from clear_ref.common.text_table import aligned
from clear_ref.evaluation.metrics import SETS
from clear_ref.evaluation.metrics import definitions as definitions_of

# The leaderboard's columns: metric, heading, and whether higher or lower is better.
COLUMNS = (
    ("forget", "Forget", "↓"),
    ("retain", "Retain", "↑"),
    ("real_faces", "Faces", "↑"),
    ("real_world", "World", "↑"),
    ("real", "Real", "↑"),
    ("forget_quality", "FQ", "↑"),
    ("text_real", "Real text", "↑"),
    ("text_retain", "Retain text", "↑"),
    ("text_forget", "Forget text", "↓"),
)
OTHER_COLUMNS = (
    ("model_utility", "Utility", "↑"),
    ("text_model_utility", "Utility text", "↑"),
    ("forget_quality_ks", "FQ KS", "↑"),
    ("log10_forget_quality", "log10 FQ", "↑"),
    ("text_log_forget_quality", "log FQ text", "↑"),
)  # not the paper's
PARTS = ("rouge", "probability", "truth_ratio")
LEGEND = "↑ higher is better, ↓ lower is better, - not evaluated."


def number(value, decimals: int = 3) -> str:
    """A metric as it is printed: fixed decimals, "-" for None."""
    return "-" if value is None else f"{value:.{decimals}f}"


def leaderboard(rows, decimals: int = 3) -> str:
    """The models' reported numbers, one line each, and what they mean; no line end at the end.

    rows    [(model's name, its metrics as metrics.score returns them)]; a table for each set of definitions that they hold
    """
    return _by_definitions(
        rows, lambda own: _leaderboard(own, decimals), lambda metrics, name: metrics["also"][name]
    )


def _by_definitions(rows, one, other) -> str:
    """The table of `rows`, and where scored by all definitions one for each set: other(metrics, set) is a row's in that set."""
    every = [
        metrics for _, found in rows for metrics in (found if isinstance(found, list) else [found])
    ]
    names = list(dict.fromkeys(name for metrics in every for name in metrics.get("also", ())))
    blocks = [one(rows)] + [
        one([(model, other(found, name)) for model, found in rows]) for name in names
    ]
    return "\n\n".join(
        f"{name} definitions\n\n{block}" if names else block for name, block in zip(SETS, blocks)
    )


def _leaderboard(rows, decimals: int) -> str:
    """One set of definitions' leaderboard."""
    shown = columns_of([metrics for _, metrics in rows])
    lines = [
        [name, *(number(metrics.get(metric), decimals) for metric, _, _ in shown)]
        for name, metrics in rows
    ]
    table = aligned(["model", *headings(shown)], lines)
    return "\n".join([*table, "", LEGEND, *definitions([metrics for _, metrics in rows])])


def leaderboard_over_seeds(rows, decimals: int = 2) -> str:
    """As `leaderboard`, a cell being mean ± sample standard deviation over seeds; "-" unless every seed has the number.

    rows    [(model's name, [its metrics for each seed])]; with one seed there is no spread to show
    """
    for name, seeds in rows:
        if not seeds:
            raise UserError(f"{name}: metrics of no seed; expected one or more")
    return _by_definitions(
        rows,
        lambda own: _leaderboard_over_seeds(own, decimals),
        lambda seeds, name: [metrics["also"][name] for metrics in seeds],
    )


def _leaderboard_over_seeds(rows, decimals: int) -> str:
    """One set of definitions' leaderboard over seeds."""
    lines, shown = [], columns_of([metrics for _, seeds in rows for metrics in seeds])
    for name, seeds in rows:
        cells = [[metrics.get(metric) for metrics in seeds] for metric, _, _ in shown]
        lines.append([name, *(spread(values, decimals) for values in cells)])
    counts = [str(n) for n in sorted({len(seeds) for _, seeds in rows} - {1})]
    note = (
        [f"mean ± standard deviation (n - 1) over {' or '.join(counts)} seeds; else one run."]
        if counts
        else []
    )
    table = aligned(["model", *headings(shown)], lines)
    return "\n".join(
        [
            *table,
            "",
            *note,
            LEGEND,
            *definitions([metrics for _, seeds in rows for metrics in seeds]),
        ]
    )


def spread(values, decimals: int = 2) -> str:
    """ "mean±deviation" of one number per seed; the mean alone for one seed, "-" if a seed has none."""
    if None in values:
        return "-"
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return number(mean, decimals)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean, decimals)}±{number(deviation, decimals)}"


def per_task(rows, decimals: int = 3) -> str:
    """The parts behind the leaderboard: one line for every task and model that evaluated it.

    rows    as in `leaderboard`
    """
    tasks = list(dict.fromkeys(task for _, metrics in rows for task in metrics["tasks"]))
    lines = []
    for task in tasks:
        shown = task
        for name, metrics in rows:
            if task in metrics["tasks"]:
                found = metrics["tasks"][task]
                lines.append(
                    [
                        shown,
                        name,
                        *(number(found[part], decimals) for part in PARTS),
                        str(found["n"]),
                    ]
                )
                shown = ""
    return "\n".join(
        aligned(["task", "model", "rouge", "probability", "truth ratio", "n"], lines, left=(0, 1))
    )


def definitions(all_metrics) -> list[str]:
    """The definitions in words, wrapped: a paragraph for each set among the models; unknown names as they are."""
    in_words = {
        definition.name: definition.words
        for name in SETS
        for definition in definitions_of(name).values()
    }
    found = []
    for metrics in all_metrics:
        names = list(dict.fromkeys(metrics.get("definitions", {}).values()))
        if names and names not in found:
            found.append(names)
    return [
        line
        for names in found
        for line in _wrapped(list(dict.fromkeys(in_words.get(name, name) for name in names)))
    ]


def columns_of(all_metrics) -> list[tuple[str, str, str]]:
    """The leaderboard's columns of which some model has a number: a language model has none about pictures."""
    return [
        column
        for column in (*COLUMNS, *OTHER_COLUMNS)
        if any(metrics.get(column[0]) is not None for metrics in all_metrics)
    ]


def headings(columns) -> list[str]:
    """What stands above the columns: heading and arrow."""
    return [f"{heading} {arrow}" for _, heading, arrow in columns]


def _wrapped(phrases, columns: int = 96) -> list[str]:
    """Phrases joined by "; " into lines of at most `columns` characters, broken only between phrases."""
    lines = [""]
    for i, phrase in enumerate(phrases):
        piece = phrase + ("." if i == len(phrases) - 1 else ";")
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > columns:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + piece
    return lines
