"""score LOG: every number that evaluation logs hold, under the definitions asked for, each with its definition's name."""

from pathlib import Path

from clear_ref.common import run_directory
from clear_ref.evaluation import definitions, logs, membership, metrics, quality

NO_GOLD = (
    "no gold log was given; expected --gold LOG, the log of a model that never saw the forget set"
)
NO_FORGET_TASK = "the log holds no forget task; expected one of " + ", ".join(
    definitions.QUALITY_TASKS
)


def run(paths: list[str], settings) -> dict:
    """What `score` prints: {"log", "format", "gold", "gold_format", "records", "metrics", "definitions", "numbers", "missing",
    "inputs"}.

    metrics      {set: what metrics.score returns; open-unlearning's scores of their own as "membership" of tofu}
    definitions  {set: {metric: name}}
    numbers      [{"metric", "value", "definition", "metrics": [set, ...]}], one for each metric and definition
    missing      {metric: the reason why it has no value}, of the numbers that a gold log would give
    raises       UserError for logs of no known format, gold of another split or other questions, the same log twice
    """
    definitions.check_set(settings.metrics)
    ours = logs.read(*paths)
    gold = logs.read(settings.gold) if settings.gold else None
    task = next((task for task in definitions.QUALITY_TASKS if task in ours.tasks), None)
    if gold and task in gold.tasks:
        quality.refuse_identical({**ours.tasks[task], "task": task}, gold.tasks[task])
    found = metrics.score(ours.tasks, gold.tasks if gold else None, settings.metrics)
    also = found.pop("also", {})
    sets = {settings.metrics if settings.metrics != "all" else "paper": found, **also}
    if "tofu" in sets and ours.scores:
        sets["tofu"]["membership"] = membership.membership(
            ours.scores, gold.scores if gold else None
        )
        sets["tofu"]["definitions"] |= {
            name: membership.definition(name).name for name in sets["tofu"]["membership"]
        }
    reason = NO_FORGET_TASK if task is None else None if gold else NO_GOLD
    asked = {metric: of for name in sets for metric, (_, of) in definitions.QUALITIES[name].items()}
    return {
        "command": "score",
        "log": [str(Path(path)) for path in paths],
        "format": ours.format,
        "gold": settings.gold or None,
        "gold_format": gold.format if gold else None,
        "records": {name: entry["n"] for name, entry in found["tasks"].items()},
        "metrics": sets,
        "definitions": {name: one["definitions"] for name, one in sets.items()},
        "numbers": numbers(sets),
        "missing": {
            metric: reason
            for metric, of in asked.items()
            if reason and (task is None or set(of) & set(ours.tasks))
        },
        "inputs": run_directory.hashes([*ours.files, *(gold.files if gold else ())]),
    }


def numbers(sets: dict[str, dict]) -> list[dict]:
    """Every number of metrics.score's results once for each definition: {"metric", "value", "definition", "metrics": sets}.

    sets    {set of definitions: result}; a part of a task is called "TASK PART"
    """
    named = {}
    for name, one in sets.items():
        found = [
            (metric, one[metric], one["definitions"][metric])
            for metric in one["definitions"]
            if metric in one
        ]
        found += [
            (metric, value, one["definitions"][metric])
            for metric, value in one.get("membership", {}).items()
        ]
        text = metrics.is_text(one["tasks"])
        found += [
            (f"{task} {part}", one["tasks"][task][part], definitions.definition(function).name)
            for task in one["tasks"]
            for part, function in definitions.functions(name, task, text).items()
        ]
        for metric, value, definition in found:
            if value is not None:
                named.setdefault((metric, value, definition), []).append(name)
    order = sorted(
        dict.fromkeys(metric for metric, _, _ in named), key=lambda metric: " " in metric
    )  # parts of tasks come last
    return [
        {"metric": metric, "value": value, "definition": definition, "metrics": of}
        for (metric, value, definition), of in sorted(
            named.items(), key=lambda entry: order.index(entry[0][0])
        )
    ]
