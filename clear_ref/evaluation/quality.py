"""Forget Quality: how similar a model's truth ratios on the forget set are to those of gold, a
model that never saw the forget set.

Every function takes the logs of one forget task of both models, and raises UserError unless both
are of the same records.
"""

import math

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

from . import log_columns
from .distances import jensen_shannon_distance, ks_p_value, log10_ks_p_value
from .log_format import Log
from .task_metrics import geometric_truth_ratios, grand_mean_truth_ratios, truth_ratios


def histogram(log: Log, bins: int = 10) -> np.ndarray:
    """[bins] shares of the records whose R/(1+R) is in each of `bins` equal bins on [0, 1]; the
    last bin includes 1."""
    shares = [1.0 / (1.0 + math.exp(min(-value, 700.0))) for value in truth_ratios(log).values()]
    counts, _ = np.histogram(shares, bins, (0.0, 1.0))
    return counts / len(shares)


def forget_quality(log: Log, gold_log: Log) -> float:
    """1 - Jensen-Shannon distance between two models' truth ratios on the forget captions (of a
    language model: on the forget questions); in [1 - sqrt(ln 2), 1].

    formula 1 - jensen_shannon_distance(h, h_gold), h = shares of R/(1+R) in 10 equal bins on [0, 1]
    source  paper 5.2 names distance and quantity; natural logarithm, because published values go
            down to 0.18; the bins are this project's choice
    flaw    a histogram does not show which record changed, nor how far two disjoint ones are apart
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return 1.0 - jensen_shannon_distance(histogram(log), histogram(gold_log))


def forget_quality_aligned(log: Log, gold_log: Log) -> float:
    """1 - Jensen-Shannon distance between two vectors of truth ratios, record against record; in
    [1 - sqrt(ln 2), 1].

    formula 1 - jensen_shannon_distance(v, v_gold), v_i = 1/R_i by grand mean, record by record; as
            v is divided by its sum, R's constant cancels:
            v_i = exp(-l_paraphrased,i) / sum_j exp(-l_paraphrased,j)
    source  released code, mm/calculate_metrics.py:51-72 with mm/build_vllm_table.py:103
    flaw    neither the wrong answers nor a constant added to every loss count; it compares which
            records have the probability, not how truth ratios are distributed: the same values in
            another order of records do not give 1
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    log_ratios = grand_mean_truth_ratios(log)
    gold_log_ratios = grand_mean_truth_ratios(gold_log)
    indices = list(log_ratios)
    return 1.0 - jensen_shannon_distance(
        _inverse_ratios(log_ratios, indices), _inverse_ratios(gold_log_ratios, indices)
    )


def _inverse_ratios(log_ratios: dict[str, float], indices: list[str]) -> list[float]:
    """1/R of each record, scaled so that the largest is exp(0)."""
    least = min(log_ratios.values())
    return [math.exp(least - log_ratios[index]) for index in indices]


def forget_quality_ks(log: Log, gold_log: Log) -> float:
    """Exact p-value of the two-sample Kolmogorov-Smirnov test between two models' truth ratios, in
    [0, 1]: TOFU's Forget Quality.

    formula ks_p_value(R, R_gold), R geometric; only their order counts, so logarithms are compared
    source  TOFU, aggregate_eval_stat.py:7-24; released text code, nlp/aggregate_eval_stat.py. With
            more than 10,000 records scipy, which both call, gives an approximation and this the
            exact value. open-unlearning's is open_unlearning.forget_quality
    flaw    see ks_p_value; a model that never learned anything is as good as gold if its truth
            ratios are similar
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return ks_p_value(
        geometric_truth_ratios(log).values(), geometric_truth_ratios(gold_log).values()
    )


def forget_quality_log10_ks(log: Log, gold_log: Log) -> float:
    """log10 of forget_quality_ks, at most 0; finite also for a p-value that is too small for a
    double.

    formula log10_ks_p_value(R, R_gold), R geometric
    source  as forget_quality_ks
    flaw    see ks_p_value
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return log10_ks_p_value(
        geometric_truth_ratios(log).values(), geometric_truth_ratios(gold_log).values()
    )


def forget_quality_ln_ks(log: Log, gold_log: Log) -> float:
    """Natural logarithm of forget_quality_ks, at most 0: the "log FQ" of the paper's tables of
    text-only models.

    formula ln(10) log10_ks_p_value(R, R_gold), R geometric
    source  released text code, nlp/results.ipynb (column Log Forget Quality)
    flaw    see ks_p_value; the tables do not name the base of the logarithm
    raises  UserError if the two logs are not of the same records
    """
    return math.log(10.0) * forget_quality_log10_ks(log, gold_log)


def forget_quality_ks_grand_mean(log: Log, gold_log: Log) -> float:
    """Exact p-value of the two-sample Kolmogorov-Smirnov test between two models' truth ratios by
    grand mean, in [0, 1].

    formula ks_p_value(R, R_gold), R by grand mean
    source  released code, mm/calculate_metrics.py:71; no table shows it
    flaw    see ks_p_value and grand_mean_truth_ratios; here the constants do not cancel
    raises  UserError if the two logs are not of the same records
    """
    same_questions(log, gold_log)
    return ks_p_value(
        grand_mean_truth_ratios(log).values(), grand_mean_truth_ratios(gold_log).values()
    )


def same_questions(log: Log, gold_log: Log) -> None:
    """UserError, naming the first difference, unless both logs are of one split, of the same
    records, and expect the same texts.

    Spaces are ignored: TOFU's logs hold texts that were tokenised and decoded, with "Mammadov ,"
    for "Mammadov,".
    """
    name = log_columns.name_of(log)
    indices = log_columns.column_of(log, "avg_paraphrased_loss").keys()
    gold_indices = log_columns.column_of(gold_log, "avg_paraphrased_loss").keys()
    config, gold_config = log.get("config"), gold_log.get("config")
    if config is not None and gold_config is not None and config != gold_config:
        raise UserError(
            f"{name}: is of split {one_line(config, 60)}, gold's of {one_line(gold_config, 60)}; "
            "evaluate both models on one split"
        )
    if "generated_text" in log and "generated_text" in gold_log:
        _same_expected_texts(name, log_columns.texts(log), log_columns.texts(gold_log))
    odd = sorted(indices ^ gold_indices)
    if odd:
        raise UserError(
            f"{name}: {len(indices)} records, gold has {len(gold_indices)}; record "
            f"{one_line(odd[0], 40)} is in only one; evaluate both models on the same rows "
            "of one split"
        )


def _same_expected_texts(
    name: str, texts: dict[str, list[str]], gold_texts: dict[str, list[str]]
) -> None:
    """UserError if a record of both logs has two expected texts; spaces are ignored."""
    for index in texts:
        if index not in gold_texts:
            continue
        expected, gold_expected = texts[index][2], gold_texts[index][2]
        if "".join(expected.split()) != "".join(gold_expected.split()):
            raise UserError(
                f"{name}: gold is of another split or set; record {index} expects "
                f"{one_line(repr(expected), 80)}, in gold {one_line(repr(gold_expected), 80)}; "
                "evaluate both models on the same rows"
            )


def refuse_identical(log: Log, gold_log: Log) -> None:
    """UserError if all losses of both logs are equal: a log compared with itself has Forget Quality
    1, whatever the model is."""
    columns = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss")
    for column in columns:
        if log.get(column) != gold_log.get(column):
            return
    n = len(log_columns.column_of(log, "avg_gt_loss"))
    raise UserError(
        f"{log_columns.name_of(log)}: all losses of its {n} records are gold's too, as of one log "
        "given twice; expected the log of another model, one that never saw the forget set"
    )
