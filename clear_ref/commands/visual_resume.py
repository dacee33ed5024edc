"""visual --resume --out DIR: takes what the run in DIR was told, as METHOD does (repeat.py).

What the command line gives wins. The rest is that run's, with its recorded source. Stages without a
result can have other recipes and options, base alone while no method began with it; everything else
must be as it was.
"""

from argparse import Namespace
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.common.run_directory import PUT_BACK, SETTINGS_FILE, RunRecord, read_record
from clear_ref.common.settings import COMMAND_LINE, setting_names
from clear_ref.visual.experiment import BASE
from clear_ref.visual.method_names import METHOD_NAMES, STAGES
from clear_ref.visual.methods.table import make_options, methods_under, variant
from clear_ref.visual.recipes import VisualRecipe
from clear_ref.visual.store import FAILED, SPLITS

from .repeat import Earlier, check_command, check_value
from .visual_recipes import TRAIN, recipe_from, stage_of
from .visual_settings import Visual

OWN = ("out", "method")  # of each start


@dataclass(frozen=True)
class EarlierStart:
    """What a resumed run was told, beside its settings; empty for a new run.

    sources  {name in settings.json: its source} of everything that is taken
    recipes  {stage: its recipe}
    options  {"METHOD.NAME": value}
    names    of all settings and options that it has
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    recipes: Mapping[str, VisualRecipe] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Collection[str] = ()


def take_start(arguments: Namespace) -> EarlierStart:
    """Add to the arguments the settings of the run that --resume names; returns the rest of it.

    Nothing is taken where --resume names no run. Recipes and options are of that run's semantics.
    raises  UserError for a settings.json that no run of `visual` writes
    """
    out = getattr(arguments, "out", "")
    file = Path(out) / SETTINGS_FILE
    if not (arguments.resume and out and distributed.from_first(file.exists)):
        return EarlierStart()
    record = distributed.from_first(lambda: read_record(file))
    check_command(arguments, Earlier(file, record, frozenset(vars(arguments))))
    sources = _take_settings(arguments, record, file)
    options = record.get("options", {})
    names = {*record["settings"], *options}
    semantics = record["settings"].get("semantics", {"value": None, "source": ""})["value"]
    if semantics is None or semantics != arguments.semantics:
        return EarlierStart(sources, names=names)  # run_directory.choose refuses it
    recipes = {name: each for name, each in record["settings"].items() if name.startswith(TRAIN)}
    return EarlierStart(
        sources | {name: entry["source"] for name, entry in (recipes | options).items()},
        {
            name.removeprefix(TRAIN): recipe_from(entry["value"], f"{file}: {name}")
            for name, entry in recipes.items()
        },
        _checked_options({key: entry["value"] for key, entry in options.items()}, semantics, file),
        names,
    )


def _take_settings(arguments: Namespace, record: RunRecord, file: Path) -> dict[str, str]:
    """Set what the command line does not give; {name: recorded source} of what was set."""
    sources = {}
    recipes = {f"{TRAIN}{stage}" for stage in STAGES}
    for name, entry in record["settings"].items():
        if name in OWN or name in recipes:
            continue
        if name not in setting_names(Visual):
            raise _unknown(file, "setting", name)
        check_value(Visual, name, entry["value"], file)
        if name not in vars(arguments):
            setattr(arguments, name, entry["value"])
            sources[name] = entry["source"]
    return sources


def _checked_options(values: Mapping[str, Any], semantics: str, file: Path) -> Mapping[str, Any]:
    """The values {"METHOD.NAME": value}; UserError that names the file for one that none can be."""
    own: dict[str, dict[str, Any]] = {method: {} for method in methods_under(semantics)}
    for key, value in values.items():
        method, _, name = key.partition(".")
        if method not in own or name not in setting_names(variant(method, semantics).options):
            raise _unknown(file, "option", key)
        own[method][name] = value
    for method, found in own.items():
        try:
            make_options(method, found, semantics)
        except UserError as error:
            raise UserError(f"{file}: {method}: {one_line(error)}; {PUT_BACK}") from None
    return values


def _unknown(file: Path, what: str, name: str) -> UserError:
    """The error of a setting or an option that this version does not have."""
    return UserError(
        f"{file}: has the {what} {one_line(name, 60)}, which this version does not know; remove it "
        "from the file, or use the version that wrote it"
    )


def may_differ(record: RunRecord, start: EarlierStart, out: str) -> set[str]:
    """The names of recipes and options that may differ from those of the run in `out`.

    These are of stages of which no result is there, and defaults of options that it does not have.
    Base has results where a method has one, or failed: it began with base.
    """
    if not start.names:
        return set()
    begun = _stages_with(out, "json")
    if _methods_from_base(out):
        begun.append(BASE)
    options = record.get("options", {})
    new = {
        name
        for name, entry in options.items()
        if name not in start.names and entry["source"] != COMMAND_LINE
    }
    named = (name for name in (*record["settings"], *options) if stage_of(name))
    return new | {name for name in named if stage_of(name) not in begun}


def check_base(recipes: Mapping[str, VisualRecipe], start: EarlierStart, out: str) -> None:
    """UserError for another recipe of base where no base is left, and methods that began with it
    are: they would stand in one table with those that begin with the new one.

    recipes  {stage: its recipe} of this start
    """
    before = start.recipes.get(BASE, recipes[BASE])
    if before == recipes[BASE] or BASE in _stages_with(out, "json"):
        return
    methods = _methods_from_base(out)
    if methods:
        new, old = asdict(recipes[BASE]), asdict(before)
        changed = [name for name in new if new[name] != old[name]]
        was = ", ".join(f"{name} {old[name]}" for name in changed)
        now = ", ".join(f"{name} {new[name]}" for name in changed)
        files = " ".join(f"{SPLITS}/*/{method}.*" for method in methods)
        raise UserError(
            f"--out {out}: {', '.join(methods)} began with a base of {was}, now it is {now}; "
            f"resume with the recipe of its start, or remove what began with that base: {files}"
        )


def _stages_with(out: str, ending: str) -> list[str]:
    """The stages that have a file with this ending in some split of the run in `out`."""

    def found() -> list[str]:
        files = {stage: Path(out).glob(f"{SPLITS}/*/{stage}.{ending}") for stage in STAGES}
        return [stage for stage in STAGES if any(files[stage])]

    return distributed.from_first(found)


def _methods_from_base(out: str) -> list[str]:
    """The methods that have a result, or failed, in the run in `out`."""
    stages = {*_stages_with(out, "json"), *_stages_with(out, FAILED)}
    return [method for method in METHOD_NAMES if method in stages]
