"""score LOG: every number of evaluation logs, each with its definition's name and version."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.evaluation import (
    bootstrap,
    contradictions,
    definitions,
    logs,
    membership,
    metrics,
    missing_numbers,
    quality,
    wrong_definitions,
)
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.named_values import values_of
from clear_ref.report import terminal_score

from .given import settings_from
from .output import Output
from .settings import Score


def command(arguments: Namespace) -> Output:
    """What `score` prints."""
    return Output(run(arguments.log, settings_from(arguments, Score)), terminal_score.score)


def run(paths: list[str], settings: Score) -> dict[str, Any]:
    """Every number of these logs.

    returns  {"command", "log", "format", "gold", "gold_format", "records", "unread", "metrics",
             "definitions", "numbers", "wrong", "missing", "inputs"}, with
             unread       names of tasks in the log that nothing here knows
             metrics      {set: what metrics.score returns; the scores in an open-unlearning log as
                          "membership" of tofu, which is then open-unlearning's own set}
             definitions  {set: {metric: name}}
             numbers      [{"metric", "value", "definition", "version", "direction", "source",
                          "metrics": [set, ...], "interval": [low, high] or null}], one for each
                          metric and definition; 95 %, over the records (evaluation/bootstrap.py)
             wrong        what mistakes of public evaluations give (wrong_definitions.py), with the
                          set mmunlearner; not among the numbers
             missing      {metric: the reason why it has no value}, of every number of these sets
                          that has none
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
        "unread": list(log.unread),
        "metrics": sets,
        "definitions": {name: result["definitions"] for name, result in sets.items()},
        "numbers": numbers(sets, log.tasks, intervals_of(sets, log, gold)),
        "wrong": wrong_definitions.wrong_numbers(log.tasks) if "mmunlearner" in sets else [],
        "missing": missing_numbers.reasons(sets, log.tasks, gold.tasks if gold else None),
        "inputs": run_directory.hashes([*log.files, *(gold.files if gold else ())]),
    }


def intervals_of(
    sets: dict[str, dict], log: logs.Evaluation, gold: logs.Evaluation | None
) -> dict[str, dict[str, bootstrap.Interval]]:
    """{set: {metric or "TASK PART": its 95 % interval}}."""
    found = {
        name: bootstrap.intervals(log.tasks, gold.tasks if gold else None, name, result)
        for name, result in sets.items()
    }
    if "membership" in sets.get("tofu", {}):
        found["tofu"] |= membership.membership_intervals(log.scores, gold.scores if gold else None)
    return found


def numbers(
    sets: dict[str, dict], tasks: Logs, intervals: dict[str, dict[str, bootstrap.Interval]]
) -> list[dict[str, Any]]:
    """Every number of metrics.score's results, once for each definition.

    sets       {set of definitions: result}
    tasks      the model's logs
    intervals  what intervals_of returns
    returns  [{"metric", "value", "definition", "version", "direction", "source", "metrics": sets}];
             a part of a task is called "TASK PART", and parts come last
    """
    named: dict[tuple[str, float, definitions.Definition], list[str]] = {}
    for name, result in sets.items():
        computed = definitions.set_of(name, tasks.values())
        for metric, value, definition in values_of(computed, result):
            if value is not None:
                key = (metric, value, replace(definition, text=""))
                named.setdefault(key, []).append(name)
    metric_names = dict.fromkeys(metric for metric, _, _ in named)
    order = sorted(metric_names, key=lambda metric: " " in metric)
    entries = sorted(named.items(), key=lambda entry: order.index(entry[0][0]))
    return [
        {
            "metric": metric,
            "value": value,
            "definition": definition.name,
            "version": definition.version,
            "direction": definition.direction,
            "source": definition.source,
            "metrics": of_sets,
            "interval": intervals[of_sets[0]].get(metric),
        }
        for (metric, value, definition), of_sets in entries
    ]
