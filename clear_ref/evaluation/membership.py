"""What open-unlearning's logs hold beside the four tasks: memorisation, membership inference and the leak made of it."""

import inspect
import math

from clear_ref.common.errors import UserError

from .definitions import Definition
from .distances import auc
from .exact_means import mean

LEAK_OF = "mia_min_k"


def privacy_leak(auc_model: float, auc_gold: float = 0.5) -> float:
    """Percent by which the model's 1 - AUC is above that of gold; 0 is perfect, below 0 the forget records still stand out.

    formula 100 ((1 - A) - (1 - A_gold)) / ((1 - A_gold) + 1e-10), A the AUC of mia_min_k; A_gold = 1/2 without a gold log
    source  open-unlearning's privleak (src/evals/metrics/privacy.py), after MUSE
    flaw    without gold it supposes that a model which never saw the records cannot tell them apart; where gold's AUC nears 1,
            records differ by more than training, and the quotient means nothing
    """
    return 100.0 * ((1.0 - auc_model) - (1.0 - auc_gold)) / ((1.0 - auc_gold) + 1e-10)


def membership(scores: dict, gold_scores: dict | None = None) -> dict[str, float]:
    """{metric: number}: the mean of each memorisation score, the AUC of each attack, and privleak where mia_min_k is there.

    scores, gold_scores  {"exact_memorization": {index: score}, "mia_NAME": {"forget": ..., "holdout": ...}}, see logs.read
    raises               UserError for a score that is no finite number
    """
    found = {}
    for name, entry in scores.items():
        if name.startswith("mia_"):
            found[name] = auc(_numbers(entry["forget"], name), _numbers(entry["holdout"], name))
        else:
            found[name] = mean(_numbers(entry, name))
    if LEAK_OF in found:
        gold = (
            membership({LEAK_OF: gold_scores[LEAK_OF]})[LEAK_OF]
            if gold_scores and LEAK_OF in gold_scores
            else 0.5
        )
        found["privleak"] = privacy_leak(found[LEAK_OF], gold)
    return found


def definition(metric: str) -> Definition:
    """The definition of one number of `membership`."""
    if metric == "privleak":
        return Definition(
            "privleak_of_mia_min_k",
            "percent by which 1 - AUC of mia_min_k is above gold's (1/2 without gold)",
            inspect.getdoc(privacy_leak),
        )
    if metric.startswith("mia_"):
        return Definition(
            "auc_forget_below_holdout",
            "probability that a forget record scores below an unseen one",
            inspect.getdoc(auc),
        )
    return Definition("mean_of_scores", "mean of the records' logged scores", inspect.getdoc(mean))


def _numbers(scores: dict, name: str) -> list[float]:
    for key, value in scores.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise UserError(
                f"{name} of record {key} is {value!r}; expected a finite number; evaluate again"
            )
    return list(scores.values())
