"""The numbers in metrics.json of a `visual` run, compared with the results that the run keeps.

They are summed up again from splits/, as the run itself does it (visual/results.py). Where splits/
has no people.json, as in a copy without it or in a run of an older version, only their ranges are
checked.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_ref.common.file_keys import shown
from clear_ref.common.files import one_line
from clear_ref.visual import columns, results
from clear_ref.visual.method_names import METHOD_NAMES, STAGES
from clear_ref.visual.scores import GROUPS
from clear_ref.visual.store import SPLITS, Store

Found = Mapping[str, Any]
TOLERANCE = 1e-9  # of the order of sums, which another version of NumPy may change


def problem(directory: Path, found: Found) -> str:
    """The first number or failure that is not that of the results, in words; "" if there is none.

    found   what metrics.json holds, with the keys and types of a summary
    raises  UserError for results that no run keeps
    """
    wrong = _out_of_range(found["models"])
    store = Store(directory)
    people = store.people()
    if wrong or people is None:
        return wrong
    classes, splits = people
    sizes = {"splits": len(splits), "names": len(classes.names), "pictures": len(classes.labels)}
    for name, size in sizes.items():
        if found[name] != size:
            return f"{name} is {found[name]}, and {size} in {SPLITS}/"
    models = results.summary_of(store, classes, splits, STAGES)
    failed = store.failures(range(len(splits)), METHOD_NAMES)
    return _other_failure(found.get("failed", []), failed) or _difference(found["models"], models)


def _out_of_range(models: Mapping[str, Any]) -> str:
    """The first number that no run has, in words; "" if there is none."""
    for stage, sets in models.items():
        for definition, numbers in sets.items():
            for name in columns.COLUMNS:
                most = 100 if name in GROUPS else 1
                value = numbers[name]["value"]
                if value is not None and not 0 <= value <= most:
                    where = f"models.{stage}.{definition}.{name}.value"
                    return f"{where} is {shown(value)}, expected from 0 to {most}"
    return ""


def _other_failure(failed: Sequence[str], expected: Sequence[str]) -> str:
    """The first reason that one of two lists of failures has alone, in words; "" if none has."""
    for reason in expected:
        if reason not in failed:
            return f"failed lacks {one_line(repr(reason), 100)}, which is in {SPLITS}/"
    for reason in failed:
        if reason not in expected:
            return f"failed has {one_line(repr(reason), 100)}, which is not in {SPLITS}/"
    return ""


def _difference(models: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first difference of two summaries of models, in words; "" if there is none."""
    if list(models) != list(expected):
        whole = ", ".join(expected) or "none"
        return f"models are {', '.join(models)}, and {whole} in all of {SPLITS}/"
    for stage, sets in expected.items():
        for definition, numbers in sets.items():
            for name, number in numbers.items():
                for part, value in number.items():
                    own = models[stage][definition][name][part]
                    if not _equal(own, value):
                        where = f"models.{stage}.{definition}.{name}.{part}"
                        return f"{where} is {shown(own)}, and {shown(value)} from {SPLITS}/"
    return ""


def _equal(own: float | None, value: float | None) -> bool:
    """Whether two numbers are equal but for the order of sums; None is no number."""
    if own is None or value is None:
        return own is value
    return math.isclose(own, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
