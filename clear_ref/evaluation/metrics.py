"""The benchmark's metrics: pure functions of evaluation logs.

A log is a dict of columns, a column a dict from the row's index, as text, to a value (evaluate.py), as in TOFU's and
the released eval_log_aggregated.json. Every mean is exactly rounded (math.fsum), so no order of records or candidates
can change a bit. Losses are nll per token in nats; ratios are formed from their differences, so losses of 1e4 neither
overflow nor turn into 0/0.
"""

from typing import Any

from clear_ref.common.errors import UserError

from . import log_columns
from .definitions import (
    AGGREGATES,
    MULTIPLE_CHOICE,
    OPTIONAL,
    PICTURES,
    QUALITIES,
    SETS,
    Definition,
    check_set,
    definitions,
    functions,
)
from .distances import auc, jensen_shannon_distance, ks_p_value, ks_statistic, log10_ks_p_value
from .exact_means import harmonic_mean, mean
from .log_format import Logs
from .quality import (
    forget_quality,
    forget_quality_aligned,
    forget_quality_ks,
    forget_quality_ks_grand_mean,
    forget_quality_ln_ks,
    forget_quality_log10_ks,
    histogram,
)
from .task_metrics import (
    below_one,
    closer_to_one,
    geometric_truth_ratios,
    grand_mean_truth_ratios,
    log_truth_ratio,
    probability_among_candidates,
    probability_of_answer,
    rouge1_recall,
    rouge_f,
    rouge_recall,
    tofu_truth_ratio,
    truth_ratio_arithmetic_closer_to_one,
    truth_ratio_geometric_below_one,
    truth_ratio_geometric_closer_to_one,
    truth_ratio_grand_mean_below_one,
    truth_ratio_grand_mean_closer_to_one,
    truth_ratio_score,
    truth_ratios,
)

__all__ = [
    "AGGREGATES",
    "DEFINITIONS",
    "MULTIPLE_CHOICE",
    "PARTS",
    "SETS",
    "Definition",
    "aggregate",
    "auc",
    "below_one",
    "closer_to_one",
    "definitions",
    "forget_quality",
    "forget_quality_aligned",
    "forget_quality_ks",
    "forget_quality_ks_grand_mean",
    "forget_quality_ln_ks",
    "forget_quality_log10_ks",
    "geometric_truth_ratios",
    "grand_mean_truth_ratios",
    "harmonic_mean",
    "histogram",
    "jensen_shannon_distance",
    "ks_p_value",
    "ks_statistic",
    "log10_ks_p_value",
    "log_truth_ratio",
    "mean",
    "probability_among_candidates",
    "probability_of_answer",
    "rouge1_recall",
    "rouge_f",
    "rouge_recall",
    "score",
    "score_task",
    "tofu_truth_ratio",
    "truth_ratio_arithmetic_closer_to_one",
    "truth_ratio_geometric_below_one",
    "truth_ratio_geometric_closer_to_one",
    "truth_ratio_grand_mean_below_one",
    "truth_ratio_grand_mean_closer_to_one",
    "truth_ratio_score",
    "truth_ratios",
]

# What `score` returns. Values are numbers, None, or the dicts "tasks", "definitions" and "also"; a
# TypedDict cannot hold both those three keys and the metrics' names of every set of definitions.
Scores = dict[str, Any]

PARTS = AGGREGATES["paper"]
DEFINITIONS = definitions("paper")


def aggregate(parts, tasks: dict[str, dict]) -> float | None:
    """The harmonic mean of the named parts; None where a task they are of is not among `tasks`.

    parts   [(task, part)], an entry of AGGREGATES
    tasks   {task: {part: number}}, as score_task gives them
    """
    have = all(task in tasks for task, _ in parts)
    return harmonic_mean(tasks[task][part] for task, part in parts) if have else None


def is_text(tasks) -> bool:
    """Whether these tasks are those of a model that sees no pictures."""
    return not set(tasks) & set(PICTURES)


def score_task(task: str, log: dict, metrics: str = "paper", text: bool = False) -> dict:
    """{"rouge", "probability", "truth_ratio", "n"} of one task's log; the task's name decides which probability.

    metrics  the set of definitions, one of SETS; tofu has "rouge1" and "rouge_f" too, None where the log does not tell
    text     see definitions.functions
    """
    log = {"task": task, **log}
    wanted = (
        "avg_gt_loss",
        "avg_paraphrased_loss",
        "rougeL_recall" if "rougeL_recall" in log else "generated_text",
    )
    for column in wanted[1:]:
        log_columns.same_records(
            log,
            log_columns.column_of(log, wanted[0]),
            log_columns.column_of(log, column),
            wanted[0],
            column,
        )
    found = {}
    for part, function in functions(metrics, task, text).items():
        stored = {"rouge1": "rouge1_recall", "rouge_f": "rougeL_f1"}.get(part)
        missing = part in OPTIONAL and stored not in log and "generated_text" not in log
        found[part] = None if missing else function(log)
    return found | {"n": len(log_columns.column_of(log, "avg_gt_loss"))}


def score(logs: Logs, gold_logs: Logs | None = None, metrics: str = "paper") -> Scores:
    """metrics.json of one model: the reported numbers, None where a task they are made of was not evaluated.

    logs, gold_logs  {task: log}; a task may carry the ending .json that TOFU gives it
    metrics          paper, released or tofu: whose definitions; all: the paper's, and the others' results beside them
    returns          {"real", "retain", "forget", "forget_quality", "real_faces", "real_world", "text_real", "text_retain",
                      "text_forget",
                      "tasks": {task: {"rouge", "probability", "truth_ratio", "n"}}, "definitions": {metric: name}}; the other
                      sets have their own numbers (AGGREGATES, QUALITIES), all has "also": {"released": {...}, "tofu": {...}}
    raises           UserError for an unknown task, a missing column, an empty log, a bad loss, other records in gold
    """
    check_set(metrics)
    if metrics == "all":
        return score(logs, gold_logs) | {
            "also": {name: score(logs, gold_logs, name) for name in SETS[1:]}
        }
    logs, gold_logs = (
        _by_task(logs, "logs"),
        None if gold_logs is None else _by_task(gold_logs, "gold logs"),
    )
    tasks = {task: score_task(task, log, metrics, is_text(logs)) for task, log in logs.items()}
    result = {
        metric: None
        for metric in ("real", "retain", "forget", *QUALITIES[metrics], *AGGREGATES[metrics])
    }
    for metric, parts in AGGREGATES[metrics].items():
        result[metric] = aggregate(parts, tasks)
    for metric, (function, candidates) in QUALITIES[metrics].items():
        task = next((task for task in candidates if task in logs), None)
        if gold_logs is not None and task is not None:
            if task not in gold_logs:
                raise UserError(
                    f"gold logs hold {', '.join(gold_logs)}; expected {task} too; evaluate gold on it"
                )
            result[metric] = function(
                {"task": task, **logs[task]}, {"task": f"{task} of gold", **gold_logs[task]}
            )
    return {
        **result,
        "tasks": tasks,
        "definitions": {metric: found.name for metric, found in definitions(metrics).items()},
    }


# ---- reading a log


def _by_task(logs: dict, what: str) -> dict:
    """The logs by task name without .json, in PARTS' order; UserError for a name that is no task's."""
    named = {task.removesuffix(".json"): log for task, log in logs.items()}
    known = dict.fromkeys(task for parts in PARTS.values() for task, _ in parts)
    for task, log in named.items():
        if task not in known or not isinstance(log, dict):
            raise UserError(f"{what}: {task!r} is no task with a log; known: {', '.join(known)}")
    if not named:
        raise UserError(f"{what}: hold no task; expected one or more of {', '.join(known)}")
    return {task: named[task] for task in known if task in named}
