"""Tables for the terminal: the leaderboard, its spread over seeds, and the parts that every task gives."""

import math

from ..errors import UserError
from ..evaluation.metrics import DEFINITIONS

# The leaderboard's columns: metric, heading, and whether higher or lower is better.
COLUMNS = (("forget", "Forget", "↓"), ("retain", "Retain", "↑"), ("real_faces", "Faces", "↑"), ("real_world", "World", "↑"),
           ("real", "Real", "↑"), ("forget_quality", "FQ", "↑"), ("text_real", "Real text", "↑"),
           ("text_retain", "Retain text", "↑"), ("text_forget", "Forget text", "↓"))
PARTS = ("rouge", "probability", "truth_ratio")
LEGEND = "↑ higher is better, ↓ lower is better, - not evaluated."


def number(value, decimals: int = 3) -> str:
    """A metric as it is printed: fixed decimals, "-" for None."""
    return "-" if value is None else f"{value:.{decimals}f}"


def leaderboard(rows, decimals: int = 3) -> str:
    """The models' reported numbers, one line each, and what they mean; no line end at the end.

    rows    [(model's name, its metrics as metrics.score returns them)]
    """
    shown = columns_of([metrics for _, metrics in rows])
    lines = [[name, *(number(metrics.get(metric), decimals) for metric, _, _ in shown)] for name, metrics in rows]
    table = _aligned(["model", *headings(shown)], lines)
    return "\n".join([*table, "", LEGEND, *definitions([metrics for _, metrics in rows])])


def leaderboard_over_seeds(rows, decimals: int = 2) -> str:
    """As `leaderboard`, a cell being mean ± sample standard deviation over seeds; "-" unless every seed has the number.

    rows    [(model's name, [its metrics for each seed])]; with one seed there is no spread to show
    """
    lines, shown = [], columns_of([metrics for _, seeds in rows for metrics in seeds])
    for name, seeds in rows:
        if not seeds:
            raise UserError(f"{name}: metrics of no seed; expected one or more")
        cells = [[metrics.get(metric) for metrics in seeds] for metric, _, _ in shown]
        lines.append([name, *(spread(values, decimals) for values in cells)])
    counts = [str(n) for n in sorted({len(seeds) for _, seeds in rows} - {1})]
    note = [f"mean ± standard deviation (n - 1) over {' or '.join(counts)} seeds; else one run."] if counts else []
    table = _aligned(["model", *headings(shown)], lines)
    return "\n".join([*table, "", *note, LEGEND, *definitions([metrics for _, seeds in rows for metrics in seeds])])


def spread(values, decimals: int = 2) -> str:
    """"mean±deviation" of one number per seed; the mean alone for one seed, "-" if a seed has none."""
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
                lines.append([shown, name, *(number(found[part], decimals) for part in PARTS), str(found["n"])])
                shown = ""
    return "\n".join(_aligned(["task", "model", "rouge", "probability", "truth ratio", "n"], lines, left=2))


def definitions(all_metrics) -> list[str]:
    """The definitions in words, wrapped: a paragraph for each set among the models; unknown names as they are."""
    in_words = {definition.name: definition.words for definition in DEFINITIONS.values()}
    found = []
    for metrics in all_metrics:
        names = list(dict.fromkeys(metrics.get("definitions", {}).values()))
        if names and names not in found:
            found.append(names)
    return [line for names in found for line in _wrapped([in_words.get(name, name) for name in names])]


def columns_of(all_metrics) -> list[tuple[str, str, str]]:
    """The leaderboard's columns of which some model has a number: a language model has none about pictures."""
    return [column for column in COLUMNS if any(metrics.get(column[0]) is not None for metrics in all_metrics)]


def headings(columns) -> list[str]:
    """What stands above the columns: heading and arrow."""
    return [f"{heading} {arrow}" for _, heading, arrow in columns]


def _aligned(header, lines, left: int = 1) -> list[str]:
    """Header and lines with two spaces between columns; the first `left` columns flush left, the others flush right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) if i < left else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in [header, *lines]]


def _wrapped(phrases, columns: int = 96) -> list[str]:
    """Phrases joined by "; " into lines of at most `columns` characters, broken only between phrases."""
    lines = [""]
    for i, phrase in enumerate(phrases):
        piece = phrase + ("." if i == len(phrases) - 1 else ";")
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > columns:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + piece
    return lines
