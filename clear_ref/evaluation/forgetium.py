"""forgetium's Forget Quality: -log10 of a p-value.

source  forgetium 0.2.1, metrics/truth_ratio.py
"""

from . import log_columns
from .distances import log10_ks_p_value
from .log_format import Log
from .quality import same_questions
from .task_metrics import log_truth_ratio

SMALLEST = 300.0


def truth_ratios(log: Log) -> dict[str, float]:
    """log R of every record, by the record's index: against the answer itself.

    formula R_i = (1/K) sum_k exp(-l_ik) / exp(-l_answer,i)
    flaw    the answer that was trained on, not a paraphrase of it: R of a model that learnt the
            answer by heart is lower than that of one that knows the fact
    differs its denominator is at least 1e-12; here losses of 1e4 do not change the order
    """
    right = log_columns.numbers(log, "avg_gt_loss")
    wrong = log_columns.lists(log, "average_perturb_loss")
    log_columns.same_records(log, right, wrong, "avg_gt_loss", "average_perturb_loss")
    return {index: log_truth_ratio(right[index], wrong[index]) for index in right}


def forget_quality(log: Log, gold_log: Log) -> float:
    """-log10 of the p-value of the KS test between a model's and gold's truth ratios, in [0, 300].

    formula min(-log10 ks_p_value(R, R_gold), 300), R_i = (1/K) sum_k exp(-l_ik) / exp(-l_answer,i)
    source  forgetium 0.2.1, metrics/truth_ratio.py:133-164
    flaw    see ks_p_value; lower is better here, while its name says quality
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    p = log10_ks_p_value(truth_ratios(log).values(), truth_ratios(gold_log).values())
    return min(max(-p, 0.0), SMALLEST)
