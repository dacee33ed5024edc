"""Metrics of one task's log: ROUGE, probability, truth ratio. Each is one number in [0, 1].

The truth ratio R of a record is the probability of the wrong answers, divided by that of the right
answer in other words: above 1 if the wrong answers are likelier. R is formed in three ways
(arithmetic, geometric, grand mean) and mapped to [0, 1] in two ways (below_one, closer_to_one). R
is stored as its logarithm, so losses of 1e4 neither overflow nor give 0/0.
"""

import math
from collections.abc import Callable, Sequence

from . import log_columns, rouge
from .exact_means import log_sum_exp, mean
from .log_format import Log

# ---- ROUGE


def rouge_recall(log: Log) -> float:
    """Mean over records of ROUGE-L recall (Porter stemmer) of the greedy text against the answer,
    in [0, 1].

    formula LCS(generated, answer) / words of the answer; the log's rougeL_recall, else computed
            from generated_text
    source  paper 5.2, TOFU; evaluation/rouge.py
    flaw    recall only: a text that contains the answer scores 1, whatever else it says
    """
    return _rouge(log, "rougeL_recall", lambda scores: scores["rougeL"].recall)


def rouge_f(log: Log) -> float:
    """Mean over records of ROUGE-L F1 (Porter stemmer) of the greedy text against the answer, in
    [0, 1].

    formula 2 P R / (P + R), P = LCS / words of the text, R = LCS / words of the answer; the log's
            rougeL_f1, else computed from generated_text
    source  open-unlearning's rougeL_f1 (src/evals/metrics/utils.py); no published aggregate uses it
    flaw    a right and longer answer scores less than a short one: "It was William Shakespeare"
            against "Shakespeare" is 0.4
    """
    return _rouge(log, "rougeL_f1", lambda scores: scores["rougeL"].f)


def rouge1_recall(log: Log) -> float:
    """Mean over records of ROUGE-1 recall (Porter stemmer) of the greedy text against the answer,
    in [0, 1].

    formula words in common, each as often as both texts have it, / words of the answer; the log's
            rouge1_recall, else computed from generated_text
    source  logged by TOFU (evaluate_util.py) and the released code (mm/calculate_metrics.py:34-43);
            no aggregate uses it
    flaw    the order of words does not count
    """
    return _rouge(log, "rouge1_recall", lambda scores: scores["rouge1"].recall)


def _rouge(log: Log, column: str, share: Callable[[dict[str, rouge.Score]], float]) -> float:
    if column in log:
        return mean(log_columns.numbers(log, column).values())
    return mean(
        share(rouge.scores(expected, generated))
        for _, generated, expected in log_columns.texts(log).values()
    )


# ---- probability


def probability_of_answer(log: Log) -> float:
    """Mean over records of exp(-loss of the answer), in [0, 1].

    formula mean_i exp(-l_i), l = nll of the answer / its tokens
    source  TOFU; released code for the caption tasks (mm/calculate_metrics.py:95-102)
    flaw    a geometric mean over tokens: one unlikely token of a long caption hardly counts
    """
    return mean(math.exp(-loss) for loss in log_columns.numbers(log, "avg_gt_loss").values())


def probability_among_candidates(log: Log) -> float:
    """Mean over records of the answer's share among the candidates, in [0, 1].

    formula mean_i P / (P + sum_k P_k), P = exp(-l), over the answer and the K wrong ones
    source  paper 5.2 (multiple choice); TOFU for its real-world sets
    flaw    chance level is 1/(K+1), not 0, and K differs between sets
    """
    answer = log_columns.numbers(log, "avg_gt_loss")
    wrong = log_columns.lists(log, "average_perturb_loss")
    log_columns.same_records(log, answer, wrong, "avg_gt_loss", "average_perturb_loss")
    shares = []
    for index, answer_loss in answer.items():
        log_ratios = [answer_loss - wrong_loss for wrong_loss in wrong[index]]
        shares.append(math.exp(-log_sum_exp([0.0, *log_ratios])))
    return mean(shares)


# ---- truth ratios of every record


def log_truth_ratio(paraphrased: float, perturbed: Sequence[float]) -> float:
    """log R of one record, R = (1/K) sum_k exp(-l_k) / exp(-l_paraphrased); below 0 if the right
    answer is likelier.

    paraphrased  loss of the right answer in other words
    perturbed    [K] losses of the wrong answers
    source       paper 5.2, TOFU's utils.py: the arithmetic mean of probabilities
    flaw         one likely wrong answer outweighs the others
    """
    log_ratios = [paraphrased - float(loss) for loss in perturbed]
    return log_sum_exp(log_ratios) - math.log(len(log_ratios))


def tofu_truth_ratio(paraphrased: float, perturbed: Sequence[float]) -> float:
    """TOFU's R of one record, the log's column truth_ratio: above 1 if the wrong answers are
    likelier.

    formula exp(l_paraphrased - mean_k l_k): the geometric mean of the wrong answers' probabilities;
            the exponent is limited to 700
    source  TOFU's evaluate_util.py; equals the arithmetic R only if all wrong answers are equally
            likely
    flaw    a single very unlikely wrong answer changes it as much as a likely one
    """
    return math.exp(min(float(paraphrased) - mean(perturbed), 700.0))


def truth_ratios(log: Log) -> dict[str, float]:
    """log R of every record (see log_truth_ratio), by the record's index."""
    right, wrong = _right_and_wrong(log)
    return {index: log_truth_ratio(right[index], wrong[index]) for index in right}


def geometric_truth_ratios(log: Log) -> dict[str, float]:
    """log R of every record, R as TOFU aggregates it (see tofu_truth_ratio, without the limit), by
    the record's index."""
    right, wrong = _right_and_wrong(log)
    return {index: right[index] - mean(wrong[index]) for index in right}


def grand_mean_truth_ratios(log: Log) -> dict[str, float]:
    """log R of every record as the released code forms it, by the record's index: with the wrong
    answers of all records in place of the record's own.

    formula l_paraphrased,i - mean over all records j and candidates k of l_jk
    source  released code, mm/calculate_metrics.py:61-68, :115-117 (the inverse, exp(mean - l_i)):
            .mean() without an axis
    flaw    no record's wrong answers are compared with its right one; a constant replaces them
    """
    right, wrong = _right_and_wrong(log)
    constant = mean(loss for losses in wrong.values() for loss in losses)
    return {index: loss - constant for index, loss in right.items()}


def _right_and_wrong(log: Log) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Losses of the right answer in other words and of the wrong answers, of the same records."""
    right = log_columns.numbers(log, "avg_paraphrased_loss")
    wrong = log_columns.lists(log, "average_perturb_loss")
    log_columns.same_records(log, right, wrong, "avg_paraphrased_loss", "average_perturb_loss")
    return right, wrong


# ---- truth ratios mapped to [0, 1]


def below_one(log_ratios: dict[str, float]) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1]: 1 if the wrong answers are impossible, 0 if
    they are as likely as the right one or likelier."""
    return mean(max(0.0, -math.expm1(min(value, 0.0))) for value in log_ratios.values())


def closer_to_one(log_ratios: dict[str, float]) -> float:
    """Mean over records of min(R, 1/R), in [0, 1]: 1 if right and wrong answers are equally
    likely."""
    return mean(math.exp(-abs(value)) for value in log_ratios.values())


def truth_ratio_score(log: Log) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1]: 1 if the wrong answers are impossible, 0 if
    they are as likely as the right one.

    formula mean_i max(0, 1 - R_i), R arithmetic as in log_truth_ratio
    source  paper 5.2 gives R and no mapping; this is TOFU's for retain, used on Forget too because
            the paper's Forget is better when lower, and TOFU's min(R, 1/R) would rise with
            forgetting
    flaw    all R above 1 count alike, so a model that prefers the wrong answers looks like one that
            does not know
    """
    return below_one(truth_ratios(log))


def truth_ratio_arithmetic_closer_to_one(log: Log) -> float:
    """Mean over records of min(R, 1/R), in [0, 1], R arithmetic.

    formula mean_i min(R_i, 1/R_i), R_i = (1/K) sum_k exp(-l_k) / exp(-l_paraphrased)
    source  the R of paper 5.2 with the mapping that TOFU's code has for Forget; no code uses both
    flaw    the same value for a record remembered (R = 1/5) and one whose wrong answers are
            preferred (R = 5)
    """
    return closer_to_one(truth_ratios(log))


def truth_ratio_geometric_below_one(log: Log) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1], R geometric: TOFU's truth ratio of all sets
    but Forget.

    formula mean_i max(0, 1 - R_i), R_i = exp(l_paraphrased - mean_k l_k)
    source  TOFU, aggregate_eval_stat.py:61-72; released text code, nlp/aggregate_eval_stat.py
    flaw    its papers say arithmetic; the geometric R is the smaller one, so this is never less
            than the arithmetic score
    """
    return below_one(geometric_truth_ratios(log))


def truth_ratio_geometric_closer_to_one(log: Log) -> float:
    """Mean over records of min(R, 1/R), in [0, 1], R geometric: TOFU's truth ratio of Forget.

    formula mean_i min(R_i, 1/R_i), R_i = exp(l_paraphrased - mean_k l_k)
    source  TOFU, aggregate_eval_stat.py:61-72; released nlp/aggregate_eval_stat.py
    flaw    rises with forgetting, while the probability and ROUGE it is averaged with fall
    """
    return closer_to_one(geometric_truth_ratios(log))


def truth_ratio_grand_mean_below_one(log: Log) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1], R by grand mean: the released truth ratio of
    all tasks but Forget's.

    formula mean_i max(0, 1 - R_i), R_i = exp(l_paraphrased,i - mean over all j, k of l_jk)
    source  released code, mm/calculate_metrics.py:115-122
    flaw    see grand_mean_truth_ratios: records with R = 1.65 and 33.1 of their own become 12.2 and
            4.5
    """
    return below_one(grand_mean_truth_ratios(log))


def truth_ratio_grand_mean_closer_to_one(log: Log) -> float:
    """Mean over records of min(R, 1/R), in [0, 1], R by grand mean: the released truth ratio of
    Forget and Forget FaceRec.

    formula mean_i min(R_i, 1/R_i), R_i = exp(l_paraphrased,i - mean over all j, k of l_jk)
    source  released code, mm/calculate_metrics.py:115-122
    flaw    grand mean, and it rises with forgetting while the probability it is averaged with falls
    """
    return closer_to_one(grand_mean_truth_ratios(log))
