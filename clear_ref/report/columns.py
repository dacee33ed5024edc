"""Columns of the leaderboard, and how numbers are printed in every table."""

import math
from collections.abc import Iterable, Sequence

from clear_ref.evaluation.metrics import Scores
from clear_ref.evaluation.named_values import not_asked

Column = tuple[str, str, str]
"""Metric, heading, and an arrow: HIGHER or LOWER is better."""
HIGHER = "↑"
LOWER = "↓"
PAPER_COLUMNS: tuple[Column, ...] = (
    ("forget", "Forget", LOWER),
    ("retain", "Retain", HIGHER),
    ("real_faces", "Faces", HIGHER),
    ("real_world", "World", HIGHER),
    ("real", "Real", HIGHER),
    ("forget_quality", "FQ", HIGHER),
    ("text_real", "Real text", HIGHER),
    ("text_retain", "Retain text", HIGHER),
    ("text_forget", "Forget text", LOWER),
)
# Metrics of other sets of definitions.
OTHER_COLUMNS: tuple[Column, ...] = (
    ("model_utility", "Utility", HIGHER),
    ("text_model_utility", "Utility text", HIGHER),
    ("forget_quality_ks", "FQ KS", HIGHER),
    ("log10_forget_quality", "log10 FQ", HIGHER),
    ("text_log_forget_quality", "log FQ text", HIGHER),
    ("forget_choice", "Forget MC", LOWER),
    ("retain_choice", "Retain MC", HIGHER),
    ("real_faces_choice", "Faces MC", HIGHER),
    ("real_world_choice", "World MC", HIGHER),
    ("forget_name", "Forget name", LOWER),
    ("retain_name", "Retain name", HIGHER),
    ("forget_vqa_rougeL_f", "Forget ROUGE", LOWER),
    ("retain_vqa_rougeL_f", "Retain ROUGE", HIGHER),
    ("forget_qa_rougeL_f", "Forget text ROUGE", LOWER),
    ("retain_qa_rougeL_f", "Retain text ROUGE", HIGHER),
    ("forget_vqa_bleu", "Forget BLEU", LOWER),
    ("retain_vqa_bleu", "Retain BLEU", HIGHER),
    ("ks_p_value", "KS p", HIGHER),
    ("ks_distance", "KS", LOWER),
    ("js_distance", "JS", LOWER),
    ("forget_quality_of_five", "FQ of five", HIGHER),
    ("minus_log10_p", "-log10 p", LOWER),
    ("forget_no_picture", "No picture", LOWER),
    ("forget_other_picture", "Other picture", LOWER),
    ("forget_other_person", "Other person", LOWER),
    ("forget_reworded", "Reworded", LOWER),
    ("text_forget_with_picture", "Text+picture", LOWER),
    ("text_forget_reworded", "Text reworded", LOWER),
)
# What every task gives.
PARTS = ("rouge", "probability", "truth_ratio")


def columns_of(all_metrics: Iterable[Scores]) -> list[Column]:
    """The columns for which at least one model has a number.

    A language model, for example, has no numbers about pictures.
    """
    all_metrics = list(all_metrics)
    return [
        column
        for column in (*PAPER_COLUMNS, *OTHER_COLUMNS)
        if any(metrics.get(column[0]) is not None for metrics in all_metrics)
    ]


def headings(columns: Iterable[Column]) -> list[str]:
    """The texts above the columns: heading and arrow."""
    return [f"{heading} {arrow}" for _, heading, arrow in columns]


def not_computed(all_metrics: Sequence[Scores]) -> list[str]:
    """[one sentence that names the columns of a set which no model has for want of questions with
    options, and what asks them]; [] if there is none.
    """
    name, missing = not_asked(all_metrics)
    if not missing:
        return []
    columns = [heading for metric, heading, _ in OTHER_COLUMNS if metric in missing]
    tasks = list(dict.fromkeys(missing.values()))
    return [
        f"not computed: {', '.join(columns)}; an evaluation with --metrics {name} asks "
        f"{', '.join(tasks)}, and so does one with --tasks that names them."
    ]


def number(value: float | None, decimals: int = 3) -> str:
    """A metric as it is printed: fixed decimals, no sign before a zero, "-" for None."""
    return "-" if value is None else f"{value:z.{decimals}f}"


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of one number per seed; None if a seed has no number."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    return math.fsum(numbers) / len(numbers)


def spread(values: Sequence[float | None], decimals: int = 2) -> str:
    """The text "mean±deviation" of one number per seed, with the sample standard deviation (n - 1).

    The mean alone for one seed; "-" if a seed has no number.
    """
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return "-"
    mean_value = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return number(mean_value, decimals)
    squares = math.fsum((value - mean_value) ** 2 for value in numbers)
    deviation = math.sqrt(squares / (len(numbers) - 1))
    return f"{number(mean_value, decimals)}±{number(deviation, decimals)}"
