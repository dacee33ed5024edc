"""What one task's log gives: ROUGE, probability, truth ratio. Every function takes a log and returns one number in [0, 1].

A truth ratio R is the wrong answers' probability over that of the right answer in other words: above 1 where the wrong ones
are likelier. There are three ways to form it (arithmetic, geometric, grand mean) and two to bring it into [0, 1]
(below_one, closer_to_one). R is held as its logarithm, so losses of 1e4 neither overflow nor turn into 0/0.
"""

import math

import numpy as np

from . import log_columns, rouge
from .exact_means import log_sum_exp, mean

# ---- ROUGE


def rouge_recall(log: dict) -> float:
    """Mean over records of ROUGE-L recall (Porter stemmer) of the greedy text against the answer, in [0, 1].

    formula LCS(generated, answer) / words of the answer; the log's rougeL_recall, else from generated_text
    source  paper 5.2, TOFU; evaluation/rouge.py
    flaw    recall only: a text that holds the answer somewhere scores 1, whatever else it says
    """
    return _rouge(log, "rougeL_recall", lambda found: found["rougeL"].recall)


def rouge_f(log: dict) -> float:
    """Mean over records of ROUGE-L F1 (Porter stemmer) of the greedy text against the answer, in [0, 1].

    formula 2 P R / (P + R), P = LCS / words of the text, R = LCS / words of the answer; rougeL_f1, else from generated_text
    source  open-unlearning's rougeL_f1 (src/evals/metrics/utils.py); no published aggregate is made of it
    flaw    a right and longer answer loses to a short one: "It was William Shakespeare" against "Shakespeare" is 0.4
    """
    return _rouge(log, "rougeL_f1", lambda found: found["rougeL"].f)


def rouge1_recall(log: dict) -> float:
    """Mean over records of ROUGE-1 recall (Porter stemmer) of the greedy text against the answer, in [0, 1].

    formula words in common, each as often as both have it, / words of the answer; rouge1_recall, else from generated_text
    source  logged by TOFU (evaluate_util.py) and the released code (mm/calculate_metrics.py:34-43); used by no aggregate
    flaw    the order of words does not count
    """
    return _rouge(log, "rouge1_recall", lambda found: found["rouge1"].recall)


def _rouge(log: dict, column: str, share) -> float:
    if column in log:
        return mean(log_columns.numbers(log, column).values())
    return mean(
        share(rouge.scores(expected, generated))
        for _, generated, expected in log_columns.texts(log).values()
    )


# ---- probability


def probability_of_answer(log: dict) -> float:
    """Mean over records of exp(-loss of the answer), in [0, 1].

    formula mean_i exp(-l_i), l = nll of the answer / its tokens
    source  TOFU; released code for the caption tasks (mm/calculate_metrics.py:95-102)
    flaw    a geometric mean over tokens: one surprising token of a long caption is hidden by the others
    """
    return mean(math.exp(-loss) for loss in log_columns.numbers(log, "avg_gt_loss").values())


def probability_among_candidates(log: dict) -> float:
    """Mean over records of the answer's share among the candidates, in [0, 1].

    formula mean_i P / (P + sum_k P_k), P = exp(-l), over the answer and the K wrong ones
    source  paper 5.2 (multiple choice); TOFU for its real-world sets
    flaw    chance level is 1/(K+1), not 0, and K differs between sets
    """
    answers, wrong = (
        log_columns.numbers(log, "avg_gt_loss"),
        log_columns.lists(log, "average_perturb_loss"),
    )
    log_columns.same_records(log, answers, wrong, "avg_gt_loss", "average_perturb_loss")
    return mean(
        math.exp(-log_sum_exp([0.0, *(answers[key] - np.asarray(wrong[key]))])) for key in answers
    )


# ---- truth ratios of every record


def log_truth_ratio(paraphrased: float, perturbed) -> float:
    """log R of one record, R = (1/K) sum_k exp(-l_k) / exp(-l_paraphrased); below 0 where the right answer is likelier.

    paraphrased  loss of the right answer in other words          perturbed  [K] losses of the wrong ones
    source  paper 5.2, TOFU's utils.py: the arithmetic mean of probabilities
    flaw    one likely wrong answer outweighs the rest
    """
    return log_sum_exp(paraphrased - np.asarray(perturbed, float)) - math.log(len(perturbed))


def tofu_truth_ratio(paraphrased: float, perturbed) -> float:
    """TOFU's R of one record, the log's column truth_ratio: above 1 where the wrong answers are likelier.

    formula exp(l_paraphrased - mean_k l_k); the geometric mean of the wrong answers' probabilities; exponent cut at 700
    source  TOFU's evaluate_util.py; equals the arithmetic R only when all wrong answers are equally likely
    flaw    a single very unlikely wrong answer moves it as much as a likely one
    """
    return math.exp(min(float(paraphrased) - mean(perturbed), 700.0))


def truth_ratios(log: dict) -> dict[str, float]:
    """log R of every record (see log_truth_ratio), by the row's index."""
    right, wrong = _right_and_wrong(log)
    return {key: log_truth_ratio(right[key], wrong[key]) for key in right}


def geometric_truth_ratios(log: dict) -> dict[str, float]:
    """log R of every record, R as TOFU aggregates it (see tofu_truth_ratio, here without the cut), by the row's index."""
    right, wrong = _right_and_wrong(log)
    return {key: right[key] - mean(wrong[key]) for key in right}


def grand_mean_truth_ratios(log: dict) -> dict[str, float]:
    """log R of every record as the released code forms it: the wrong answers of all records in place of the record's own.

    formula l_paraphrased,i - mean over all records j and candidates k of l_jk
    source  released code, mm/calculate_metrics.py:61-68, :115-117 (the inverse, exp(mean - l_i)): .mean() without an axis
    flaw    no record's wrong answers are compared with its right one; a constant stands for them
    """
    right, wrong = _right_and_wrong(log)
    constant = mean(loss for losses in wrong.values() for loss in losses)
    return {key: loss - constant for key, loss in right.items()}


def _right_and_wrong(log: dict) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Losses of the right answer in other words and of the wrong ones, of the same records."""
    right, wrong = (
        log_columns.numbers(log, "avg_paraphrased_loss"),
        log_columns.lists(log, "average_perturb_loss"),
    )
    log_columns.same_records(log, right, wrong, "avg_paraphrased_loss", "average_perturb_loss")
    return right, wrong


# ---- truth ratios brought into [0, 1]


def below_one(log_ratios: dict[str, float]) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1]: 1 where the wrong answers are impossible, 0 where as likely or likelier."""
    return mean(max(0.0, -math.expm1(min(value, 0.0))) for value in log_ratios.values())


def closer_to_one(log_ratios: dict[str, float]) -> float:
    """Mean over records of min(R, 1/R), in [0, 1]: 1 where right and wrong answers are equally likely."""
    return mean(math.exp(-abs(value)) for value in log_ratios.values())


def truth_ratio_score(log: dict) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1]: 1 where the wrong answers are impossible, 0 where as likely.

    formula mean_i max(0, 1 - R_i), R arithmetic as in log_truth_ratio
    source  paper 5.2 gives R and no rescaling; this is TOFU's for retain, on Forget too because the paper's
            Forget is better when lower, and TOFU's min(R, 1/R) would rise with forgetting
    flaw    all R above 1 count alike, so a model that prefers the wrong answers looks like one that does not know
    """
    return below_one(truth_ratios(log))


def truth_ratio_arithmetic_closer_to_one(log: dict) -> float:
    """Mean over records of min(R, 1/R), in [0, 1], R arithmetic.

    formula mean_i min(R_i, 1/R_i), R_i = (1/K) sum_k exp(-l_k) / exp(-l_paraphrased)
    source  the R of paper 5.2 with the rescaling that TOFU's code has for Forget; no code aggregates it so
    flaw    the same value for a record remembered (R = 1/5) and one whose wrong answers are preferred (R = 5)
    """
    return closer_to_one(truth_ratios(log))


def truth_ratio_geometric_below_one(log: dict) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1], R geometric: TOFU's truth ratio of all sets but Forget.

    formula mean_i max(0, 1 - R_i), R_i = exp(l_paraphrased - mean_k l_k)
    source  TOFU, aggregate_eval_stat.py:61-72; released text code, nlp/aggregate_eval_stat.py; open-unlearning's true_better
    flaw    its papers say arithmetic; the geometric R is the smaller one, so this is never less than the arithmetic score
    """
    return below_one(geometric_truth_ratios(log))


def truth_ratio_geometric_closer_to_one(log: dict) -> float:
    """Mean over records of min(R, 1/R), in [0, 1], R geometric: TOFU's truth ratio of Forget.

    formula mean_i min(R_i, 1/R_i), R_i = exp(l_paraphrased - mean_k l_k)
    source  TOFU, aggregate_eval_stat.py:61-72; released nlp/aggregate_eval_stat.py; open-unlearning's closer_to_1_better
    flaw    rises with forgetting, while the probability and ROUGE it is averaged with fall
    """
    return closer_to_one(geometric_truth_ratios(log))


def truth_ratio_grand_mean_below_one(log: dict) -> float:
    """Mean over records of max(0, 1 - R), in [0, 1], R by grand mean: the released truth ratio of all tasks but Forget's.

    formula mean_i max(0, 1 - R_i), R_i = exp(l_paraphrased,i - mean over all j, k of l_jk)
    source  released code, mm/calculate_metrics.py:115-122
    flaw    see grand_mean_truth_ratios: records with R = 1.65 and 33.1 of their own become 12.2 and 4.5
    """
    return below_one(grand_mean_truth_ratios(log))


def truth_ratio_grand_mean_closer_to_one(log: dict) -> float:
    """Mean over records of min(R, 1/R), in [0, 1], R by grand mean: the released truth ratio of Forget and Forget FaceRec.

    formula mean_i min(R_i, 1/R_i), R_i = exp(l_paraphrased,i - mean over all j, k of l_jk)
    source  released code, mm/calculate_metrics.py:115-122
    flaw    grand mean, and it rises with forgetting while the probability it is averaged with falls
    """
    return closer_to_one(grand_mean_truth_ratios(log))
