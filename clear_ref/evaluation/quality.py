"""Forget Quality: how much a model's truth ratios on the forget set are like those of gold, a model that never saw it.

Every function takes the two models' logs of one forget task and raises UserError unless both are of the same records.
"""

import math

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

from . import log_columns
from .distances import jensen_shannon_distance, ks_p_value, log10_ks_p_value
from .task_metrics import geometric_truth_ratios, grand_mean_truth_ratios, truth_ratios


def histogram(log: dict, bins: int = 10) -> np.ndarray:
    """[bins] shares of the records whose R/(1+R) falls in each of `bins` equal bins on [0, 1], 1 in the last."""
    shares = [1.0 / (1.0 + math.exp(min(-value, 700.0))) for value in truth_ratios(log).values()]
    return np.histogram(shares, bins, (0.0, 1.0))[0] / len(shares)


def forget_quality(log: dict, gold_log: dict) -> float:
    """1 - Jensen-Shannon distance between two models' truth ratios on the forget captions (a language model's: on the forget
    questions); in [1 - sqrt(ln 2), 1].

    formula 1 - jensen_shannon_distance(h, h_gold), h = shares of R/(1+R) in 10 equal bins on [0, 1]
    source  paper 5.2 names distance and quantity; natural logarithm as published values go down to 0.18; bins ours
    flaw    a histogram does not see which record moved, nor how far two disjoint ones are apart
    raises  UserError when the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return 1.0 - jensen_shannon_distance(histogram(log), histogram(gold_log))


def forget_quality_aligned(log: dict, gold_log: dict) -> float:
    """1 - Jensen-Shannon distance between two vectors of truth ratios, record against record; in [1 - sqrt(ln 2), 1].

    formula 1 - jensen_shannon_distance(v, v_gold), v_i = 1/R_i by grand mean, record by record; as v is divided by its sum,
            R's constant cancels: v_i = exp(-l_paraphrased,i) / sum_j exp(-l_paraphrased,j)
    source  released code, mm/calculate_metrics.py:51-72 with mm/build_vllm_table.py:103
    flaw    the wrong answers do not enter, nor does a constant added to every loss; it compares which records hold the
            probability, not how truth ratios are distributed: the same values in another order of records are not 1
    raises  UserError when the two logs are not of the same records
    """
    same_questions(log, gold_log)
    ours, gold = grand_mean_truth_ratios(log), grand_mean_truth_ratios(gold_log)
    least = [min(ratios.values()) for ratios in (ours, gold)]  # so that the largest share is exp(0)
    vectors = [
        [math.exp(low - ratios[key]) for key in ours] for low, ratios in zip(least, (ours, gold))
    ]
    return 1.0 - jensen_shannon_distance(*vectors)


def forget_quality_ks(log: dict, gold_log: dict) -> float:
    """Exact p-value of the two-sample Kolmogorov-Smirnov test between two models' truth ratios, in [0, 1]: TOFU's Forget Quality.

    formula ks_p_value(R, R_gold), R geometric; it depends on their order alone, so logarithms are compared
    source  TOFU, aggregate_eval_stat.py:7-24; released text code, nlp/aggregate_eval_stat.py; open-unlearning's ks_test
    flaw    see ks_p_value; a model that never learned anything is as good as gold if its truth ratios are alike
    raises  UserError when the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return ks_p_value(
        geometric_truth_ratios(log).values(), geometric_truth_ratios(gold_log).values()
    )


def forget_quality_log10_ks(log: dict, gold_log: dict) -> float:
    """log10 of forget_quality_ks, at most 0; finite where the p-value is less than any double.

    formula log10_ks_p_value(R, R_gold), R geometric
    source  as forget_quality_ks
    flaw    see ks_p_value
    raises  UserError when the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return log10_ks_p_value(
        geometric_truth_ratios(log).values(), geometric_truth_ratios(gold_log).values()
    )


def forget_quality_ln_ks(log: dict, gold_log: dict) -> float:
    """Natural logarithm of forget_quality_ks, at most 0: the "log FQ" of the paper's tables of text-only models.

    formula ln(10) log10_ks_p_value(R, R_gold), R geometric
    source  released text code, nlp/results.ipynb (column Log Forget Quality)
    flaw    see ks_p_value; printed without its base
    raises  UserError when the two logs are not of the same records
    """
    return math.log(10.0) * forget_quality_log10_ks(log, gold_log)


def forget_quality_ks_grand_mean(log: dict, gold_log: dict) -> float:
    """Exact p-value of the two-sample Kolmogorov-Smirnov test between two models' truth ratios by grand mean, in [0, 1].

    formula ks_p_value(R, R_gold), R by grand mean
    source  released code, mm/calculate_metrics.py:71; no table shows it
    flaw    see ks_p_value and grand_mean_truth_ratios; here the constants do not cancel
    raises  UserError when the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return ks_p_value(
        grand_mean_truth_ratios(log).values(), grand_mean_truth_ratios(gold_log).values()
    )


def same_questions(log: dict, gold_log: dict) -> None:
    """UserError, naming what differs first, unless both logs are of one split, of the same records and expect the same texts.

    Spaces do not count: TOFU's logs hold texts that were tokenised and decoded, which has "Mammadov ," for "Mammadov,".
    """
    ours, gold = (log_columns.column_of(each, "avg_paraphrased_loss") for each in (log, gold_log))
    splits = [each.get("config") for each in (log, gold_log)]
    if None not in splits and splits[0] != splits[1]:
        raise UserError(
            f"{log_columns.name_of(log)}: is of split {splits[0]}, gold's of {splits[1]}; "
            "evaluate both models on one split"
        )
    if "generated_text" in log and "generated_text" in gold_log:
        texts, gold_texts = log_columns.texts(log), log_columns.texts(gold_log)
        for key in texts:
            if key in gold_texts and "".join(texts[key][2].split()) != "".join(
                gold_texts[key][2].split()
            ):
                raise UserError(
                    f"{log_columns.name_of(log)}: gold is of another split or set; record {key} expects "
                    f"{one_line(repr(texts[key][2]), 80)}, in gold {one_line(repr(gold_texts[key][2]), 80)}; "
                    "evaluate both models on the same rows"
                )
    odd = sorted(set(ours) ^ set(gold))
    if odd:
        raise UserError(
            f"{log_columns.name_of(log)}: {len(ours)} records, gold has {len(gold)}; record {odd[0]} is in only one; "
            "evaluate both models on the same rows of one split"
        )


def refuse_identical(log: dict, gold_log: dict) -> None:
    """UserError if every loss of the log is also gold's: one log given twice has Forget Quality 1 whatever the model is."""
    losses = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss")
    if all(
        log_columns.column_of(log, column) == log_columns.column_of(gold_log, column)
        for column in losses
    ):
        n = len(log_columns.column_of(log, losses[0]))
        raise UserError(
            f"{log_columns.name_of(log)}: all losses of its {n} records are gold's too, as of one log given twice; "
            "expected the log of another model, one that never saw the forget set"
        )
