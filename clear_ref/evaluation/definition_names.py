"""The name, words, source, direction and version of every function that makes a reported number.

A changed formula gets a new name. The version counts changes of a definition that keep its formula:
which records or tasks it is computed from, how a special case is decided.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import forgetium, mmunlearner, open_mmunlearning, open_unlearning, quality, task_metrics

# What a higher value means.
KNOWS = "knows the answers"
FORGOT = "does not know them"
LIKE_GOLD = "more like gold"
UNLIKE_GOLD = "less like gold"
MIXED = "mixed (its truth ratio rises with forgetting)"


class Named(NamedTuple):
    """How reports call a function.

    name       the definition's name
    words      a short description
    source     who defines it: a paper's section, or a project at a commit
    direction  what a higher value says of the model: KNOWS, FORGOT, LIKE_GOLD or UNLIKE_GOLD
    """

    name: str
    words: str
    source: str = ""
    direction: str = KNOWS
    version: int = 1


PAPER = "CLEAR 5.2"
RELEASED = "CLEAR's code bb14c96"
TOFU = "TOFU 8c49eee"
OPEN = "open-unlearning d3d7cf9"
MMUNLEARNER = "MMUnlearner fa77c66"
OPEN_MM = "Open-MMUnlearning 60def72"

NAMES: dict[Callable[..., float], Named] = {
    task_metrics.rouge_recall: Named("rougeL_recall", "ROUGE-L recall", PAPER),
    task_metrics.rouge_f: Named("rougeL_f1", "ROUGE-L F1", OPEN),
    task_metrics.rouge1_recall: Named("rouge1_recall", "ROUGE-1 recall", TOFU),
    task_metrics.probability_among_candidates: Named(
        "normalised_over_candidates", "probability among candidates (names, real sets)", PAPER
    ),
    task_metrics.probability_of_answer: Named("exp_mean_nll", "exp(-mean nll) elsewhere", TOFU),
    task_metrics.truth_ratio_score: Named(
        "arithmetic_clipped", "truth ratio max(0, 1 - R), R arithmetic", PAPER
    ),
    task_metrics.truth_ratio_geometric_below_one: Named(
        "geometric_below_one", "truth ratio max(0, 1 - R), R geometric", TOFU
    ),
    task_metrics.truth_ratio_geometric_closer_to_one: Named(
        "geometric_closer_to_one", "on Forget min(R, 1/R), R geometric", TOFU, FORGOT
    ),
    task_metrics.truth_ratio_grand_mean_below_one: Named(
        "grand_mean_below_one", "truth ratio max(0, 1 - R), R by grand mean", RELEASED
    ),
    task_metrics.truth_ratio_grand_mean_closer_to_one: Named(
        "grand_mean_closer_to_one", "on Forget min(R, 1/R), R by grand mean", RELEASED, FORGOT
    ),
    quality.forget_quality: Named(
        "js_histogram10", "FQ: 1 - Jensen-Shannon distance from gold, 10 bins", PAPER, LIKE_GOLD
    ),
    quality.forget_quality_aligned: Named(
        "js_index_aligned",
        "FQ: 1 - Jensen-Shannon distance from gold, record against record",
        RELEASED,
        LIKE_GOLD,
    ),
    quality.forget_quality_ks: Named(
        "ks_p_value", "FQ: KS p-value against gold, R geometric", TOFU, LIKE_GOLD
    ),
    quality.forget_quality_log10_ks: Named(
        "log10_ks_p_value", "log10 FQ: of the KS p-value", TOFU, LIKE_GOLD
    ),
    quality.forget_quality_ln_ks: Named(
        "ln_ks_p_value",
        "log FQ text: natural logarithm of the KS p-value, R geometric",
        RELEASED,
        LIKE_GOLD,
    ),
    quality.forget_quality_ks_grand_mean: Named(
        "ks_p_value_grand_mean",
        "FQ KS: KS p-value against gold, R by grand mean",
        RELEASED,
        LIKE_GOLD,
    ),
    open_unlearning.probability_of_answer: Named(
        "stored_probability", "the log's own probability of the answer", OPEN
    ),
    open_unlearning.probability_among_candidates: Named(
        "normalised_over_candidates_1e-10",
        "probability among candidates, 1e-10 in the denominator",
        OPEN,
    ),
    open_unlearning.truth_ratio_below_one: Named(
        "geometric_1e-10_below_one",
        "truth ratio max(0, 1 - R), R geometric with 1e-10 in the denominator",
        OPEN,
    ),
    open_unlearning.truth_ratio_closer_to_one: Named(
        "geometric_1e-10_closer_to_one",
        "on Forget min(R, 1/(R + 1e-10)), R geometric with 1e-10 in the denominator",
        OPEN,
        FORGOT,
    ),
    open_unlearning.forget_quality: Named(
        "ks_p_value_1e-10",
        "FQ: KS p-value against gold, R geometric with 1e-10 in the denominator",
        OPEN,
        LIKE_GOLD,
    ),
    open_unlearning.forget_quality_log10: Named(
        "log10_ks_p_value_1e-10", "log10 FQ: of that KS p-value", OPEN, LIKE_GOLD
    ),
    mmunlearner.multiple_choice_accuracy: Named(
        "first_letter_is_the_options",
        "MC: share of texts that begin with the right option's letter",
        MMUNLEARNER,
    ),
    mmunlearner.contained_name_accuracy: Named(
        "name_contained", "name: share of texts that contain the name", MMUNLEARNER
    ),
    mmunlearner.rouge1_f: Named("rouge1_f1_of_texts", "ROUGE-1 F1 of the texts", MMUNLEARNER),
    mmunlearner.rouge2_f: Named("rouge2_f1_of_texts", "ROUGE-2 F1 of the texts", MMUNLEARNER),
    mmunlearner.rouge_l_f: Named("rougeL_f1_of_texts", "ROUGE-L F1 of the texts", MMUNLEARNER),
    mmunlearner.bleu: Named(
        "sentence_bleu4_method1", "BLEU: sentence BLEU-4, 0.1 for no match", MMUNLEARNER
    ),
    open_mmunlearning.ks_p: Named(
        "ks_p_value_of_captions", "KS p: p-value against gold, R geometric", OPEN_MM, LIKE_GOLD
    ),
    open_mmunlearning.ks_distance: Named(
        "ks_statistic", "KS distance from gold, R geometric", OPEN_MM, UNLIKE_GOLD
    ),
    open_mmunlearning.js_distance: Named(
        "js_distance_aligned_or_50_bins",
        "JS distance from gold, record against record, else 50 bins",
        OPEN_MM,
        UNLIKE_GOLD,
    ),
    open_mmunlearning.forget_quality: Named(
        "mean_of_five",
        "FQ of five: mean of forgotten tasks, truth ratio, 1 - p, 1 - KS, 1 - JS",
        "arXiv 2610.10358, equation 53",
        FORGOT,
    ),
    forgetium.forget_quality: Named(
        "minus_log10_ks_p_value",
        "-log10 p: of the KS p-value, R arithmetic, of the answer itself",
        "forgetium 0.2.1",
        UNLIKE_GOLD,
    ),
}
