"""A log of a model that an audit reads back, checked: it may have been changed or damaged."""

from collections.abc import Mapping, Sequence
from typing import cast

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.evaluation import contradictions, log_columns
from clear_ref.evaluation.log_format import LOG_FORMAT, Log, RecordLog
from clear_ref.evaluation.logs import FORMATS, Evaluation
from clear_ref.evaluation.tasks import Task


def checked_log(found: Mapping[str, object], task: Task, indices: Sequence[str]) -> Log:
    """`found` as a log of these records.

    indices  of the records that the task asks
    raises   UserError that names the task, and the column and the record: for a log of another
             task, a column that is missing or has other records, a value that is no finite number
             or that the record's other values contradict
    """
    of = {
        "format": LOG_FORMAT,
        "task": task.name,
        "set": task.set_name,
        "config": task.config,
    }
    for key, value in of.items():
        if found.get(key) != value:
            raise UserError(f"{key} is {shown(found.get(key))}; expected {shown(value)}")
    for column in RecordLog.__annotations__:
        own = log_columns.column_of(found, column)
        log_columns.same_records(found, indices, own, "the data", column)
    log = cast(Log, found)
    contradictions.check(Evaluation((), FORMATS[0], {task.name: log}, {}))
    return log
