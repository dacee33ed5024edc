"""check-data: what a data directory holds, what is wrong with it, and which commands can use it."""

from argparse import Namespace
from typing import Any

from clear_ref.common.errors import RunFailed
from clear_ref.common.text_table import aligned
from clear_ref.data import check
from clear_ref.mini.directories import data_directory

from .data_needs import NO, SOME, WITH_LISTS, WITH_TASKS, YES, Use, data_needs
from .data_needs_further import further_needs
from .output import Output


def command(arguments: Namespace) -> Output:
    """What `check-data` prints; it fails if there are problems or no command can run."""
    directory = data_directory(arguments.directory)
    findings = check.examine(directory)
    uses = [*data_needs(directory, findings), *further_needs(directory, findings)]
    found = {**check.result_of(directory, findings), "commands": uses}
    return Output(found, text, fail_on_problems)


def fail_on_problems(found: dict[str, Any]) -> None:
    """RunFailed if there are problems or no command can run."""
    if found["problems"]:
        raise RunFailed(f"{found['directory']} has {len(found['problems'])} problems, listed above")
    if all(use["runs"] == NO for use in found["commands"]):
        raise RunFailed(f"{found['directory']}: no command can run with it, as listed above")


def text(found: Any) -> str:
    """Counts and findings, then a table of the commands."""
    return "\n".join([check.text(found), "", *command_lines(found)])


def command_lines(found: dict[str, Any]) -> list[str]:
    """A table of commands and --forget, and why a command stops.

    A --forget without any config of its forget set has no column, unless none has one.
    """
    uses: list[Use] = found["commands"]
    every = sorted({use["forget"] for use in uses})
    there = [n for n in every if any(f"forget{n:02d}" in config for config in found["configs"])]
    shown = there or every
    cells: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for use in uses:
        if use["forget"] not in shown:
            continue
        title = use["command"] + (" (language model)" if use["language_model"] else "")
        cells.setdefault(title, [title]).append(use["runs"])
        if use["runs"] != YES:
            reasons.setdefault(explained(use), []).append(f"{title} --forget {use['forget']}")
    header = ["can run with the data", *(f"--forget {n}" for n in shown)]
    lines = aligned(header, cells.values())
    if len(shown) < len(every):
        left = [n for n in every if n not in shown]
        lines.append(
            f"--forget {', '.join(map(str, left))}: no config of "
            + ", ".join(f"forget{n:02d}" for n in left)
        )
    for reason, titles in reasons.items():
        several = f" and {len(titles) - 1} more" if len(titles) > 1 else ""
        lines += ["", f"{titles[0]}{several}:", f"  {reason}"]
    return lines


def explained(use: Use) -> str:
    """Why a command stops, and with which tasks it does not."""
    parts = []
    for what, configs in (("missing", use["missing"]), ("wrong", use["wrong"])):
        if configs:
            parts.append(f"{what}: {', '.join(configs)}")
    if not parts or use["runs"] in (SOME, WITH_LISTS):
        parts.append(use["reason"])
    if use["runs"] == WITH_TASKS:
        parts.append(f"runs with --tasks {use['tasks']}")
    return "; ".join(parts)
