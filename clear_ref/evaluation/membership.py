"""Numbers made of scores of single records: memorisation, membership inference, privacy leakage.

open-unlearning's logs hold such scores beside the four tasks, and `evaluate --robustness` computes
some of them (membership_scores.py).
"""

import inspect
import math

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

from .bootstrap import Sample
from .definition_names import FORGOT, OPEN
from .definitions import Definition
from .distances import auc, true_positive_rate
from .exact_means import mean
from .intervals import N_DRAWS, over_draws

# {end of a metric's name: share of unseen records that may be called trained on}
FALSE_POSITIVES = {"_tpr_at_1_percent": 0.01, "_tpr_at_0.1_percent": 0.001}
# The score whose AUC privleak is made of.
PRIVLEAK_SCORE = "mia_min_k"
# Memorisation: {name: {index: score}}. Membership inference: {"mia_NAME": {"forget" and "holdout":
# {index: score}}}. See logs.Evaluation.
RecordScores = dict[str, dict]


def privacy_leak(auc_model: float, auc_gold: float = 0.5) -> float:
    """Percent by which the model's 1 - AUC is above gold's; 0 is perfect.

    Below 0 the forget records still look trained on.

    formula 100 ((1 - A) - (1 - A_gold)) / ((1 - A_gold) + 1e-10), A the AUC of mia_min_k;
            A_gold = 1/2 without a gold log
    source  open-unlearning's privleak (src/evals/metrics/privacy.py), after MUSE
    flaw    without gold it assumes that the AUC of a model which never saw the records is 1/2; if
            gold's AUC is near 1, the records differ by more than training, and the quotient has no
            meaning
    """
    return 100.0 * ((1.0 - auc_model) - (1.0 - auc_gold)) / ((1.0 - auc_gold) + 1e-10)


def membership(scores: RecordScores, gold_scores: RecordScores | None = None) -> dict[str, float]:
    """{metric: number}: the mean of each memorisation score on the forget records; of each attack
    the AUC, and its true positive rates at 1 % and at 0.1 % false positives; and privleak.

    Orientation: an attack's score is low for a record that a model was trained on, and forget
    records are what it looks for. So 1/2 (rates: 0.01, 0.001) is a model that treats forget
    records as unseen ones, 1 one that still knows them, and an AUC of 0 one to which they are
    less likely than unseen ones. privleak needs mia_min_k and is left out without it.

    raises   UserError for a score that is not a finite number
    """
    numbers = {}
    for name, entry in scores.items():
        if name.startswith("mia_"):
            numbers[name] = _auc_of(name, entry)
            low, high = _values(entry["forget"], name), _values(entry["holdout"], name)
            for end, most_false in FALSE_POSITIVES.items():
                numbers[name + end] = true_positive_rate(low, high, most_false)
        else:
            numbers[name] = mean(_values(entry.get("forget", entry), name))
    if PRIVLEAK_SCORE in numbers:
        gold_auc = 0.5
        if gold_scores and PRIVLEAK_SCORE in gold_scores:
            gold_auc = _auc_of(PRIVLEAK_SCORE, gold_scores[PRIVLEAK_SCORE])
        numbers["privleak"] = privacy_leak(numbers[PRIVLEAK_SCORE], gold_auc)
    return numbers


def definition(metric: str) -> Definition:
    """The definition of one number of `membership`."""
    if metric == "privleak":
        return Definition(
            "privleak_of_mia_min_k",
            "percent by which 1 - AUC of mia_min_k is above gold's (1/2 without gold)",
            inspect.getdoc(privacy_leak) or "",
            OPEN,
            FORGOT,
        )
    for end, most_false in FALSE_POSITIVES.items():
        if metric.endswith(end):
            return Definition(
                f"tpr_forget_below_holdout_at_{most_false:g}",
                f"share of forget records below all but {most_false:.1%} of the unseen ones",
                inspect.getdoc(true_positive_rate) or "",
                "arXiv 2112.03570",
            )
    if metric.startswith("mia_"):
        return Definition(
            "auc_forget_below_holdout",
            "probability that a forget record scores below an unseen one",
            inspect.getdoc(auc) or "",
            OPEN,
        )
    return Definition(
        "mean_of_scores", "mean of the records' logged scores", inspect.getdoc(mean) or "", OPEN
    )


def _auc_of(name: str, entry: dict) -> float:
    return auc(_values(entry["forget"], name), _values(entry["holdout"], name))


def _values(scores: dict, name: str) -> list[float]:
    """The scores as a list; UserError for one that is not a finite number."""
    for index, value in scores.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise UserError(
                f"{one_line(name, 60)} of record {one_line(index, 40)} is "
                f"{one_line(repr(value), 60)}; expected a finite number; evaluate again"
            )
    return list(scores.values())


def membership_intervals(
    scores: RecordScores, gold_scores: RecordScores | None = None, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """{metric: its 95 % interval}, of the numbers of `membership`: forget and held-out records are
    each drawn with replacement (bootstrap.py)."""
    sample = Sample(seed)
    drawn: dict[str, np.ndarray] = {}
    for name, entry in scores.items():
        if not name.startswith("mia_"):
            own = entry.get("forget", entry)
            drawn[name] = sample.counts("forget", own) @ _array(own) / len(own)
            continue
        drawn[name] = _drawn_auc(sample, entry)
        for end, most_false in FALSE_POSITIVES.items():
            drawn[name + end] = _drawn_rates(sample, entry, most_false)
    if PRIVLEAK_SCORE in drawn:
        gold_auc = np.full(N_DRAWS, 0.5)
        if gold_scores and PRIVLEAK_SCORE in gold_scores:
            gold_auc = _drawn_auc(sample, gold_scores[PRIVLEAK_SCORE])
        both = zip(drawn[PRIVLEAK_SCORE], gold_auc, strict=True)
        drawn["privleak"] = np.array([privacy_leak(own, gold) for own, gold in both])
    return {name: over_draws(values) for name, values in drawn.items()}


def _array(values: dict) -> np.ndarray:
    return np.array(list(values.values()), float)


def _drawn(sample: Sample, entry: dict) -> tuple[np.ndarray, np.ndarray]:
    """How often each forget record and each held-out record is drawn."""
    forget = sample.counts("forget", entry["forget"])
    return forget, sample.counts("holdout", entry["holdout"])


def _drawn_auc(sample: Sample, entry: dict) -> np.ndarray:
    """[N_DRAWS] AUC of the drawn records."""
    low, high = _array(entry["forget"])[:, None], _array(entry["holdout"])
    pairs = (low < high) + (low == high) / 2
    n_low, n_high = _drawn(sample, entry)
    return ((n_low @ pairs) * n_high).sum(1) / (len(low) * len(high))


def _drawn_rates(sample: Sample, entry: dict, most_false: float) -> np.ndarray:
    """[N_DRAWS] true positive rates of the drawn records."""
    low, high = _array(entry["forget"]), _array(entry["holdout"])
    return np.array(
        [
            true_positive_rate(low.repeat(n_low), high.repeat(n_high), most_false)
            for n_low, n_high in zip(*_drawn(sample, entry), strict=True)
        ]
    )
