"""score LOG: every number of evaluation logs, each with the name of its definition."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.evaluation import contradictions, definitions, logs, membership, metrics, quality
from clear_ref.evaluation.log_format import Logs
from clear_ref.report import terminal_score

from .given import settings_from
from .output import Output
from .settings import Score

NO_GOLD = (
    "no gold log was given; expected --gold LOG, the log of a model that never saw the forget set"
)
NO_FORGET_TASK = "the log holds no forget task; expected one of " + ", ".join(
    definitions.QUALITY_TASKS
)


def command(arguments: Namespace) -> Output:
    """What `score` prints."""
    return Output(run(arguments.log, settings_from(arguments, Score)), terminal_score.score)


def run(paths: list[str], settings: Score) -> dict[str, Any]:
    """Every number of these logs.

    returns  {"command", "log", "format", "gold", "gold_format", "records", "metrics",
             "definitions", "numbers", "missing", "inputs"}, with
             metrics      {set: what metrics.score returns; the scores in an open-unlearning log as
                          "membership" of tofu, which is then open-unlearning's own set}
             definitions  {set: {metric: name}}
             numbers      [{"metric", "value", "definition", "metrics": [set, ...]}], one for each
                          metric and definition
             missing      {metric: the reason why it has no value}, of numbers that need gold
    raises   UserError for logs of an unknown format, a gold log of another split or other
             questions, the same log twice, a value that the log's own records contradict
    """
    log = logs.read(*paths)
    gold = logs.read(settings.gold) if settings.gold else None
    task = next((task for task in definitions.QUALITY_TASKS if task in log.tasks), None)
    if gold and task in gold.tasks:
        quality.refuse_identical({**log.tasks[task], "task": task}, gold.tasks[task])
    for evaluation in (log, gold):
        if evaluation:
            contradictions.check(evaluation)
    found = metrics.score(log.tasks, gold.tasks if gold else None, settings.metrics)
    also = found.pop("also", {})
    sets = {settings.metrics if settings.metrics != "all" else "paper": found, **also}
    if "tofu" in sets and log.scores:
        scored = membership.membership(log.scores, gold.scores if gold else None)
        sets["tofu"]["membership"] = scored
        sets["tofu"]["definitions"] |= {name: membership.definition(name).name for name in scored}
    return {
        "command": "score",
        "log": [str(Path(path)) for path in paths],
        "format": log.format,
        "gold": settings.gold or None,
        "gold_format": gold.format if gold else None,
        "records": {name: entry["n"] for name, entry in found["tasks"].items()},
        "metrics": sets,
        "definitions": {name: result["definitions"] for name, result in sets.items()},
        "numbers": numbers(sets, log.tasks),
        "missing": missing(list(sets), set(log.tasks), task is not None, gold is not None),
        "inputs": run_directory.hashes([*log.files, *(gold.files if gold else ())]),
    }


def missing(
    sets: list[str], tasks: set[str], has_forget_task: bool, has_gold: bool
) -> dict[str, str]:
    """{metric: reason} of the metrics that compare with gold and have no value."""
    if has_forget_task and has_gold:
        return {}
    reason = NO_GOLD if has_forget_task else NO_FORGET_TASK
    reasons = {}
    for name in sets:
        for metric, (_, of_tasks) in definitions.QUALITIES[name].items():
            if not has_forget_task or set(of_tasks) & tasks:
                reasons[metric] = reason
    return reasons


def numbers(sets: dict[str, dict], tasks: Logs) -> list[dict[str, Any]]:
    """Every number of metrics.score's results, once for each definition.

    sets     {set of definitions: result}
    tasks    the model's logs
    returns  [{"metric", "value", "definition", "metrics": sets}]; a part of a task is called
             "TASK PART", and parts come last
    """
    named: dict[tuple[str, float, str], list[str]] = {}
    for name, result in sets.items():
        computed = definitions.set_of(name, tasks.values())
        for metric, value, definition in values_of(computed, result):
            if value is not None:
                named.setdefault((metric, value, definition), []).append(name)
    metric_names = dict.fromkeys(metric for metric, _, _ in named)
    order = sorted(metric_names, key=lambda metric: " " in metric)
    entries = sorted(named.items(), key=lambda entry: order.index(entry[0][0]))
    return [
        {"metric": metric, "value": value, "definition": definition, "metrics": of_sets}
        for (metric, value, definition), of_sets in entries
    ]


def values_of(name: str, result: dict) -> list[tuple[str, Any, str]]:
    """(metric, value or None, definition's name) of one set of definitions."""
    names = result["definitions"]
    found = [(metric, result[metric], names[metric]) for metric in names if metric in result]
    for metric, value in result.get("membership", {}).items():
        found.append((metric, value, names[metric]))
    text = metrics.is_text(result["tasks"])
    for task, parts in result["tasks"].items():
        for part, function in definitions.functions(name, task, text).items():
            found.append((f"{task} {part}", parts[part], definitions.definition(function).name))
    return found
