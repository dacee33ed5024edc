"""The guards of a run from its three sources, and --strict, which makes them errors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from clear_ref.common import distributed
from clear_ref.common.guards import Guard, check_strict, collected, each_once
from clear_ref.evaluation.guards import of_logs
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.summary import Summary
from clear_ref.loop.trace import guards_in

from .resolve import Resolved
from .settings import Common

Run = TypeVar("Run", bound=Resolved)
AnyRun = TypeVar("AnyRun")
Given = ParamSpec("Given")


class Strict(Protocol):
    """A resolved run with the setting strict, and its directory."""

    @property
    def settings(self) -> Common: ...

    @property
    def out(self) -> Path: ...


def with_guards(run: Run, guards: Sequence[Guard]) -> Run:
    """The run with these guards."""
    return replace(run, guards=tuple(guards))


def guarding(
    keep: Callable[[AnyRun, Sequence[Guard]], AnyRun],
) -> Callable[[Callable[Given, AnyRun]], Callable[Given, AnyRun]]:
    """A decorator of a function that resolves a run: the guards that fire in it are kept with it.

    keep  (run, guards) -> the run with these guards
    """

    def decorator(resolve: Callable[Given, AnyRun]) -> Callable[Given, AnyRun]:
        @wraps(resolve)
        def guarded(*arguments: Given.args, **named: Given.kwargs) -> AnyRun:
            with collected() as guards:
                run = resolve(*arguments, **named)
            return keep(run, guards)

        return guarded

    return decorator


def all_guards(run: Resolved, models: Mapping[str, Logs], modality: str = "") -> Summary:
    """{"guards": those of settings and data, of the training and of these logs}; {} without any.

    The last line of trace.jsonl gets those of the logs.
    """
    of_models = of_logs(models, run.inputs.tasks, modality)
    of_trace = distributed.from_first(lambda: guards_in(run.out, of_models))
    found = each_once([*run.guards, *of_trace])
    return {"guards": found} if found else {}


def strict_check(run: Strict) -> Callable[[Mapping[str, Any]], None]:
    """Output.check of a run: RunFailed if a guard fired and --strict is given."""

    def check(found: Mapping[str, Any]) -> None:
        check_strict(run.settings.strict, list(guards_within(found)), run.out)

    return check


def guards_within(found: Mapping[str, Any]) -> Iterator[Guard]:
    """The guards of a run, or of all runs of `all` and of all points of `sweep`."""
    parts: Sequence[Mapping[str, Any]] = [found, *found.get("runs", ()), *found.get("points", ())]
    for part in parts:
        yield from part.get("guards", ())
