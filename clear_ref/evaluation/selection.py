"""Choosing one of several runs by a rule that is stated in advance, on half of the records.

The records of the forget and retain tasks are split in two halves. A rule sees the scores of the
choosing half only; the scores of the reporting half are printed. Otherwise the best of many
settings would be reported with the luck that made it the best.

Rules
nearest-gold          the point whose (Forget, Retain) is nearest to gold's, by Euclidean distance
forget-at-retain-X    the lowest Forget among the points whose Retain is at least X times base's;
                      if there is none, the point with the highest Retain
In both a Forget of exactly 0 comes after all others: it is a harmonic mean with a part of 0, which
hides the other parts. The first of several points that are equal is chosen.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from clear_ref.common.errors import UserError
from clear_ref.data import draws

from .choices import DEFAULT_RULE
from .log_format import Log, Logs
from .metrics import Scores, score

NEAREST_GOLD = "nearest-gold"
FORGET_AT_RETAIN = "forget-at-retain-"
# (metric of the forget set, metric of the retain set): of pictures, or else of text
PAIRS = (("forget", "retain"), ("text_forget", "text_retain"))
HALVES = ("choosing", "reporting")
SPLIT_SETS = ("Forget", "Retain")  # the sets whose records are split


def check_rule(rule: str, option: str, with_gold: bool = True) -> None:
    """UserError unless `rule` is one of the rules of this file.

    option     the option that gave it, for the message
    with_gold  whether there is a gold model; nearest-gold needs one
    """
    if rule == NEAREST_GOLD:
        if not with_gold:
            raise UserError(
                f"{option} {rule}: there is no gold model; expected --gold DIR, or another rule "
                f"such as {DEFAULT_RULE}"
            )
    elif least_retain(rule) is None:
        raise UserError(
            f"{option} is {rule!r}; expected {NEAREST_GOLD}, or {FORGET_AT_RETAIN}X with X a share "
            f"of base's Retain above 0 and not above 1, such as {DEFAULT_RULE}"
        )


def least_retain(rule: str) -> float | None:
    """X of forget-at-retain-X; None if the rule is none of these."""
    found = re.fullmatch(re.escape(FORGET_AT_RETAIN) + r"(\d*\.?\d+)", rule)
    share = float(found[1]) if found else 0.0
    return share if 0 < share <= 1 else None


def best(
    points: Sequence[Mapping[str, Any]],
    rule: str,
    base: Mapping[str, Any],
    gold: Mapping[str, Any] | None,
) -> int:
    """The index of the point that the rule chooses.

    points, base, gold  scores of models, with forget and retain (or text_forget and text_retain,
                        where base has no scores of pictures)
    raises              UserError for no point, an unknown rule, a missing number
    """
    check_rule(rule, "rule", gold is not None)
    if not points:
        raise UserError("there is nothing to choose from; expected one or more runs")
    forget, retain = pair_of(base)
    pairs = [(_number(point, forget), _number(point, retain)) for point in points]
    if rule == NEAREST_GOLD:
        target = cast("Mapping[str, Any]", gold)
        goal = (_number(target, forget), _number(target, retain))
        keys = [(pair[0] == 0, math.dist(pair, goal)) for pair in pairs]
        return keys.index(min(keys))
    least = cast("float", least_retain(rule)) * _number(base, retain)
    kept = [pair for pair in pairs if pair[1] >= least]
    if kept:
        return pairs.index(min(kept, key=lambda pair: (pair[0] == 0, pair[0])))
    return pairs.index(max(pairs, key=lambda pair: pair[1]))


def meets(point: Mapping[str, Any], rule: str, base: Mapping[str, Any]) -> bool:
    """Whether a point meets the rule's condition on Retain; nearest-gold has none."""
    share = least_retain(rule)
    if share is None:
        return True
    _, retain = pair_of(base)
    return _number(point, retain) >= share * _number(base, retain)


def pair_of(base: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the two numbers that rules compare: those of pictures, else those of text."""
    for pair in PAIRS:
        if all(base.get(metric) is not None for metric in pair):
            return pair
    raise UserError(
        "the rule compares Forget with Retain; expected --tasks with a forget and a retain task, "
        "each with all its parts, or all"
    )


def _number(scores: Mapping[str, Any], metric: str) -> float:
    value = scores.get(metric)
    if value is None:
        raise UserError(f"{metric} was not evaluated; expected it in every run that is compared")
    return float(value)


def halves(logs: Logs, seed: int) -> tuple[Logs, Logs]:
    """(choosing half, reporting half) of a model's logs.

    A record is in the same half in every task of its data config and in every model. Of an odd
    number of records the reporting half has one more. The logs of the Real sets are in both halves
    whole: no rule looks at them.

    seed    key of the split
    raises  UserError for a forget or retain task with fewer than two records
    """
    choosing: Logs = {}
    reporting: Logs = {}
    for task, log in logs.items():
        if log.get("set") not in SPLIT_SETS:
            choosing[task] = reporting[task] = log
            continue
        indices = list(log["avg_gt_loss"])
        if len(indices) < 2:
            raise UserError(
                f"{task} has {len(indices)} records; expected 2 or more, one for the choice and "
                "one for the report"
            )
        order = draws.permutation(seed, f"selection half/{log['config']}", 0, len(indices))
        chosen = {indices[place] for place in order[: len(indices) // 2]}
        choosing[task] = _records(log, chosen)
        reporting[task] = _records(log, set(indices) - chosen)
    return choosing, reporting


def scored_halves(logs: Logs, gold: Logs | None, seed: int) -> dict[str, Scores]:
    """{choosing, reporting: scores by the paper's definitions on that half of the records}."""
    of_gold = halves(gold, seed) if gold else (None, None)
    pairs = zip(HALVES, halves(logs, seed), of_gold, strict=True)
    return {half: score(own, golds) for half, own, golds in pairs}


def _records(log: Log, kept: set[str]) -> Log:
    """The log with these records only, in its order."""
    found = {
        name: {index: value for index, value in column.items() if index in kept}
        if isinstance(column, dict)
        else column
        for name, column in log.items()
    }
    return cast("Log", found)


def mean_scores(runs: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    """{metric: mean over runs}, None where a run has none; for a choice over several seeds."""
    found: dict[str, Any] = {}
    for metric in metrics:
        values = [run.get(metric) for run in runs]
        known = [value for value in values if value is not None]
        found[metric] = math.fsum(known) / len(known) if len(known) == len(values) else None
    return found
