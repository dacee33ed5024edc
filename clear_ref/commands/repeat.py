"""The settings of an earlier run as those of this one: --settings FILE, and --resume --out DIR.

What the command line gives wins. A value that is taken from the file keeps its recorded source, so
settings.json of a repeated run is that of the earlier run, but for its directory.
"""

import os
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clear_ref.common import distributed
from clear_ref.common.errors import Notice, UserError
from clear_ref.common.files import one_line
from clear_ref.common.run_directory import (
    PUT_BACK,
    SETTINGS_FILE,
    RunRecord,
    read_record,
    versions,
)
from clear_ref.common.settings import COMMAND_LINE, convert, field_choices, setting_names
from clear_ref.loop.modalities import MODALITIES
from clear_ref.loop.recipes import Recipe
from clear_ref.losses.choice import VARIABLE

from . import sweep_points
from .given import numbers, pairs
from .input_roles import by_option

# A repeated run has its own directory, and its command names the method; --strict holds for one
# start alone.
OWN = {"out", "method", "strict"}
OWN_OF_ALL = OWN | {"modality", "seed"}  # several of them: taken from and given in another form
OWN_OF_SWEEP = OWN | {"seed", "points", *setting_names(Recipe)}


@dataclass(frozen=True)
class Earlier:
    """The run whose settings are taken.

    file    its settings.json
    beside  names of the settings that the command line gives beside it
    """

    file: Path
    record: RunRecord
    beside: frozenset[str]


def take_settings(arguments: Namespace) -> None:
    """Add to the arguments what the run that --settings or --resume names was told.

    Nothing is done for a command without --settings, and where neither names a run.
    raises  UserError for a file that is none, or of another command
    """
    file = _settings_file(arguments) if hasattr(arguments, "settings_file") else None
    if file is None:
        return
    record = distributed.from_first(lambda: read_record(file))
    earlier = Earlier(file, record, frozenset(vars(arguments)))
    check_command(arguments, earlier)
    arguments.recorded = _take_values(arguments, earlier)
    arguments.recorded_options = _take_options(arguments, earlier)
    if arguments.command == "all":
        _take_several(arguments, earlier)
    if arguments.command == "sweep":
        _take_sweep(arguments, earlier)
    if arguments.token_terms is None and VARIABLE not in os.environ:
        arguments.token_terms = earlier.record["impl"]
    if not arguments.resume:  # with it, run_directory.choose compares the inputs
        arguments.earlier = earlier


def _settings_file(arguments: Namespace) -> Path | None:
    """The settings.json that is meant; None if there is none to take."""
    named, out = arguments.settings_file, getattr(arguments, "out", "")
    if named and arguments.resume:
        raise UserError(
            f"--settings {named}: is given beside --resume, which reads the settings of the run in "
            "--out; expected one of the two"
        )
    if named:
        return Path(named) / SETTINGS_FILE if Path(named).is_dir() else Path(named)
    file = Path(out) / SETTINGS_FILE
    resumes = arguments.resume and out and distributed.from_first(file.exists)
    return file if resumes else None


def _value(record: RunRecord, name: str) -> str:
    """The value of a setting as text; "" if it has none."""
    return str(record["settings"][name]["value"]) if name in record["settings"] else ""


def check_command(arguments: Namespace, earlier: Earlier) -> None:
    """Raises UserError if the earlier run is of another command."""
    of = one_line(earlier.record["command"], 60)
    if of == "unlearn":
        of = one_line(_value(earlier.record, "method"), 60)
    if of != arguments.command:
        file = earlier.file
        what = f"--resume --out {file.parent}" if arguments.resume else f"--settings {file}"
        if of in ("visual", "sweep"):
            of = f"{of} {one_line(_value(earlier.record, 'method'), 60)}"
        raise UserError(
            f"{file}: is of {of}; expected one of {arguments.command}: for that run it is "
            f"python -m clear_ref.run {of} {what}"
        )


def _take_values(arguments: Namespace, earlier: Earlier) -> dict[str, str]:
    """Set what the command line does not give; {name: recorded source} of what was set."""
    recorded = {}
    own, recipe = setting_names(arguments.kind), setting_names(Recipe)
    is_all = arguments.command == "all"
    left_out = {"all": OWN_OF_ALL, "sweep": OWN_OF_SWEEP}.get(arguments.command, OWN)
    for name, entry in earlier.record["settings"].items():
        if name in left_out:
            continue
        if name not in own and name not in recipe:
            raise UserError(
                f"{earlier.file}: has a setting {one_line(name, 60)} that this version does not "
                "know; remove it from the file, or use the version that wrote it"
            )
        # A recipe that is named anew brings its own values; `all` has one for each method.
        is_default = entry["source"] != COMMAND_LINE
        if name in recipe and is_default and (is_all or "recipe" in earlier.beside):
            continue
        if name == "save_every" and type(entry["value"]) is int:  # steps alone, before minutes
            entry["value"] = str(entry["value"])
        kind = arguments.kind if name in own else Recipe
        check_value(kind, name, entry["value"], earlier.file)
        key = name if name in own else f"recipe_{name}"
        if key not in earlier.beside:
            setattr(arguments, key, entry["value"] if name in own else str(entry["value"]))
            recorded[name] = entry["source"]
    if _is_older_released(arguments, earlier):
        arguments.released_code = "mm"
        recorded["released_code"] = "before 2026-11-28 every released run was of mm/"
    return recorded


def _is_older_released(arguments: Namespace, earlier: Earlier) -> bool:
    """Whether a run of the released code was written before there was a choice of the code."""
    return (
        "released_code" in setting_names(arguments.kind)
        and "released_code" not in earlier.beside
        and "released_code" not in earlier.record["settings"]
        and getattr(arguments, "semantics", "").startswith("released")
        and "semantics" not in earlier.beside
    )


def check_value(kind: Any, name: str, value: object, file: Path) -> None:
    """Raises UserError for a value of another type than the setting's default, and for one that is
    not among its choices.
    """
    [default] = [field.default for field in fields(kind) if field.name == name]
    wanted = type(default)
    found = f"{file}: setting {name} is {one_line(repr(value), 60)}; expected "
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise UserError(found + wanted.__name__)
    choices = field_choices(kind, name)
    if choices and value != default and value not in choices:
        raise UserError(found + f"one of {', '.join(map(str, choices))}")


def _take_options(arguments: Namespace, earlier: Earlier) -> dict[str, str]:
    """Add the options that --set does not give; {name: recorded source} of what was added.

    A default of the variant is not taken if the command line names the semantics. The seed of a
    method is that of the run.
    """
    recorded = {}
    options = earlier.record.get("options", {})
    given = pairs(arguments.options) if options else {}
    for name, entry in options.items():
        is_default = entry["source"] != COMMAND_LINE
        if is_default and (name == "seed" or "semantics" in earlier.beside):
            continue
        if name not in given:
            arguments.options = [*arguments.options, f"{name}={entry['value']}"]
            recorded[name] = entry["source"]
    return recorded


def _take_several(arguments: Namespace, earlier: Earlier) -> None:
    """Set the modalities, seeds and methods of `all` that the command line does not give."""
    found = {
        name: ",".join(_value(earlier.record, name).split(", "))
        for name in ("modality", "seed", "method")
    }
    if found["modality"] == ",".join(MODALITIES):
        found["modality"] = "each"
    for key, name in (("modalities", "modality"), ("seeds", "seed"), ("methods", "method")):
        if key not in earlier.beside:
            setattr(arguments, key, found[name])


def _take_sweep(arguments: Namespace, earlier: Earlier) -> None:
    """Set the recipe values of all points, the seeds and the points that the command line does not
    give.
    """
    settings, file = earlier.record["settings"], earlier.file
    seeds = ",".join(_value(earlier.record, "seed").split(", "))
    names = [name for name in setting_names(Recipe) if name in settings]
    recipe = {name: _value(earlier.record, name) for name in names}
    with _of_file(str(file)):
        numbers(seeds, "setting seed")
        for name, text in recipe.items():
            convert(Recipe, name, text)
    if "seeds" not in earlier.beside:
        arguments.seeds = seeds
    for name, text in recipe.items():
        if f"recipe_{name}" not in earlier.beside:
            setattr(arguments, f"recipe_{name}", text)
    if arguments.grid or arguments.set_grid or "points" in earlier.beside:
        return
    points = settings.get("points", {"value": None, "source": ""})
    semantics = _value(earlier.record, "semantics")
    with _of_file(f"{file}: setting points"):
        arguments.recorded_points = sweep_points.from_record(points["value"], semantics), file
    arguments.recorded["points"] = points["source"]


@contextmanager
def _of_file(where: str) -> Iterator[None]:
    """A UserError inside the block says where the value is, and to put back what was there."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}; {PUT_BACK}") from None


def check_inputs(arguments: Namespace, record: RunRecord) -> None:
    """Raises UserError unless models and data are what they were in the run that is repeated.

    A model or data directory that the command line names is not compared. A notice names the
    versions that have changed.
    """
    earlier = getattr(arguments, "earlier", None)
    if earlier is None:
        return
    beside = {name for name in ("model", "gold", "adapter", "data") if name in earlier.beside}
    if "model" in beside:
        beside.add("gold")  # the default depends on the model
    before, now = by_option(earlier.record), by_option(record)
    for option in sorted(before.keys() | now.keys()):
        changed = _first_change(before.get(option, {}), now.get(option, {}))
        if option not in beside and changed:
            raise UserError(
                f"{earlier.file}: {changed} of --{option} is not what it was in that run; expected "
                f"the same files, or --{option} beside --settings, which takes what is there now"
            )
    old = earlier.record["versions"]
    changed_versions = [
        f"{name} {old.get(name, '?')}, now {new}"
        for name, new in versions().items()
        if old.get(name) != new
    ]
    if changed_versions:
        warnings.warn(
            f"{earlier.file}: that run had {'; '.join(changed_versions)}: numbers can differ",
            Notice,
            stacklevel=2,
        )


def _first_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The name of a file that was changed, added or removed; "" if there is none."""
    names = sorted(before.keys() | now.keys())
    return next((name for name in names if before.get(name) != now.get(name)), "")
