"""Open-MMUnlearning's metrics of CLEAR: TOFU's truth ratio of each record, its distances from gold,
and the mean of five numbers that it calls Forget Quality.

source  Open-MMUnlearning 60def72, src/evals/clear.py and src/evals/scorers/; arXiv 2610.10358,
        appendix A.3.3. Probability, ROUGE and truth ratio of a task are those of task_metrics.py
        that the table of definitions names
note    its paper's Overall is the arithmetic mean of Forget Quality, Model Utility and Robustness:
        of a model that knows everything 0.622, of one that never knew 0.638. Utility and Robustness
        need data sets that CLEAR does not have, so it is not computed here
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clear_ref.common.errors import UserError

from . import log_columns
from .distances import jensen_shannon_distance, ks_p_value, ks_statistic
from .log_format import Log
from .quality import same_questions
from .task_metrics import geometric_truth_ratios

SOURCE = "Open-MMUnlearning"
BINS = 50
EMPTY_BIN = 1e-12
# The parts of Forget Quality that are of one task: (task, metric).
TASK_PARTS = (
    ("eval_forget_facerec", "contained_name"),
    ("eval_forget_choice", "multiple_choice"),
    ("eval_log_forget", "rouge"),
)
TRUTH_RATIO = ("eval_log_forget", "truth_ratio")
PROBABILITY = ("eval_log_forget", "probability")
PARTS = (*TASK_PARTS, TRUTH_RATIO, PROBABILITY)


def ks_p(log: Log, gold_log: Log) -> float:
    """Exact p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios of a model
    and of gold on the forget captions, in [0, 1].

    formula ks_p_value(1/R, 1/R_gold), R_i = exp(l_paraphrased,i - mean_k l_ik); only the order
            counts, so it is TOFU's forget_quality_ks
    source  clear.py (KS test p-value), scorers/distribution.py
    flaw    see ks_p_value
    """
    return ks_p_value(*_both(log, gold_log))


def ks_distance(log: Log, gold_log: Log) -> float:
    """The Kolmogorov-Smirnov statistic between these truth ratios, in [0, 1]; 0: as gold.

    formula largest difference of the two distribution functions
    source  scorers/distribution.py; D_KS of the paper's equation 53
    flaw    which records changed does not count
    """
    return ks_statistic(*_both(log, gold_log))


def js_distance(log: Log, gold_log: Log) -> float:
    """The Jensen-Shannon distance between these truth ratios, in [0, sqrt(ln 2)]; 0: as gold.

    formula with equally many records, record against record: jensen_shannon_distance(v, v_gold),
            v_i = exp(mean_k l_ik - l_paraphrased,i) / their sum; else between the shares of the
            records in 50 equal bins from the smallest to the largest v of both, 1e-12 added to each
    source  scorers/distribution.py (alignment auto); natural logarithm
    flaw    record against record one record with a large v decides, as v is divided by its sum;
            the two forms do not give comparable numbers
    raises  UserError for equally many records that are not the same
    """
    own, gold = _both(log, gold_log)
    if len(own) == len(gold):
        order = list(geometric_truth_ratios(log))
        by_index = geometric_truth_ratios(gold_log)
        gold = [-by_index[index] for index in order]
        return jensen_shannon_distance(_scaled(own), _scaled(gold))
    return _histogram_distance(own, gold)


def _both(log: Log, gold_log: Log) -> tuple[list[float], list[float]]:
    """log 1/R of both models' records; UserError for equally many that are not the same."""
    own, gold = geometric_truth_ratios(log), geometric_truth_ratios(gold_log)
    if len(own) == len(gold):
        same_questions(log, gold_log)
    return [-value for value in own.values()], [-value for value in gold.values()]


def _scaled(log_values: Sequence[float]) -> list[float]:
    """exp of the values, the largest scaled to 1."""
    largest = max(log_values)
    return [math.exp(value - largest) for value in log_values]


def _histogram_distance(own: Sequence[float], gold: Sequence[float]) -> float:
    """js_distance of unequal numbers of records."""
    if max(*own, *gold) > 700:
        raise UserError(
            f"truth ratios of {len(own)} and {len(gold)} records, one of them above exp(700): no "
            "histogram has bins for these; evaluate both models on the same rows"
        )
    values, gold_values = np.exp(own), np.exp(gold)
    low = min(values.min(), gold_values.min())
    high = max(values.max(), gold_values.max())
    edges = np.linspace(low, high if high > low else low + 1e-8, BINS + 1)
    counts = [np.histogram(each, edges)[0] + EMPTY_BIN for each in (values, gold_values)]
    return jensen_shannon_distance(*counts)


def forget_quality(tasks: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, Any]) -> Any:
    """The mean of five numbers that the paper calls Forget Quality, in [0, 1]; None if one of them
    was not evaluated.

    formula 1/5 (F + T + (1 - p) + (1 - D_KS) + (1 - D_JS)); F = 1 - mean of contained-name accuracy
            and multiple-choice accuracy of the names and ROUGE-L recall of the captions; T, p truth
            ratio min(R, 1/R) and probability of the captions
    source  arXiv 2610.10358, equations 51 to 53; CLEAR has no cloze questions, for which the
            name question stands, and no second test split, so F is of one split
    flaw    a model without any knowledge of anything scores high (of its paper's ten methods
            gradient ascent is second); gold itself does not score 1: T is not compared with gold's

    tasks   {task: its metrics} of the set open_mmunlearning
    numbers {"ks_distance", "js_distance": number}
    """
    found = [tasks.get(task, {}).get(metric) for task, metric in PARTS]
    found += [numbers.get("ks_distance"), numbers.get("js_distance")]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return None
    name, choice, words, truth_ratio, probability, ks, js = values
    forgotten = ((1.0 - name) + (1.0 - choice) + (1.0 - words)) / 3
    return (forgotten + truth_ratio + (1.0 - probability) + (1.0 - ks) + (1.0 - js)) / 5


def has_no_truth_ratio(log: Log) -> bool:
    """Whether a log is one of its text tasks, which hold neither paraphrases nor wrong answers."""
    return log.get("source") == SOURCE and not log_columns.has(log, "avg_paraphrased_loss")
