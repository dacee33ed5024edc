"""METHOD --sequence: requests to forget, one after another (sequences.md).

Each request is an ordinary run of METHOD in OUT/requestN, with --request N and the model that the
request before left, OUT/requestM/model. A request that is finished is not repeated.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clear_ref.common import distributed, run_directory
from clear_ref.common.atomic import new_directory
from clear_ref.common.devices import dtype_of
from clear_ref.common.errors import Notice, UserError
from clear_ref.common.files import one_line, write_json
from clear_ref.data.records import read_rows
from clear_ref.evaluation import sequence
from clear_ref.evaluation.log_format import Logs
from clear_ref.loop.history import read_history, write_history
from clear_ref.loop.requests import Requests, read_requests, rows_of_nobody
from clear_ref.mini.directories import data_directory
from clear_ref.report import sequence_page

from .curve import LAST
from .finished import finished_summary, is_begun, logs_in, logs_of
from .given import Given
from .guarded import guarding, with_guards
from .model_logs import load_model
from .resolve import Inputs
from .settings import Unlearn
from .unlearn import ResolvedUnlearn, plan_of, unlearn
from .unlearn import resolve as resolve_unlearn

MODEL = "model"
METRICS = ("paper", "released", "all")  # all: the paper's in the table of the sequence
STATES = ("method", "semantics", "modality", "seed", "impl", "recipe")


@dataclass(frozen=True)
class ResolvedSequence(ResolvedUnlearn):
    """All requests; `rows` are those of all of them.

    given     what the command line named
    requests  in order
    records   {label: {task of the forget set: indices of the records of the request's people}}
    """

    given: Given
    requests: Requests
    records: Mapping[str, Mapping[str, list[str]]]


def with_forget(settings: Unlearn, given: Given) -> tuple[Unlearn, Given]:
    """The settings with --forget as --sequence has it; UserError for a sequence that is wrong."""
    data = data_directory(settings.data)
    is_given = "forget" in given.settings
    requests = read_requests(data, settings.sequence, settings.forget, is_given)
    if not 0 <= settings.request <= len(requests.labels):
        raise UserError(
            f"--request is {settings.request}; expected 1 to {len(requests.labels)}, a request of "
            f"--sequence {settings.sequence}, or 0: all"
        )
    if settings.metrics not in METRICS:
        raise UserError(
            f"--metrics is {settings.metrics}, and the numbers of a request are the paper's or the "
            f"released code's; expected one of {', '.join(METRICS)} with --sequence"
        )
    if settings.keep != LAST:
        raise UserError(
            f"--keep is {settings.keep}: its rule judges the whole forget set, also people who are "
            "not requested yet; expected --keep last with --sequence"
        )
    if dtype_of(settings.dtype).itemsize < 4:
        raise UserError(
            f"--dtype is {settings.dtype}: the adapters of a request become part of the model that "
            "the next one begins with, and small changes are lost in 16 bits; expected float32"
        )
    if requests.forget != settings.forget:
        settings = replace(settings, forget=requests.forget)
        given = replace(given, settings=given.settings | {"forget"})
    return settings, given


@guarding(with_guards)
def resolve(settings: Unlearn, given: Given, resume: bool) -> ResolvedSequence:
    """Everything that the requests need, checked; nothing is written or loaded."""
    whole = resolve_unlearn(settings, given, resume)
    inputs = whole.inputs
    requests = read_requests(inputs.data, settings.sequence, settings.forget, False)
    if inputs.shard:
        raise UserError(
            "--shard on: the model that a request leaves is written whole, which no process has; "
            "leave --shard or --sequence out"
        )
    for number in range(1, len(requests.labels) + 1):
        plan_of(replace(settings, request=number), whole.options, inputs)
    unknown = rows_of_nobody(requests, settings.modality)
    if unknown:
        warnings.warn(
            Notice(
                f"--sequence: of {len(unknown)} row{'s'[: len(unknown) > 1]} of the forget set no "
                "person can be told: neither forgotten nor retained; first "
                f"{one_line(unknown[0].where, 100)}"
            ),
            stacklevel=2,
        )
    return ResolvedSequence(
        **vars(whole), given=given, requests=requests, records=records_of(inputs, requests)
    )


def records_of(inputs: Inputs, requests: Requests) -> dict[str, dict[str, list[str]]]:
    """{label: {task of the forget set: indices of the records of the request's people}}.

    raises  UserError for a request of whose people no record is asked, and for tasks that together
            make no number of a request
    """
    found: dict[str, dict[str, list[str]]] = {label: {} for label in requests.labels}
    for task in inputs.tasks:
        if task.set_name != "Forget" or task.probe:
            continue
        rows = read_rows(inputs.data, task.config)
        numbers = requests.numbers_of(rows)[: inputs.evaluation.limit]
        for number, label in enumerate(requests.labels, 1):
            indices = [str(index) for index, own in enumerate(numbers) if own == number]
            found[label][task.name] = indices
    for label, tasks in found.items():
        if not any(tasks.values()):
            raise UserError(
                f"--sequence: no record of {label} is asked by {', '.join(tasks) or 'any task'}; "
                "expected tasks of the forget set (--tasks), and --limit 0 or a larger one"
            )
    asked = {task.name for task in inputs.tasks}
    needed = sequence.tasks_of_requests()
    if not any(asked.issuperset(tasks) for tasks in needed):
        raise UserError(
            f"--sequence: {', '.join(sorted(asked))} make no number of a request's people; "
            f"expected --tasks with {', or with '.join(' and '.join(tasks) for tasks in needed)}"
        )
    return found


@run_directory.alone_in_its_directory
def run_requests(run: ResolvedSequence, fresh: bool = False) -> dict[str, Any]:
    """Every request, and what metrics.json of the whole holds; report.html is written last."""
    out, settings = run.out, run.settings
    definition_set = "released" if settings.metrics == "released" else "paper"
    model = run.inputs.model
    tasks = [task.name for task in run.inputs.tasks]
    runs: list[dict[str, Any]] = []
    states: list[sequence.State] = []
    gold: Logs | None = None
    known: dict[str, Logs] | None = None
    about: dict[str, Any] = {}
    for number, label in enumerate(run.requests.labels, 1):
        folder = out / f"request{number}"
        one = request_run(run, number, model, folder)
        summary = distributed.from_first(partial(finished_summary, folder))
        if summary is None:
            summary = dict(unlearn(one, known, fresh))
        before = logs_of(folder, "base", tasks)
        after = logs_in(folder, {"base": before})
        if number == 1:
            states.append(sequence.state(before, run.records, 0, definition_set))
            if run.inputs.gold:
                gold = logs_of(folder, "gold", tasks)
        states.append(sequence.state(after, run.records, number, definition_set))
        known = {"base": after, **({"gold": gold} if gold else {})}
        runs.append(entry_of(one, label, summary))
        about = {name: summary[name] for name in STATES}
        if number < len(run.requests.labels):
            model = next_model(one, number, label)
    found = {
        "command": settings.method,
        **about,
        "sequence": list(run.requests.labels),
        "runs": runs,
        "states": states,
        "gold": sequence.state(gold, run.records, None, definition_set) if gold else None,
        "changes": sequence.changes(states),
        "definitions": sequence.definition_labels(definition_set),
        "out": str(out),
    }
    write_json(out / run_directory.METRICS_FILE, found)
    if distributed.is_first():
        sequence_page.write(out, found, run.record)
    return found


def request_run(run: ResolvedSequence, number: int, model: Path, folder: Path) -> ResolvedUnlearn:
    """The run of one request, checked, with the model that the request before left."""
    named = {"model", "gold", "out", "request", "sequence", "method"}
    settings = replace(run.settings, request=number, model=str(model), out=str(folder))
    if run.inputs.gold:
        settings = replace(settings, gold=str(run.inputs.gold))
    given = replace(
        run.given,
        settings=run.given.settings | named,
        recorded={name: of for name, of in run.given.recorded.items() if name not in named},
    )
    begun = distributed.from_first(partial(is_begun, folder))
    return resolve_unlearn(settings, given, begun)


def entry_of(one: ResolvedUnlearn, label: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A line about one request."""
    return {
        "request": label,
        "directory": one.out.name,
        "forget_rows": len(one.rows[0]),
        "retain_rows": len(one.rows[1]),
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        **({"guards": summary["guards"]} if summary.get("guards") else {}),
    }


def next_model(one: ResolvedUnlearn, number: int, label: str) -> Path:
    """The directory of the model that a request has left; written whole if it is not there."""
    directory = one.out / MODEL
    if distributed.from_first(directory.is_dir) or not one.adapted:
        return directory
    vlm = load_model(one.inputs, one.inputs.model, str(one.out / "adapter"))
    if distributed.is_first():
        with new_directory(directory) as unfinished:
            vlm.save(unfinished)
            write_history(
                unfinished,
                read_history(one.inputs.model),
                command=one.settings.method,
                recipe=one.record["recipe"],
                split=f"request {number}, {label}, {one.settings.modality}",
                seed=one.settings.seed,
                rows=[*one.rows[0], *one.rows[1]],
            )
    distributed.from_first(lambda: True)  # the others wait for the directory
    return directory
