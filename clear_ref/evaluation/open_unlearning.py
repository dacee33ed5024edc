"""open-unlearning's metrics, of its own logs: TOFU's with a constant in three denominators.

The constant, 1e-10, hardly counts while answers are likely. Once a model's answers have losses
above 20 nats it decides: R is then about 1e10 times the wrong answers' probability and goes to 0.

source  open-unlearning d3d7cf9, src/evals/metrics/memorization.py and src/evals/metrics/privacy.py;
        the stored scores of six real logs are equal to 4e-16, relative
"""

import math

from . import log_columns
from .distances import ks_p_value, log10_ks_p_value
from .exact_means import mean
from .log_format import Log
from .quality import same_questions

SOURCE = "open-unlearning"
CONSTANT = 1e-10


def probability_of_answer(log: Log) -> float:
    """Mean over records of the stored probability of the answer, in [0, 1].

    formula mean_i p_i, p = exp(-nll of the answer / its tokens), rounded to float32
    source  open-unlearning's probability
    flaw    as TOFU's: one unlikely token of a long answer hardly counts
    """
    return mean(log_columns.numbers(log, "gt_prob").values())


def probability_among_candidates(log: Log) -> float:
    """Mean over records of the answer's share among the candidates, in [0, 1].

    formula mean_i p / (p + sum_k p_k + 1e-10), of stored probabilities
    source  open-unlearning's probability_w_options
    flaw    chance level is 1/(K+1), and 0 for a model whose answers are all below 1e-10
    """
    answer = log_columns.numbers(log, "gt_prob")
    wrong = log_columns.lists(log, "perturb_prob")
    log_columns.same_records(log, answer, wrong, "gt_prob", "perturb_prob")
    return mean(p / (p + math.fsum(wrong[index]) + CONSTANT) for index, p in answer.items())


def truth_ratios(log: Log) -> dict[str, float]:
    """R of every record, by the record's index.

    formula exp(-mean_k l_k) / (exp(-l_right) + 1e-10), l_right the loss of the paraphrase, of the
            Real sets that of the answer
    source  open-unlearning's truth_ratio
    flaw    see the module: not a function of the losses' differences
    """
    right = log_columns.numbers(log, "avg_paraphrased_loss")
    wrong = log_columns.lists(log, "average_perturb_loss")
    log_columns.same_records(log, right, wrong, "avg_paraphrased_loss", "average_perturb_loss")
    return {
        index: math.exp(-mean(wrong[index])) / (math.exp(-loss) + CONSTANT)
        for index, loss in right.items()
    }


def truth_ratio_below_one(log: Log) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1]: the truth ratio of all sets but Forget.

    formula mean_i max(0, 1 - R_i), R_i = exp(-mean_k l_k) / (exp(-l_right) + 1e-10)
    source  open-unlearning's true_better
    flaw    1, the best value, for a model to which no answer is likelier than 1e-10
    """
    return mean(max(0.0, 1.0 - ratio) for ratio in truth_ratios(log).values())


def truth_ratio_closer_to_one(log: Log) -> float:
    """Mean over records of min(R, 1/R), in [0, 1]: the truth ratio of Forget.

    formula mean_i min(R_i, 1/(R_i + 1e-10)), R_i = exp(-mean_k l_k) / (exp(-l_right) + 1e-10)
    source  open-unlearning's closer_to_1_better
    flaw    near 0, as of a model that remembers, for a model to which no answer is likely
    """
    return mean(min(ratio, 1.0 / (ratio + CONSTANT)) for ratio in truth_ratios(log).values())


def forget_quality(log: Log, gold_log: Log) -> float:
    """Exact p-value of the two-sample Kolmogorov-Smirnov test between two models' truth ratios, in
    [0, 1].

    formula ks_p_value(R, R_gold), R_i = exp(-mean_k l_k) / (exp(-l_right) + 1e-10)
    source  open-unlearning's ks_test; with more than 10,000 records scipy, which it calls, gives an
            approximation and this the exact value
    flaw    see ks_p_value; a model to which no answer is likely is far from gold
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return ks_p_value(truth_ratios(log).values(), truth_ratios(gold_log).values())


def forget_quality_log10(log: Log, gold_log: Log) -> float:
    """log10 of forget_quality, at most 0; finite also for a p-value that is too small for a double.

    formula log10_ks_p_value(R, R_gold), R_i = exp(-mean_k l_k) / (exp(-l_right) + 1e-10)
    source  as forget_quality
    flaw    see ks_p_value
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return log10_ks_p_value(truth_ratios(log).values(), truth_ratios(gold_log).values())
