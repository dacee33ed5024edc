"""Tables for the terminal: the leaderboard, the leaderboard over seeds, the parts of every task."""

from collections.abc import Callable, Iterable, Sequence
from textwrap import wrap

from clear_ref.common.errors import UserError
from clear_ref.common.text_table import aligned
from clear_ref.evaluation.choices import LEAKAGE
from clear_ref.evaluation.definitions import SETS, label_of
from clear_ref.evaluation.definitions import definitions as definitions_of
from clear_ref.evaluation.metrics import Scores
from clear_ref.evaluation.named_values import names_behind

from . import zero_means
from .columns import PARTS, columns_of, headings, not_computed, number, spread

LEGEND = "↑ higher is better, ↓ lower is better, - not evaluated."
SeedRow = tuple[str, list[Scores]]
"""A model's name and its metrics for each seed."""


def leaderboard(rows: Sequence[tuple[str, Scores]], decimals: int = 3) -> str:
    """The models' reported numbers, one line each, and the definitions in words.

    rows     [(model's name, its metrics as metrics.score returns them)]; if they hold several sets
             of definitions, there is one table for each set
    returns  text without a newline at its end
    """
    seed_rows = [(name, [metrics]) for name, metrics in rows]
    return _one_table_per_set(seed_rows, lambda own: _table(own, decimals))


def leaderboard_over_seeds(rows: Sequence[SeedRow], decimals: int = 2) -> str:
    """As `leaderboard`; a cell is mean ± sample standard deviation over seeds.

    A cell is "-" unless every seed has the number.
    rows    [(model's name, [its metrics for each seed])]; one seed has no deviation
    """
    for name, seeds in rows:
        if not seeds:
            raise UserError(f"{name}: metrics of no seed; expected one or more")
    return _one_table_per_set(rows, lambda own: _table(own, decimals))


def _one_table_per_set(
    rows: Sequence[SeedRow], make_table: Callable[[Sequence[SeedRow]], str]
) -> str:
    """The table of `rows`; if they are scored by all definitions, one table for each set.

    metrics.score(..., "all") stores the sets after the first one in "also".
    """
    other_sets: dict[str, None] = {}
    for _, seeds in rows:
        for metrics in seeds:
            other_sets |= dict.fromkeys(metrics.get("also", ()))
    if not other_sets:
        return make_table(rows)
    heading = "" if list(other_sets) == [LEAKAGE] else f"{SETS[0]} definitions\n\n"
    blocks = [heading + make_table(rows)]
    for name in other_sets:
        own = [(model, [metrics["also"][name] for metrics in seeds]) for model, seeds in rows]
        blocks.append(f"{name} definitions\n\n{make_table(own)}")
    return "\n\n".join(blocks)


def _table(rows: Sequence[SeedRow], decimals: int) -> str:
    """The leaderboard of one set of definitions."""
    all_metrics = [metrics for _, seeds in rows for metrics in seeds]
    columns = columns_of(all_metrics)
    lines = []
    for name, seeds in rows:
        cells = []
        for metric, _, _ in columns:
            shown = spread([metrics.get(metric) for metrics in seeds], decimals)
            cells.append(shown + (zero_means.MARK if zero_means.is_zero(seeds, metric) else ""))
        lines.append([name, *cells])
    notes = []
    counts = [str(n) for n in sorted({len(seeds) for _, seeds in rows} - {1})]
    if counts:
        several = " or ".join(counts)
        notes = [f"mean ± standard deviation (n - 1) over {several} seeds; else one run."]
    marks = zero_means.legend(rows, [metric for metric, _, _ in columns])
    notes += [line for mark in marks for line in wrap(mark, 96, subsequent_indent="  ")]
    table = aligned(["model", *headings(columns)], lines)
    notes += [line for one in not_computed(all_metrics) for line in wrap(one, 96)]
    shown_numbers = [metric for metric, _, _ in columns]
    in_words = definitions_in_words(all_metrics, shown_numbers)
    return "\n".join([*table, "", *notes, LEGEND, *in_words])


def per_task(rows: Sequence[tuple[str, Scores]], decimals: int = 3) -> str:
    """The parts that the leaderboard is made of: one line for every task and model.

    rows    as in `leaderboard`
    """
    tasks = dict.fromkeys(task for _, metrics in rows for task in metrics["tasks"])
    lines = []
    for task in tasks:
        # The task's name is printed once, in its first line.
        shown = task
        for name, metrics in rows:
            if task in metrics["tasks"]:
                parts = metrics["tasks"][task]
                numbers = [number(parts[part], decimals) for part in PARTS]
                lines.append([shown, name, *numbers, str(parts["n"])])
                shown = ""
    header = ["task", "model", "rouge", "probability", "truth ratio", "n"]
    return "\n".join(aligned(header, lines, left=(0, 1)))


def definitions_in_words(all_metrics: Iterable[Scores], numbers: Sequence[str]) -> list[str]:
    """The definitions of the numbers of a table, and of their parts, in words as wrapped lines, a
    paragraph for each different set of names.

    Names and versions stand below the words. A name of no known definition is printed as it is.
    """
    in_words = {
        definition.name: definition.words
        for name in (*SETS, LEAKAGE)
        for definition in definitions_of(name).values()
    }
    paragraphs: list[list[str]] = []
    for metrics in all_metrics:
        names = names_behind(metrics, numbers)
        if names and names not in paragraphs:
            paragraphs.append(names)
    lines = []
    for names in paragraphs:
        phrases = dict.fromkeys(in_words.get(name, name) for name in names)
        lines += _wrapped(list(phrases))
        labels = ", ".join(label_of(name) for name in names)
        lines += wrap(f"definitions: {labels}.", 96, subsequent_indent="  ")
    return lines


def _wrapped(phrases: list[str], columns: int = 96) -> list[str]:
    """Phrases joined by "; " into lines of at most `columns` characters.

    A line ends between two phrases; a phrase is never broken.
    """
    lines = [""]
    for i, phrase in enumerate(phrases):
        is_last = i == len(phrases) - 1
        piece = phrase + ("." if is_last else ";")
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > columns:
            lines.append("")
        if lines[-1]:
            lines[-1] += " "
        lines[-1] += piece
    return lines
