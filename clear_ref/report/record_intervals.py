"""95 % intervals of the numbers of tables: over the records, or over seeds; and as text."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

from clear_ref.common.text_table import aligned
from clear_ref.evaluation.bootstrap import Interval, intervals
from clear_ref.evaluation.intervals import over_seeds
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import Scores

from .columns import columns_of, headings, number

# {set of definitions: {number, or "TASK PART": its interval}} of one model
Intervals = Mapping[str, Mapping[str, Interval]]
MEANING = (
    "95 % interval over the records: percentile bootstrap, 1000 keyed draws; other records, the "
    "same training"
)
OF_SEEDS = "of several seeds over these: mean ∓ t s / √n, Student's t"


def of_sets(sets: Mapping[str, Scores], logs: Logs, gold: Logs | None) -> Intervals:
    """The intervals of one model's numbers.

    sets    {set of definitions: result of metrics.score}
    """
    return {name: intervals(logs, gold, name, scores) for name, scores in sets.items()}


def as_text(interval: Interval | None, decimals: int = 2) -> str:
    """For example "0.58–0.70"; "-" for None."""
    if interval is None:
        return "-"
    low, high = (number(value, decimals) for value in interval)
    return f"{low} to {high}" if low.startswith("-") or high.startswith("-") else f"{low}–{high}"


def of_line(
    seeds: Sequence[Scores], over_records: Mapping[str, Interval]
) -> Mapping[str, Interval]:
    """The intervals of one line of a leaderboard.

    seeds         its metrics for each seed, by one set of definitions
    over_records  the intervals of one run
    returns       `over_records` of one seed; of several the intervals of their means, for the
                  numbers that every seed has
    """
    if len(seeds) == 1:
        return over_records
    numbers = [name for name, value in seeds[0].items() if isinstance(value, float)]
    known = [name for name in numbers if all(own.get(name) is not None for own in seeds)]
    return {name: over_seeds([own[name] for own in seeds]) for name in known}


def meaning(several_seeds: bool) -> str:
    """What the intervals of a table are, in words."""
    return f"{MEANING}; {OF_SEEDS}" if several_seeds else MEANING


def table(
    rows: Sequence[tuple[str, Sequence[Scores]]], found: Mapping[str, Mapping[str, Interval]]
) -> list[str]:
    """The intervals of a leaderboard's numbers as a table, one line for each model.

    rows    [(model's name, [its metrics for each seed])], of one set of definitions
    found   {model of one seed: {number: its interval over the records}}
    """
    columns = columns_of([scores for _, seeds in rows for scores in seeds])
    lines = []
    for name, seeds in rows:
        own = of_line(seeds, found.get(name, {}))
        lines.append([name, *(as_text(own.get(metric)) for metric, _, _ in columns)])
    words = meaning(any(len(seeds) > 1 for _, seeds in rows))
    return [
        *wrap(f"{words}:", 110, subsequent_indent="  "),
        "",
        *aligned(["model", *headings(columns)], lines),
    ]
