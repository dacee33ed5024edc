"""What the numbers of a run say, in sentences: what was forgotten and kept, and what misleads."""

from collections.abc import Mapping

from clear_ref.evaluation.definitions import QUALITY_TASKS
from clear_ref.evaluation.metrics import Scores

from .columns import number
from .thresholds import (
    FEWEST,
    SMALLEST_GAP,
    TOO_ALIKE,
    UNMOVED,
    forgotten_in_words,
    kept_in_words,
    percent,
)
from .zero_means import HEADINGS, zero_parts

Pair = tuple[str, str]
# (metric of the forget set, metric of the retain set), of pictures or of text
PAIRS: tuple[Pair, ...] = (("forget", "retain"), ("text_forget", "text_retain"))


def sentences(
    models: Mapping[str, Scores],
    rate: float | None = None,
    gold_is_known: bool = True,
    modality: str = "",
) -> list[str]:
    """What is worth saying about the scores of a run; zeros are marked in the table itself.

    models         {"base", "gold", "unlearned", ...: scores}
    rate           the peak learning rate of the training, for the advice where nothing moved
    gold_is_known  whether gold's training history is known from its start
    modality       what was forgotten; of text, the scores of text are judged
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
            found += changes(base, unlearned, models.get("gold"), modality)
    if not gold_is_known:
        found += gold_notes(models)
    return found + quality_notes(models)


def nothing_moved(base: Scores, unlearned: Scores) -> bool:
    """True if no reported number of the two differs by UNMOVED or more."""
    pairs = [(base.get(metric), unlearned.get(metric)) for metric in HEADINGS]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(both) and all(abs(a - b) < UNMOVED for a, b in both)


def judged_pair(base: Scores, unlearned: Scores, modality: str = "") -> Pair | None:
    """The (forget, retain) that a verdict is about: of pictures if both models have it, else text.

    If only text was to be forgotten, that of text comes first.
    """
    for pair in reversed(PAIRS) if modality == "text" else PAIRS:
        if base.get(pair[0]) is not None and unlearned.get(pair[0]) is not None:
            return pair
    return None


def way(forget: str, base: Scores, unlearned: Scores, gold: Scores | None) -> float | None:
    """The share of the way from base's Forget to gold's that the unlearned model went.

    None without gold, if gold's is not below base's by SMALLEST_GAP, or if the unlearned model's
    is 0 because of one part alone (zero_means.py).
    """
    before, after = base[forget], unlearned[forget]
    goal = gold.get(forget) if gold else None
    if goal is None or before - goal < SMALLEST_GAP or zero_parts(unlearned, forget):
        return None
    return (before - after) / (before - goal)


def shares_kept(base: Scores, unlearned: Scores) -> dict[str, float]:
    """{retain, text_retain: the share of base's that is left}, of those that both models have."""
    found = {}
    for _, retain in PAIRS:
        if base.get(retain) and unlearned.get(retain) is not None:
            found[retain] = unlearned[retain] / base[retain]
    return found


def in_words(
    base: Scores | None, unlearned: Scores, gold: Scores | None, modality: str = ""
) -> str:
    """The verdict, such as "partly forgotten, Retain kept"; "" if nothing can be judged.

    Retain is judged by the lower share of Retain and Retain text, which is named if the other one
    has another verdict.
    """
    if base is None:
        return ""
    words = []
    pair = judged_pair(base, unlearned, modality)
    share = way(pair[0], base, unlearned, gold) if pair else None
    if share is not None:
        words.append(forgotten_in_words(share))
    kept = shares_kept(base, unlearned)
    if kept:
        metric = judged_retain(kept, pair)
        words.append(f"{HEADINGS[metric]} {kept_in_words(kept[metric])}")
    return ", ".join(words)


def judged_retain(kept: Mapping[str, float], pair: Pair | None) -> str:
    """retain or text_retain: that of `pair`, unless the other one has a worse verdict.

    kept  not empty; see shares_kept
    """
    lowest = min(kept, key=lambda metric: kept[metric])
    if pair and pair[1] in kept and kept_in_words(kept[pair[1]]) == kept_in_words(kept[lowest]):
        return pair[1]
    return lowest


def changes(base: Scores, unlearned: Scores, gold: Scores | None, modality: str = "") -> list[str]:
    """The verdict in words, how far Forget fell, and how much of Retain is left."""
    pair = judged_pair(base, unlearned, modality)
    if pair is None:
        return []
    forget, retain = pair
    parts = [forgotten(forget, base, unlearned, gold)]
    kept = shares_kept(base, unlearned)
    if kept:
        named = dict.fromkeys([retain, judged_retain(kept, pair)])
        of_base = [f"{percent(kept[m])} of base's {HEADINGS[m]}" for m in named if m in kept]
        parts.append(f"kept {', '.join(of_base)}")
    verdict = in_words(base, unlearned, gold, modality)
    return [f"{verdict}: {'; '.join(parts)}" if verdict else "; ".join(parts)]


def forgotten(forget: str, base: Scores, unlearned: Scores, gold: Scores | None) -> str:
    """How far a number of the forget set fell: as a share of the way to gold's, if there is one."""
    name = HEADINGS[forget]
    before, after = base[forget], unlearned[forget]
    share = way(forget, base, unlearned, gold)
    if share is None:
        return f"{name} went from {number(before)} to {number(after)}"
    if number(before) == number(after):
        return f"forgot nothing: {name} is {number(after)} as before"
    if share <= 0:
        return f"forgot nothing: {name} rose from {number(before)} to {number(after)}"
    return f"forgot {percent(share)} of the way from base to gold ({name})"


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
