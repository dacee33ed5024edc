"""One line of a page, judged: how far to gold, how much of Retain is left, with 95 % intervals.

By the paper's definitions, whichever the tables show. Over several seeds the interval is that of
the mean over seeds; of one run it is over the records (evaluation/intervals.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clear_ref.evaluation import intervals
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import Scores

from .columns import mean, number
from .read_runs import EVALUATED, Report
from .run_groups import RunGroup
from .thresholds import SMALLEST_GAP, forgotten_in_words, kept_in_words, percent
from .verdict import PAIRS, in_words, shares_kept, way
from .zero_means import HEADINGS, zero_parts

Interval = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """One number of a line, such as Forget, beside base's and gold's.

    share     Forget: of the way from base to gold; Retain: of base's; None: unknown
    interval  of the share, at 95 %
    words     the verdict, such as partly forgotten; "" if there is no share
    """

    metric: str
    after: float
    before: float | None
    gold: float | None
    share: float | None
    interval: Interval | None
    words: str


def mean_scores(group: RunGroup) -> Scores:
    """The means over the seeds of a line, by the paper's definitions; parts are the first run's."""
    first = group.runs[0].paper
    means = {metric: mean([run.paper.get(metric) for run in group.runs]) for metric in HEADINGS}
    return {**means, "tasks": first["tasks"], "definitions": first["definitions"]}


def modality_of(group: RunGroup) -> str:
    """What was to be forgotten; "" for a model that was only evaluated."""
    return "" if group.panel == EVALUATED else group.panel


def verdict_of(report: Report, group: RunGroup) -> str:
    """The verdict on a line in words, such as "partly forgotten, Retain kept"; "" if unknown."""
    base, gold = report.paper.get("base"), report.paper.get("gold")
    return in_words(base, mean_scores(group), gold, modality_of(group))


def judged(report: Report, group: RunGroup) -> list[Judged]:
    """Forget, Retain, and both of text, of one line; what was not evaluated is left out."""
    base, gold = report.paper.get("base"), report.paper.get("gold")
    after = mean_scores(group)
    found = []
    for forget, retain in reversed(PAIRS) if modality_of(group) == "text" else PAIRS:
        for metric in (forget, retain):
            if after[metric] is None:
                continue
            share = _share(metric, base, after, gold)
            words = ""
            if share is not None:
                words = kept_in_words(share) if metric == retain else forgotten_in_words(share)
            found.append(
                Judged(
                    metric=metric,
                    after=after[metric],
                    before=base.get(metric) if base else None,
                    gold=gold.get(metric) if gold else None,
                    share=share,
                    interval=None if share is None else _interval(report, group, metric),
                    words=words,
                )
            )
    return found


def _share(metric: str, base: Scores | None, after: Scores, gold: Scores | None) -> float | None:
    if base is None or base.get(metric) is None or after.get(metric) is None:
        return None
    if metric in dict(PAIRS):
        return way(metric, base, after, gold)
    return shares_kept(base, after).get(metric)


def _interval(report: Report, group: RunGroup, metric: str) -> Interval | None:
    """The 95 % interval of a share that is known."""
    if len(group.runs) > 1:
        base, gold = report.paper.get("base"), report.paper.get("gold")
        shares = [_share(metric, base, run.paper, gold) for run in group.runs]
        known = [share for share in shares if share is not None]
        return intervals.over_seeds(known) if len(known) == len(shares) else None
    models: dict[str, Logs] = {**report.logs, "unlearned": group.runs[0].logs}
    if metric not in dict(PAIRS):
        models.pop("gold", None)
    drawn = intervals.draw(models, metric)
    if metric not in dict(PAIRS):
        return _quantiles(drawn["base"], lambda: drawn["unlearned"] / drawn["base"], 0.0)
    gap = drawn["base"] - drawn["gold"]
    return _quantiles(gap, lambda: (drawn["base"] - drawn["unlearned"]) / gap, SMALLEST_GAP / 2)


def _quantiles(
    denominator: np.ndarray, shares: Callable[[], np.ndarray], least: float
) -> Interval | None:
    """The interval of drawn shares; None if a drawn denominator is at or below `least`."""
    if float(denominator.min()) <= least:
        return None
    return intervals.over_draws(shares())


def sentence(one: Judged) -> str:
    """For example "Forget 0.640 → 0.601 (gold 0.165): 8% of the way from base to gold"."""
    words = HEADINGS[one.metric] + " "
    if one.before is not None:
        words += f"{number(one.before)} → "
    words += number(one.after)
    if one.gold is not None:
        words += f" (gold {number(one.gold)})"
    if one.share is None:
        return words
    of = "of the way from base to gold" if one.metric in dict(PAIRS) else "of base's"
    words += f": {one.words}, {percent(one.share)} {of}"
    if one.interval:
        words += f" (95% interval {percent(one.interval[0])} to {percent(one.interval[1])})"
    return words


def why_no_share(report: Report, group: RunGroup) -> list[str]:
    """Why a line's way from base to gold is unknown; [] if it is known."""
    base, gold = report.paper.get("base"), report.paper.get("gold")
    after = mean_scores(group)
    if base is None:
        return ["No run here evaluated base, so nothing says what was forgotten."]
    if gold is None:
        return ["There is no gold model, so nothing says how far Forget should fall."]
    found = []
    for forget, _ in PAIRS:
        if after.get(forget) is None or base.get(forget) is None or gold.get(forget) is None:
            continue
        zero = zero_parts(after, forget)
        if zero:
            found.append(
                f"{HEADINGS[forget]} is 0 because of {' and '.join(zero)} alone, so it does not "
                "say how much was forgotten."
            )
        elif base[forget] - gold[forget] < SMALLEST_GAP:
            found.append(
                f"{HEADINGS[forget]} of base and of gold are less than {SMALLEST_GAP} apart, so "
                "there is no way to go."
            )
    return found


def method_of_intervals(groups: list[RunGroup]) -> str:
    """How the intervals of these lines are computed, in one sentence."""
    of_records = (
        f"over the records (percentile bootstrap, {intervals.N_DRAWS} draws: other records, the "
        "same training)"
    )
    of_seeds = "over the seeds (mean ∓ t s / √n, Student's t)"
    several = {len(group.runs) > 1 for group in groups}
    if len(several) > 1:
        return f"95% intervals: of one run {of_records}; of several seeds {of_seeds}."
    return f"95% intervals: {of_seeds if True in several else of_records}."
