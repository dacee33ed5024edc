"""95 % intervals over the records, of the numbers of tables: computed, and as text."""

from collections.abc import Mapping, Sequence

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.bootstrap import Interval, intervals
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import Scores

from .columns import columns_of, headings

# {set of definitions: {number, or "TASK PART": its interval}} of one model
Intervals = Mapping[str, Mapping[str, Interval]]
MEANING = (
    "95 % interval over the records: percentile bootstrap, 1000 keyed draws; other records, the "
    "same training"
)


def of_sets(sets: Mapping[str, Scores], logs: Logs, gold: Logs | None) -> Intervals:
    """The intervals of one model's numbers.

    sets    {set of definitions: result of metrics.score}
    """
    return {name: intervals(logs, gold, name, scores) for name, scores in sets.items()}


def as_text(interval: Interval | None, decimals: int = 2) -> str:
    """For example "0.58–0.70"; "-" for None."""
    if interval is None:
        return "-"
    low, high = (f"{value:.{decimals}f}" for value in interval)
    return f"{low} to {high}" if low.startswith("-") or high.startswith("-") else f"{low}–{high}"


def table(
    rows: Sequence[tuple[str, Scores]], found: Mapping[str, Mapping[str, Interval]]
) -> list[str]:
    """The intervals of a leaderboard's numbers as a table, one line for each model.

    rows    as in terminal_tables.leaderboard, of one set of definitions
    found   {model: {number: its interval}}
    """
    columns = columns_of([scores for _, scores in rows])
    lines = [
        [name, *(as_text(found.get(name, {}).get(metric)) for metric, _, _ in columns)]
        for name, _ in rows
    ]
    return [f"{MEANING}:", "", *aligned(["model", *headings(columns)], lines)]
