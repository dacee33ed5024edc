"""Every number of a result of `score`, with its definition."""

from typing import Any

from . import definitions, membership, metrics
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
