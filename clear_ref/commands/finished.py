"""What `all`, `sweep` and `--sequence` read back of a run that is finished, checked.

It may have been changed: errors name the file and what to remove, so that a run writes it again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import FETCH_AGAIN, read_json
from clear_ref.common.guards import is_guards
from clear_ref.evaluation import log_columns
from clear_ref.evaluation.log_format import LOG_FORMAT, Log, Logs
from clear_ref.evaluation.metrics import score_task
from clear_ref.report.comparable import REPORT_OF_EACH, difference_of_questions

AGAIN = (
    f"remove {run_directory.REPORT_FILE} of that run, and the same command finishes the run again"
)
WHOLE_RUN = "remove the directory of that run, and the same command does the run again"
PARTS = {"rouge", "probability", "truth_ratio", "n"}
NOT_NUMBERS = ("tasks", "definitions", "also")
SCORES = {"real", "retain", "forget"}  # numbers of every set of definitions


def is_begun(out: Path) -> bool:
    """Whether a run of `all`, `sweep` or a sequence has begun in its directory.

    raises  UserError for files without a settings.json, and for one that no run writes
    """
    path = out / run_directory.SETTINGS_FILE
    if path.exists():
        with read_back(path, WHOLE_RUN):
            run_directory.read_record(path)
        return True
    if run_directory.holds_files(out):
        raise UserError(f"{path}: no such file, and {out} holds other files; {WHOLE_RUN}")
    return False


def finished_summary(out: Path) -> dict[str, Any] | None:
    """The summary of a run that is finished already, else None. report.html is written last.

    raises  UserError if metrics.json is missing or is not what such a run writes
    """
    if not (out / run_directory.REPORT_FILE).exists():
        return None
    path = out / run_directory.METRICS_FILE
    with read_back(path):
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


def finished_run(out: Path, logs: Mapping[str, Logs]) -> dict[str, Any] | None:
    """finished_summary, of a run whose logs can be read back too.

    logs    of base and gold, of the same questions
    raises  UserError as finished_summary, logs_of and logs_in
    """
    summary = finished_summary(out)
    if summary is not None:
        logs_in(out, logs)
        for model, known in logs.items():
            logs_of(out, model, list(known))
    return summary


def logs_of(directory: Path, model: str, tasks: Sequence[str]) -> Logs:
    """The logs of base or gold in a run directory, for these tasks, in their order.

    raises  UserError for a log that is missing or that no run writes
    """
    folder = directory / run_directory.LOGS_DIRECTORY / model
    return {task: _read_log(folder / f"{task}.json", task) for task in tasks}


def logs_in(directory: Path, like: Mapping[str, Logs]) -> Logs:
    """The logs of the unlearned model of a run directory, for the tasks of `like`.

    raises  UserError for a log that is missing, that no run writes, or that is of other questions
            than base's
    """
    found: Logs = {}
    for task, base in like["base"].items():
        path = directory / run_directory.LOGS_DIRECTORY / f"{task}.json"
        log = _read_log(path, task)
        same = log.get("set") == base.get("set") and list(log["avg_gt_loss"]) == list(
            base["avg_gt_loss"]
        )
        if not same or difference_of_questions({task: log}, {task: base}):
            raise UserError(f"{path}: is not a log of the records of base's; {AGAIN}")
        found[task] = log
    return found


def _read_log(path: Path, task: str) -> Log:
    """A log of a finished run, with every column that numbers and pages are made of."""
    with read_back(path):
        log = read_json(path)
        if (log.get("format"), log.get("task")) != (LOG_FORMAT, task):
            raise UserError(f"{path}: is not the log of {task} that a run writes")
        score_task(task, cast(Log, log))
        log_columns.texts(log)
    return cast(Log, log)


@contextmanager
def read_back(path: Path, cure: str = AGAIN) -> Iterator[None]:
    """Errors that are raised here name the file or directory, and say how a run writes it again."""
    try:
        yield
    except UserError as error:
        said = str(error)
        for advice in (FETCH_AGAIN, REPORT_OF_EACH):
            said = said.removesuffix(f"; {advice}")
        where = "" if str(path) in said else f"{path}: "
        raise UserError(f"{where}{said}; {cure}") from None
