"""Guards: warnings about a run whose numbers may mean nothing.

A guard that fires is a Notice on stderr, an entry {"guard", "at", "reason"} in trace.jsonl or
metrics.json, a line of the page, and with --strict the end of the command with exit status 1. The
guards are defined where they are measured: loop/guards.py (training), evaluation/guards.py (logs).
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict, cast

from .errors import Notice, RunFailed

KEYS = ("guard", "at", "reason")
SETTINGS = "settings"  # `at` of what is known before the run
DATA = "data"
EVALUATION = "evaluation"  # how `at` begins for the logs of models


class Guard(TypedDict):
    """A guard that has fired.

    guard   its name
    at      where: settings, data, "npo, step 3", "evaluation of unlearned"
    reason  what was found
    """

    guard: str
    at: str
    reason: str


class GuardNotice(Notice):
    """A guard that has fired, as a Notice."""


_collecting: list[list[Guard]] = []


def fire(name: str, at: str, reason: str) -> Guard:
    """The guard; it is said, and added to every list of `collected` that is open."""
    guard: Guard = {"guard": name, "at": at, "reason": reason}
    for found in _collecting:
        if guard not in found:
            found.append(guard)
    warnings.warn(line(guard), GuardNotice, stacklevel=3)
    return guard


@contextmanager
def collected() -> Iterator[list[Guard]]:
    """A list of the guards that fire inside the block, each once."""
    found: list[Guard] = []
    _collecting.append(found)
    try:
        yield found
    finally:
        _collecting.pop()


def line(guard: Guard) -> str:
    """The guard in words."""
    return f"warning {guard['guard']} ({guard['at']}): {guard['reason']}"


def is_guards(value: Any) -> bool:
    """True for a list of guards, as read from a file."""
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and set(each) == set(KEYS)
        and all(isinstance(each[key], str) for key in KEYS)
        for each in value
    )


def each_once(guards: Iterable[Guard]) -> list[Guard]:
    """The first guard of each name and reason, in order."""
    found: dict[tuple[str, str], Guard] = {}
    for guard in guards:
        found.setdefault((guard["guard"], guard["reason"]), guard)
    return list(found.values())


def guards_of(summary: Any) -> list[Guard]:
    """The guards in metrics.json or in what was printed; [] without any."""
    return cast(list[Guard], summary.get("guards", []))


def check_strict(strict: bool, guards: Sequence[Guard], out: object) -> None:
    """RunFailed that names the guards, if there are any and they are errors (--strict)."""
    if strict and guards:
        names = ", ".join(dict.fromkeys(guard["guard"] for guard in guards))
        raise RunFailed(
            f"--strict, and there are warnings ({names}); the first: {line(guards[0])}; all "
            f"results are in {out}"
        )
