"""Numbers of a sequence of requests: what is known of each request's people after each of them.

The model after every request is asked the whole forget set, as any run is. The log of a task is
divided by request, so a number of a request is Forget or Forget text of the paper (or, with
--metrics released, of the released code) on the records of its people alone. Retain and Real are of
all records. Forget Quality is left out: its histograms need more records than one request has.

Gold is one model, which saw nobody of the whole sequence. So it is the reference for every request
after every request; for Retain it is one after the last request alone, as before that others who
are requested later are still retained.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from .bootstrap import Interval, intervals
from .definitions import AGGREGATES, Definition, definitions, label_of
from .log_format import Log, Logs
from .metrics import score

OF_REQUEST = ("forget", "text_forget")
OF_ALL = ("retain", "text_retain", "real")
CHANGE = Definition(
    "change_since_own_request",
    "number after the last request minus the number right after the request's own",
    """The number of a request's people after the last request, minus that right after their own.

    formula m(after request n) - m(after request k), k the request's own number; 0 for the last one
    source  this project
    flaw    0 also if nothing was forgotten in the first place: read it beside the numbers
    """,
    "this project",
)


class State(TypedDict):
    """The numbers of one model of the sequence.

    after     number of the requests that it has forgotten; None: gold
    requests  {label: {number: value}} of each request's people
    all       {number: value} of the records of everybody
    intervals {label, or "": {number: [low, high]}}, 95 %, over the records
    """

    after: int | None
    requests: dict[str, dict[str, float | None]]
    all: dict[str, float | None]
    intervals: dict[str, dict[str, Interval]]


def part_of(log: Log, indices: Sequence[str]) -> Log:
    """The log with some records alone."""
    found: dict[str, Any] = {}
    for column, values in log.items():
        found[column] = values
        if isinstance(values, dict):
            found[column] = {index: values[index] for index in indices if index in values}
    return cast(Log, found)


def tasks_of_requests() -> list[list[str]]:
    """The tasks of each number of a request, which needs all of them (paper and released)."""
    return [list(dict.fromkeys(task for task, _ in AGGREGATES["paper"][n])) for n in OF_REQUEST]


def state(
    logs: Logs, records: Mapping[str, Mapping[str, Sequence[str]]], after: int | None, metrics: str
) -> State:
    """The numbers of one model.

    records  {label of a request: {task of the forget set: indices of its records}}
    metrics  paper or released
    """
    found: State = {"after": after, "requests": {}, "all": {}, "intervals": {}}
    for label, tasks in records.items():
        own = {task: part_of(logs[task], indices) for task, indices in tasks.items() if indices}
        found["requests"][label], found["intervals"][label] = _numbers(own, OF_REQUEST, metrics)
    found["all"], found["intervals"][""] = _numbers(logs, OF_ALL, metrics)
    return found


def _numbers(
    logs: Logs, names: Sequence[str], metrics: str
) -> tuple[dict[str, float | None], dict[str, Interval]]:
    """({number: value or None}, {number: its interval}) of some logs."""
    if not logs:
        return dict.fromkeys(names), {}
    scores = score(logs, None, metrics)
    between = intervals(logs, None, metrics, scores)
    return (
        {name: scores[name] for name in names},
        {name: between[name] for name in names if name in between},
    )


def changes(states: Sequence[State]) -> dict[str, dict[str, float | None]]:
    """{label: {number: CHANGE}} of each request.

    states  after 0, 1, ... n requests, in this order
    """
    last = states[-1]["requests"]
    found: dict[str, dict[str, float | None]] = {}
    for number, label in enumerate(last, 1):
        own = states[number]["requests"][label]
        found[label] = {}
        for name, value in last[label].items():
            before = own[name]
            found[label][name] = None if value is None or before is None else value - before
    return found


def definition_labels(metrics: str) -> dict[str, str]:
    """{number: name and version of its definition}."""
    known = definitions(metrics)
    found = {name: label_of(known[name].name) for name in (*OF_REQUEST, *OF_ALL)}
    return found | {"change": CHANGE.label}
