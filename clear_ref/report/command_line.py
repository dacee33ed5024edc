"""The command line that repeats a run, from what its settings.json holds."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clear_ref.common.run_directory import SETTINGS_FILE, RunRecord, SettingRecord
from clear_ref.common.settings import COMMAND_LINE

PROGRAM = "python -m clear_ref.run"
# Settings that the command or its arguments give, and where to write: a repeated run has another
# directory.
LEFT_OUT = frozenset({"method", "out"})


def command_line(record: RunRecord) -> str:
    """The command with every setting that was given, such as "... scrub --epochs 3 --set beta=1".

    What was not given keeps its default. `--impl torch` is added where the run did not use the
    compiled kernel although it was built. Without --out: the run gets a new directory.
    """
    words = [PROGRAM, *_command(record)]
    for name, entry in record["settings"].items():
        if entry["source"] == COMMAND_LINE and name not in LEFT_OUT:
            words += _option(record, name, entry["value"])
    options: dict[str, SettingRecord] = record.get("options", {})
    for name, entry in options.items():
        if entry["source"] == COMMAND_LINE:
            words += ["--set", shlex.quote(f"{name}={entry['value']}")]
    if record["impl"] == "torch" and record.get("kernel", {}).get("built"):
        words += ["--impl", "torch"]
    return " ".join(words)


def with_settings_file(record: RunRecord, directory: Path) -> str:
    """The command that reads every setting from the run's settings.json."""
    settings = shlex.quote(str(directory / SETTINGS_FILE))
    return " ".join([PROGRAM, _command(record)[0], "--settings", settings])


def _command(record: RunRecord) -> list[str]:
    """METHOD, "evaluate MODEL", or the name of another command."""
    settings = record["settings"]
    if record["command"] == "unlearn":
        return [shlex.quote(str(settings["method"]["value"]))]
    if record["command"] == "evaluate":
        return ["evaluate", shlex.quote(str(settings["model"]["value"]))]
    return [record["command"]]


def _option(record: RunRecord, name: str, value: Any) -> Iterator[str]:
    """--name and its value; nothing for the model of `evaluate`, which is no option, and for a
    default that no value stands for."""
    text = str(value)
    if text == "" or (record["command"] == "evaluate" and name == "model"):
        return
    option = f"--{name.replace('_', '-')}"
    if value is True:
        yield option
    elif value is False:
        return
    elif text.startswith("-"):
        yield f"{option}={shlex.quote(text)}"
    else:
        yield option
        yield shlex.quote(text)
