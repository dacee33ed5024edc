"""Every known mistake, every meaning of another project, and every project, as data and as text."""

from typing import TypedDict

from clear_ref.evaluation.wrong_definitions import WRONG_DEFINITIONS
from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.mistakes.peers import PEERS
from clear_ref.oracle.mistakes.projects import PROJECTS
from clear_ref.oracle.visual.mistakes import MISTAKES as VISUAL_MISTAKES

from .method_file import hanging


class Name(TypedDict):
    """One entry: what it is, who has it and where, and its methods."""

    name: str
    what: str
    seen: str
    methods: list[str]


class Names(TypedDict):
    """What `explain --mistakes --json` prints.

    projects     {project: {method: semantics or a name}}
    evaluations  mistakes of evaluations, which are of no method
    visual       mistakes of the visual-only methods, which visual-oracle conform names
    """

    mistakes: list[Name]
    meanings: list[Name]
    projects: dict[str, dict[str, str]]
    evaluations: list[Name]
    visual: list[Name]


def names() -> Names:
    """All names."""
    entries = [(one, False) for one in MISTAKES] + [(one, one.is_meaning) for one in PEERS]
    found: dict[bool, list[Name]] = {False: [], True: []}
    for entry, is_meaning in entries:
        found[is_meaning].append(
            Name(name=entry.name, what=entry.what, seen=entry.seen, methods=list(entry.methods))
        )
    # A wrong definition stands once, whatever number of metrics it is of.
    evaluations = {
        one.name: Name(name=one.name, what=one.what, seen=one.seen, methods=[])
        for one in WRONG_DEFINITIONS
    }
    return Names(
        mistakes=found[False],
        meanings=found[True],
        projects={name: project.methods for name, project in PROJECTS.items()},
        evaluations=list(evaluations.values()),
        visual=[
            Name(name=name, what=one.meaning, seen="", methods=list(one.methods))
            for name, one in VISUAL_MISTAKES.items()
        ],
    )


def text(found: Names) -> str:
    """The names for the terminal: explain METHOD --mistake NAME shows one on real records."""
    lines = ["explain METHOD --mistake NAME shows one of these on real records.", ""]
    headings = (
        ("mistakes", "mistakes"),
        ("meanings", "what other projects compute"),
        ("evaluations", "mistakes of evaluations, which --mistake does not take"),
        ("visual", "mistakes of the visual-only methods, which visual-oracle conform names"),
    )
    for key, heading in headings:
        entries: list[Name] = found[key]  # type: ignore[literal-required]
        lines.append(f"{len(entries)} {heading}")
        for entry in entries:
            lines.append(f"    {entry['name']}")
            lines += hanging("        ", entry["what"])
            if entry["seen"]:
                lines += hanging("        ", f"seen in: {entry['seen']}")
            if entry["methods"]:
                lines += hanging("        ", f"methods: {', '.join(entry['methods'])}")
        lines.append("")
    lines.append("projects, and what their methods compute")
    for project, methods in found["projects"].items():
        own = ", ".join(f"{method} {meaning}" for method, meaning in methods.items())
        lines += hanging(f"    {project:18}", own)
    return "\n".join(lines)
