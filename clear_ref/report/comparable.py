"""Checks that runs are comparable, so that one page can show them.

All runs of a page have one base and one gold, the same questions and the same evaluation settings.
Forget Quality is a distance from gold, and a collapse is a share of base's Retain: with two golds
or two bases, the numbers of a table would not mean the same. Logs are compared value by value.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line
from clear_ref.common.run_directory import RunRecord
from clear_ref.evaluation.log_format import Log, Logs

# Settings that decide which questions are asked, how long an answer may be, and how likelihoods
# are rounded.
SAME = ("forget", "limit", "max_new_tokens", "tasks", "eval_batch", "plain")
REPORT_OF_EACH = "make a report of each"
ADVICE = f"expected runs of one evaluation; {REPORT_OF_EACH}"


def check(runs: Iterable[tuple[Path, RunRecord, Mapping[str, Logs]]]) -> None:
    """UserError that names two runs and their first difference, unless all are comparable.

    runs    [(directory, settings.json, {"base", "gold", "unlearned": {task: log}})]; base or gold
            may be missing
    """
    first_settings: dict[str, tuple[PathName, Any]] = {}
    first_logs: dict[str, tuple[Path, Logs]] = {}
    for where, record, logs in runs:
        entries = {name: record["settings"].get(name) for name in SAME}
        values = {name: entry.get("value") for name, entry in entries.items() if entry}
        check_settings(where, values, first_settings)
        other, before = first_logs.setdefault("unlearned", (where, logs["unlearned"]))
        difference = difference_of_questions(logs["unlearned"], before)
        if difference:
            raise UserError(
                f"report {where}: asks other questions than {other}: {difference}; {ADVICE}"
            )
        for model in ("base", "gold"):
            if model in logs:
                _check_shared_model(where, model, logs, first_logs)


def check_settings(
    where: PathName, values: Mapping[str, Any], first: dict[str, tuple[PathName, Any]]
) -> None:
    """UserError if a setting of SAME differs from that of the first run.

    values  {setting: its value} of the run in `where`
    first   {setting: (first run, its value)}; filled by the first call
    """
    for name in SAME:
        value = values.get(name)
        other, before = first.setdefault(name, (where, value))
        if before != value:
            own, others = one_line(repr(value), 60), one_line(repr(before), 60)
            raise UserError(f"report {where}: {name} is {own}, of {other} {others}; {ADVICE}")


def _check_shared_model(
    where: Path, model: str, logs: Mapping[str, Logs], first: dict[str, tuple[Path, Logs]]
) -> None:
    """UserError if base or gold has other questions than its run, or differs from the first one."""
    difference = difference_of_questions(logs[model], logs["unlearned"])
    if difference:
        raise UserError(
            f"report {where}: {model} was asked other questions than the model: {difference}; "
            f"{ADVICE}"
        )
    other, before = first.setdefault(model, (where, logs[model]))
    difference = difference_of_values(logs[model], before)
    if difference:
        raise UserError(
            f"report {where}: its {model} is not that of {other}: {difference}; expected one "
            f"{model} for all runs of a page; {REPORT_OF_EACH}"
        )


def difference_of_questions(ours: Logs, theirs: Logs) -> str:
    """The first difference between the questions of two models' logs, in words; "" if none."""
    if ours is theirs:
        return ""
    for task in (*ours, *theirs):
        if (task in ours) != (task in theirs):
            return f"{task} is in only one of them"
    for task, log in ours.items():
        difference = _difference_of_texts(task, log, theirs[task])
        if difference:
            return difference
    return ""


def _difference_of_texts(task: str, log: Log, other: Log) -> str:
    """The first difference between the prompts and expected answers of one task; "" if none."""
    if log.get("config") != other.get("config"):
        return f"{task} is of {log.get('config')}, there of {other.get('config')}"
    texts = log.get("generated_text", {})
    others = other.get("generated_text", {})
    in_one_only = sorted(set(texts) ^ set(others))
    if in_one_only:
        return (
            f"{task} has {len(texts)} records, there {len(others)}; "
            f"record {in_one_only[0]} is in only one"
        )
    for index in texts:
        for part, verb in ((0, "is asked"), (2, "expects")):
            here = _part(texts[index], part)
            there = _part(others[index], part)
            if here != there:
                return f"record {index} of {task} {verb} {_quoted(here)}, there {_quoted(there)}"
    return ""


def _part(texts: list[str], part: int) -> object:
    """One of [prompt, generated, expected]; the whole value if it is something else."""
    return texts[part] if isinstance(texts, list) and len(texts) == 3 else texts


def difference_of_values(ours: Logs, theirs: Logs) -> str:
    """The first difference between two logs of what should be one model, in words; "" if none."""
    if ours is theirs:
        return ""
    for task, log in ours.items():
        other_log = cast(dict[str, object], theirs[task])
        for column, value in log.items():
            other = other_log.get(column)
            if value == other:
                continue
            if isinstance(value, dict) and isinstance(other, dict):
                index = next(
                    index for index in (*value, *other) if value.get(index) != other.get(index)
                )
                return (
                    f"{column} of record {one_line(index, 40)} "
                    f"of {task} is {_quoted(value.get(index))}, "
                    f"there {_quoted(other.get(index))}"
                )
            return f"{column} of {task} is {_quoted(value)}, there {_quoted(other)}"
    return ""


def _quoted(value: object) -> str:
    """The value as a short text for a message."""
    return one_line(repr(value), 70)
