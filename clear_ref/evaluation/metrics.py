"""The benchmark's metrics: pure functions of evaluation logs.

A log is a dict of columns; a column is a dict from a record's index, as text, to a value
(log_format.py), as in TOFU's and the released eval_log_aggregated.json. Every mean is exactly
rounded (math.fsum), so the order of records and candidates does not change a bit. Losses are nll
per token in nats; ratios are formed from their differences, so losses of 1e4 neither overflow nor
give 0/0.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown

from . import log_columns
from .choices import CHOICE_TASKS, LEAKAGE, PROBE_TASKS
from .definitions import (
    AGGREGATES,
    COMBINED,
    MULTIPLE_CHOICE,
    OPTIONAL,
    PICTURES,
    QUALITIES,
    QUALITY_TASKS,
    SETS,
    Definition,
    Part,
    QualityFunction,
    check_set,
    definitions,
    functions,
    set_of,
)
from .distances import auc, jensen_shannon_distance, ks_p_value, ks_statistic, log10_ks_p_value
from .exact_means import harmonic_mean, mean
from .log_format import Log, Logs
from .open_mmunlearning import has_no_truth_ratio
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

# Metrics of one task: "rouge", "probability", "truth_ratio", "n" (number of records); in some sets
# also others (definitions.functions).
TaskScores = dict[str, float | None]
# What `score` returns. The values are numbers, None, and the dicts "tasks", "definitions" and
# "also"; a TypedDict cannot hold these three keys and the numbers' names of every set.
Scores = dict[str, Any]

PARTS = AGGREGATES["paper"]
DEFINITIONS = definitions("paper")
# The column in which a log may hold an optional metric.
OPTIONAL_COLUMNS = {"rouge1": "rouge1_recall", "rouge_f": "rougeL_f1"}


def aggregate(parts: Iterable[Part], tasks: Mapping[str, TaskScores]) -> float | None:
    """The harmonic mean of the named parts, of one part the part itself; None if a part was not
    evaluated.

    parts   [(task, metric)], an entry of AGGREGATES
    tasks   {task: {metric: number}}, as score_task returns them
    """
    values = []
    for task, metric in parts:
        if task not in tasks:
            return None
        value = tasks[task].get(metric)
        if value is None:
            return None
        values.append(value)
    return values[0] if len(values) == 1 else harmonic_mean(values)


def is_text(tasks: Iterable[str]) -> bool:
    """True if these are tasks of a model that sees no pictures."""
    return not set(tasks) & {*PICTURES, *CHOICE_TASKS}


def score_task(task: str, log: Log, metrics: str = "paper", text: bool = False) -> TaskScores:
    """{"rouge", "probability", "truth_ratio", "n"} of one task's log.

    task     its name decides which probability is used
    metrics  the set of definitions, one of SETS; tofu adds "rouge1" and "rouge_f", mmunlearner and
             open_mmunlearning the metrics of texts; None if the log has neither the column nor the
             text, and for the truth ratio of logs that have no paraphrases
    text     see definitions.functions
    """
    metrics = set_of(metrics, [log])
    log = {**log, "task": log.get("task", task)}
    rouge_column = "rougeL_recall" if "rougeL_recall" in log else "generated_text"
    answers = log_columns.column_of(log, "avg_gt_loss")
    no_truth_ratio = has_no_truth_ratio(log)
    columns = (rouge_column,) if no_truth_ratio else ("avg_paraphrased_loss", rouge_column)
    for column in columns:
        values = log_columns.column_of(log, column)
        log_columns.same_records(log, answers, values, "avg_gt_loss", column)
    scores: TaskScores = {}
    for metric, function in functions(metrics, task, text).items():
        missing = (
            metric in OPTIONAL
            and OPTIONAL_COLUMNS.get(metric, "generated_text") not in log
            and "generated_text" not in log
        ) or (metric == "truth_ratio" and no_truth_ratio)
        scores[metric] = None if missing else function(log)
    scores["n"] = len(answers)
    return scores


def score(logs: Logs, gold_logs: Logs | None = None, metrics: str = "paper") -> Scores:
    """metrics.json of one model: the reported numbers, None if a task they need was not evaluated.

    logs, gold_logs  {task: log}; a task's name may end with .json, as in TOFU's files
    metrics          the set of definitions, one of SETS (tofu for logs of open-unlearning: that
                     one's); all: the paper's, with the results of the others under "also"
    returns          {"real", "retain", "forget", "forget_quality", "real_faces", "real_world",
                      "text_real", "text_retain", "text_forget",
                      "tasks": {task: TaskScores}, "definitions": {number: definition's name}};
                     the other sets have their own numbers (AGGREGATES, QUALITIES, COMBINED); all
                     adds "also": {"released": {...}, "tofu": {...}, ...}; logs of a probe
                     (leakage.py) add "leakage" there
    raises           UserError for an unknown task, a missing column, an empty log, a loss that is
                     not a finite number, other records in gold
    """
    check_set(metrics)
    also = SETS[1:] if metrics == "all" else ()
    if any(task.removesuffix(".json") in PROBE_TASKS for task in logs):
        also = (*also, LEAKAGE)
    found = score_by(logs, gold_logs, SETS[0] if metrics == "all" else metrics)
    if also:
        found["also"] = {name: score_by(logs, gold_logs, name) for name in also}
    return found


def score_by(logs: Logs, gold_logs: Logs | None, metrics: str) -> Scores:
    """`score` by one set of definitions alone; leakage's is one of them."""
    logs = _by_task(logs, "logs")
    if gold_logs is not None:
        gold_logs = _by_task(gold_logs, "gold logs")
    metrics = set_of(metrics, logs.values())
    text = is_text(logs)
    tasks = {task: score_task(task, log, metrics, text) for task, log in logs.items()}
    # The order of the numbers in metrics.json.
    order = ["real", "retain", "forget", *QUALITIES[metrics], *AGGREGATES[metrics]]
    result: Scores = dict.fromkeys(order)
    for number, parts in AGGREGATES[metrics].items():
        result[number] = aggregate(parts, tasks)
    if gold_logs is not None:
        for number, (function, quality_tasks) in QUALITIES[metrics].items():
            result[number] = _quality(function, quality_tasks, logs, gold_logs)
    for number, combine in COMBINED.get(metrics, {}).items():
        result[number] = combine(tasks, result)
    known = definitions(metrics)
    result["tasks"] = tasks
    result["definitions"] = {number: definition.name for number, definition in known.items()}
    return result


def versions_of(metrics: str) -> dict[str, int]:
    """{number: version of its definition} of a set; of all: of the first one."""
    known = definitions(SETS[0] if metrics == "all" else metrics)
    return {number: definition.version for number, definition in known.items()}


def sets_of(scores: Scores, metrics: str) -> dict[str, Scores]:
    """{set of definitions: its numbers} of a result of `score` by `metrics`."""
    first = SETS[0] if metrics == "all" else metrics
    own = {name: value for name, value in scores.items() if name != "also"}
    return {first: own, **scores.get("also", {})}


def _quality(
    function: QualityFunction, quality_tasks: tuple[str, ...], logs: Logs, gold_logs: Logs
) -> float | None:
    """The function of both models' logs of the first of the tasks that was evaluated; or None.

    raises  UserError if gold was evaluated on no forget task that these logs hold
    """
    task = next((task for task in quality_tasks if task in logs), None)
    if task is None:
        return None
    if task not in gold_logs:
        if any(each in gold_logs for each in QUALITY_TASKS if each in logs):
            return None  # gold was evaluated on the forget set, but not on this task
        raise UserError(
            f"gold logs hold {', '.join(gold_logs)}; expected {task} too; evaluate gold on it"
        )
    log: Log = {**logs[task], "task": logs[task].get("task", task)}
    gold_log: Log = {
        **gold_logs[task],
        "task": gold_logs[task].get("task", f"{task} of gold"),
    }
    if has_no_truth_ratio(log) or has_no_truth_ratio(gold_log):
        return None
    return function(log, gold_log)


def _by_task(logs: Logs, what: str) -> Logs:
    """The logs by task name without .json, in the order of PARTS.

    raises  UserError for an unknown task, or if there is none
    """
    named = {task.removesuffix(".json"): log for task, log in logs.items()}
    of_parts = (task for parts in PARTS.values() for task, _ in parts)
    known = dict.fromkeys([*of_parts, *CHOICE_TASKS, *PROBE_TASKS])
    for task, log in named.items():
        if task not in known or not isinstance(log, dict):
            raise UserError(
                f"{what}: {shown(task)} is not a known task with a log; expected one or more of "
                f"{', '.join(known)}"
            )
    if not named:
        raise UserError(f"{what}: no task; expected one or more of {', '.join(known)}")
    return {task: named[task] for task in known if task in named}
