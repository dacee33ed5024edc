"""Every number of a result of `score`, with its definition; the definitions behind a table."""

from collections.abc import Iterable, Sequence
from typing import Any

from . import definitions, membership, metrics, open_mmunlearning
from .choices import CHOICE_TASKS, LEAKAGE
from .metrics import Scores


def values_of(name: str, result: Scores) -> list[tuple[str, Any, definitions.Definition]]:
    """(metric, value or None, definition) of one set of definitions."""
    known = definitions.definitions(name)
    found = [(metric, result[metric], known[metric]) for metric in known if metric in result]
    for metric, value in result.get("membership", {}).items():
        found.append((metric, value, membership.definition(metric)))
    text = metrics.is_text(result["tasks"])
    for task, parts in result["tasks"].items():
        for part, function in definitions.functions(name, task, text).items():
            found.append((f"{task} {part}", parts[part], definitions.definition(function)))
    return found


def set_with(names: dict[str, str]) -> str:
    """The set whose "definitions" these are; "" for those of another version."""
    for name in (*definitions.SETS, definitions.OPEN_UNLEARNING, LEAKAGE):
        known = definitions.definitions(name)
        if names == {metric: each.name for metric, each in known.items()}:
            return name
    return ""


def names_behind(result: Scores, numbers: Iterable[str]) -> list[str]:
    """The names of the definitions of these numbers and of the parts that they are made of, in the
    order of the set; every name of the set for a result of another version.
    """
    names: dict[str, str] = result.get("definitions", {})
    every = list(dict.fromkeys(names.values()))
    name = set_with(names)
    if not name:
        return every
    text = metrics.is_text(result["tasks"])
    needed = set()
    for number in numbers:
        needed.add(names.get(number))
        for task, part in definitions.AGGREGATES[name].get(number, ()):
            function = definitions.functions(name, task, text)[part]
            needed.add(definitions.definition(function).name)
    return [each for each in every if each in needed]


def numbers_of_choices(name: str) -> dict[str, str]:
    """{number: the task of questions with options that it needs} of one set of definitions."""
    needed = {
        number: parts[0][0]
        for number, parts in definitions.AGGREGATES[name].items()
        if parts[0][0] in CHOICE_TASKS
    }
    if name == "open_mmunlearning":
        needed["forget_quality_of_five"] = open_mmunlearning.TASK_PARTS[1][0]
    return needed


def not_asked(results: Sequence[Scores]) -> tuple[str, dict[str, str]]:
    """(set, {number: its task}) of the numbers that no result has because no evaluation asks their
    tasks by itself: questions with options. No number for models that see no pictures.
    """
    first = results[0]
    name = set_with(first.get("definitions", {}))
    if not name or metrics.is_text(first["tasks"]):
        return name, {}
    tasks = {task for result in results for task in result["tasks"]}
    needed = numbers_of_choices(name)
    return name, {number: task for number, task in needed.items() if task not in tasks}
