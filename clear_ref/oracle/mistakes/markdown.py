"""The table of known mistakes in README.md, made from the golden vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

from .known import EVERY_METHOD, LOGIT_METHODS, MISTAKES
from .peers import PEERS
from .projects import PROJECTS

HEAD = """| mistake | what it is | seen | methods | losses | gradients |
|---|---|---|---|---|---|"""


def mistakes_table(invalid_entries: Sequence[Mapping[str, Any]]) -> str:
    """The markdown table, from the `invalid` entries of golden vectors (FORMAT.md).

    A mistake is counted as caught if entries reject it in each of its methods.
    """
    lines = []
    n_caught = 0
    for mistake in MISTAKES:
        entries = [entry for entry in invalid_entries if entry["mistake"] == mistake.name]
        n_caught += {entry["method"] for entry in entries} >= set(mistake.methods)
        n_by_gradient = sum(bool(entry["gradients"]) for entry in entries)
        cells = (
            f"`{mistake.name}`",
            mistake.what.replace("|", "\\|"),
            mistake.seen,
            _methods(mistake.methods),
            str(len(entries) - n_by_gradient),
            str(n_by_gradient),
        )
        lines.append("| " + " | ".join(cells) + " |")
    count = f"{len(MISTAKES)} known mistakes, {n_caught} caught."
    return "\n".join([count, "", HEAD, *lines]) + "\n"


def _methods(methods: tuple[str, ...]) -> str:
    if methods == EVERY_METHOD:
        return "all"
    if methods == LOGIT_METHODS:
        return "all but rmu"
    return ", ".join(methods)


def peers_table() -> str:
    """The table of what other projects compute, as clear_ref/oracle/mistakes/README.md has it."""
    lines = ["| name | what it computes | who has it | methods |", "|---|---|---|---|"]
    for peer in PEERS:
        kind = "" if peer.is_meaning else "mistake: "
        what = peer.what.replace("|", "\\|")
        lines.append(f"| `{peer.name}` | {kind}{what} | {peer.seen} | {_methods(peer.methods)} |")
    n_meanings = sum(peer.is_meaning for peer in PEERS)
    count = f"{n_meanings} meanings and {len(PEERS) - n_meanings} mistakes of other projects."
    return "\n".join([count, "", *lines]) + "\n"


def projects_table() -> str:
    """The table of projects and what their methods compute, as the same page has it."""
    lines = ["| project | read in | its methods | also has |", "|---|---|---|---|"]
    for name, project in PROJECTS.items():
        own = [f"{method}: `{meaning}`" for method, meaning in project.methods.items()]
        seen = [peer.name for peer in PEERS if name in [project for project, _ in peer.who]]
        more = [f"`{one}`" for one in seen if one not in project.methods.values()]
        lines.append(f"| {name} | {project.version} | {', '.join(own)} | {', '.join(more)} |")
    return "\n".join(lines) + "\n"
