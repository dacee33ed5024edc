"""What the numbers of a run say, in sentences: what was forgotten and kept, and what misleads."""

from collections.abc import Mapping

from clear_ref.evaluation.definitions import AGGREGATES, QUALITY_TASKS, SETS
from clear_ref.evaluation.metrics import Scores
from clear_ref.evaluation.selection import PAIRS

from .columns import OTHER_COLUMNS, PAPER_COLUMNS, number

HEADINGS = {metric: heading for metric, heading, _ in (*PAPER_COLUMNS, *OTHER_COLUMNS)}
SMALLEST_GAP = 0.05  # between base's and gold's Forget, for a share of the way to mean anything
UNMOVED = 0.001  # a printed digit
TOO_ALIKE = 0.9  # base's Forget Quality, or gold's Forget divided by base's
FEWEST = 20  # records on which a Forget Quality says something


def sentences(
    models: Mapping[str, Scores],
    metrics: str = "paper",
    rate: float | None = None,
    gold_is_known: bool = True,
) -> list[str]:
    """What is worth saying about the scores of a run.

    models         {"base", "gold", "unlearned", ...: scores}
    metrics        their set of definitions, one of SETS; all: the first one's
    rate           the peak learning rate of the training, for the advice where nothing moved
    gold_is_known  whether gold's training history is known from its start
    """
    found = []
    if "base" in models and "unlearned" in models:
        base, unlearned = models["base"], models["unlearned"]
        if nothing_moved(base, unlearned):
            trained = "" if rate is None else f" at rate {rate:g}"
            found.append(
                f"nothing moved: no score of the unlearned model differs from base's by {UNMOVED} "
                f"or more{trained}; a higher --lr or more --epochs would train more"
            )
        else:
            found += changes(base, unlearned, models.get("gold"))
    if not gold_is_known:
        found += gold_notes(models)
    return found + [*zeros(models, metrics), *quality_notes(models)]


def nothing_moved(base: Scores, unlearned: Scores) -> bool:
    """True if no reported number of the two differs by UNMOVED or more."""
    pairs = [(base.get(metric), unlearned.get(metric)) for metric in HEADINGS]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(both) and all(abs(a - b) < UNMOVED for a, b in both)


def changes(base: Scores, unlearned: Scores, gold: Scores | None) -> list[str]:
    """For pictures, or else for text: how far Forget fell, and how much of Retain is left."""
    for forget, retain in PAIRS:
        before, after = base.get(forget), unlearned.get(forget)
        if before is None or after is None:
            continue
        of_gold = gold.get(forget) if gold else None
        parts = [forgotten(HEADINGS[forget], before, after, of_gold)]
        if base.get(retain) and unlearned.get(retain) is not None:
            share = unlearned[retain] / base[retain]
            parts.append(f"kept {share:.0%} of base's {HEADINGS[retain]}")
        return ["; ".join(parts)]
    return []


def forgotten(name: str, before: float, after: float, gold: float | None) -> str:
    """How far a number of the forget set fell: as a share of the way to gold's, if there is one."""
    if gold is None or before - gold < SMALLEST_GAP:
        return f"{name} went from {number(before)} to {number(after)}"
    share = (before - after) / (before - gold)
    if share <= 0:
        return f"forgot nothing: {name} rose from {number(before)} to {number(after)}"
    return f"forgot {share:.0%} of the way from base to gold ({name})"


def gold_notes(models: Mapping[str, Scores]) -> list[str]:
    """Whether a gold model of unknown history answers about the forget set as base does."""
    for forget, _ in PAIRS:
        before = models.get("base", {}).get(forget)
        of_gold = models.get("gold", {}).get(forget)
        if before is None or of_gold is None:
            continue
        if of_gold >= TOO_ALIKE * before > 0:
            return [
                f"gold's {HEADINGS[forget]} is {number(of_gold)} for base's {number(before)}, and "
                "its training is not known (no whole training_history.json): it may have seen the "
                "forget set"
            ]
        return []
    return []


def zeros(models: Mapping[str, Scores], metrics: str) -> list[str]:
    """A harmonic mean of 0 is 0 because one part is 0: which one, for each model and number."""
    found = []
    for model, scores in models.items():
        for metric, parts in AGGREGATES[SETS[0] if metrics == "all" else metrics].items():
            if scores.get(metric) != 0:
                continue
            zero = [f"{part} of {task}" for task, part in parts if not scores["tasks"][task][part]]
            found.append(
                f"{model}: {HEADINGS.get(metric, metric)} is 0 because {' and '.join(zero)} "
                f"{'is' if len(zero) == 1 else 'are'} 0 (a harmonic mean); the other parts are not "
                "seen in it"
            )
    return found


def quality_notes(models: Mapping[str, Scores]) -> list[str]:
    """Where Forget Quality cannot tell: few records, or a base that passes for gold."""
    judged = [scores for name, scores in models.items() if name != "gold"]
    with_quality = [scores for scores in judged if scores.get("forget_quality") is not None]
    if not with_quality:
        return []
    found = []
    tasks = with_quality[0]["tasks"]
    n = next((tasks[task]["n"] for task in QUALITY_TASKS if task in tasks), None)
    if n is not None and n < FEWEST:
        found.append(f"FQ compares {n} records; with fewer than {FEWEST} it says little")
    base = models.get("base", {}).get("forget_quality")
    if base is not None and base >= TOO_ALIKE:
        found.append(
            f"FQ of base is {number(base)}: here it does not tell a model that knows the forget "
            "set from one that never saw it"
        )
    return found
