"""What `all` and `sweep` read back of a run that is finished, checked: it may have been changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import read_json
from clear_ref.common.guards import is_guards
from clear_ref.evaluation import log_columns, logs
from clear_ref.evaluation.log_format import Log, Logs

AGAIN = (
    f"remove {run_directory.REPORT_FILE} of that run, and the same command finishes the run again"
)
PARTS = {"rouge", "probability", "truth_ratio", "n"}
NOT_NUMBERS = ("tasks", "definitions", "also")
SCORES = {"real", "retain", "forget"}  # numbers of every set of definitions


def finished_summary(out: Path) -> dict[str, Any] | None:
    """The summary of a run that is finished already, else None. report.html is written last.

    raises  UserError if metrics.json is not what such a run writes
    """
    if not (out / run_directory.REPORT_FILE).exists():
        return None
    path = out / run_directory.METRICS_FILE
    summary = read_json(path)
    models, seconds = summary.get("models"), summary.get("seconds")
    complete = (
        isinstance(models, dict)
        and _are_scores(models.get("unlearned"))
        and isinstance(seconds, dict)
        and all(is_number(seconds.get(phase)) for phase in ("train", "evaluate"))
        and type(summary.get("steps")) is int
        and is_guards(summary.get("guards", []))
        and _are_intervals(summary.get("intervals", {}))
    )
    if not complete:
        raise UserError(
            f"{path}: is not the summary of a finished run; expected models.unlearned, seconds, "
            f"steps, and guards and intervals if there are any: {AGAIN}"
        )
    return summary


def _are_scores(found: object) -> bool:
    """True for the metrics of one model: numbers, those of each task, names of definitions."""
    if not isinstance(found, dict) or not found.keys() >= SCORES:
        return False
    return all(_is_set(each) for each in (found, *_values(found.get("also", {}))))


def _is_set(found: object) -> bool:
    """True for metrics by one set of definitions."""
    if not isinstance(found, dict):
        return False
    of_tasks, names = _values(found.get("tasks", {})), _values(found.get("definitions", {}))
    numbers = {name: found[name] for name in found if name not in NOT_NUMBERS}
    return (
        _are_numbers(numbers)
        and all(_are_numbers(each) and each.keys() >= PARTS for each in of_tasks)
        and all(isinstance(name, str) for name in names)
    )


def _are_intervals(found: object) -> bool:
    """True for {model: {set of definitions: {number: [low, high]}}}."""
    sets = [own for model in _values(found) for own in _values(model)]
    pairs = [pair for own in sets for pair in _values(own)]
    return all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in pairs
    )


def _values(found: object) -> list[Any]:
    """The values of an object; [None], which is no part of metrics, for anything else."""
    return list(found.values()) if isinstance(found, dict) else [None]


def _are_numbers(found: object) -> bool:
    """True for an object of numbers and nulls."""
    return isinstance(found, dict) and all(
        value is None or is_number(value) for value in found.values()
    )


def logs_of(directory: Path, model: str, tasks: Sequence[str]) -> Logs:
    """The logs of base or gold in a run directory, for these tasks, in their order.

    raises  UserError for a log that is missing
    """
    folder = directory / run_directory.LOGS_DIRECTORY / model
    missing = next((task for task in tasks if not (folder / f"{task}.json").is_file()), None)
    if missing:
        raise UserError(f"{folder / missing}.json: is missing; {AGAIN}")
    found = logs.read(folder).tasks
    return {task: found[task] for task in tasks}


def logs_in(directory: Path, like: Mapping[str, Logs]) -> Logs:
    """The logs of the unlearned model of a run directory, for the tasks of `like`.

    raises  UserError for a log of other records than base's, or with a loss that is no number
    """
    found: Logs = {}
    for task, base in like["base"].items():
        path = directory / run_directory.LOGS_DIRECTORY / f"{task}.json"
        log = read_json(path)
        same = all(log.get(key) == base.get(key) for key in ("task", "set", "config"))
        columns = log.get("avg_gt_loss"), base["avg_gt_loss"]
        if not same or not isinstance(columns[0], dict) or list(columns[0]) != list(columns[1]):
            raise UserError(f"{path}: is not a log of the records of base's; {AGAIN}")
        log_columns.numbers(log, "avg_gt_loss")
        found[task] = cast(Log, log)
    return found
