"""The recipe and the options of each stage of `visual`: defaults, then the command line."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json
from clear_ref.common.run_directory import SETTINGS_FILE, RunRecord, SettingRecord
from clear_ref.common.settings import COMMAND_LINE, convert, with_sources
from clear_ref.visual import world_recipes
from clear_ref.visual.method_names import STAGES
from clear_ref.visual.methods.table import make_options, methods_under, variant
from clear_ref.visual.recipes import READ_BY, SOURCES, VisualRecipe, names_read, recipe_of
from clear_ref.visual.store import SPLITS

TRAIN = "train "  # begins the name of a stage's recipe in settings.json


def recipes_of(
    is_mini: bool, semantics: str, training: Mapping[str, str]
) -> dict[str, VisualRecipe]:
    """{stage: recipe} of every stage; later sources win: its defaults, --train.

    training  {"STAGE.NAME": text}
    raises    UserError for an unknown stage or value
    """
    found = {
        stage: world_recipes.recipe_of(stage, semantics) if is_mini else recipe_of(stage, semantics)
        for stage in STAGES
    }
    for key, text in training.items():
        stage, _, name = key.partition(".")
        if stage not in found or not name:
            raise UserError(
                f"--train {key}: expected STAGE.NAME=VALUE with a stage of {', '.join(STAGES)}"
            )
        try:
            value = convert(VisualRecipe, name, text)
            found[stage] = replace(found[stage], **{name: value})
        except UserError as error:
            raise UserError(f"--train {key}: {error}") from None
    return found


def options_of(semantics: str, given: Mapping[str, str]) -> dict[str, Any]:
    """{method: its options} of every method that the semantics has.

    given   {"METHOD.NAME": text} of --set
    raises  UserError for an unknown method or option
    """
    methods = methods_under(semantics)
    own: dict[str, dict[str, object]] = {method: {} for method in methods}
    for key, text in given.items():
        method, _, name = key.partition(".")
        if method not in own or not name:
            raise UserError(
                f"--set {key}: expected METHOD.NAME=VALUE with a method that {semantics} has: "
                + ", ".join(methods)
            )
        own[method][name] = text
    return {method: make_options(method, values, semantics) for method, values in own.items()}


def recipe_words(
    recipes: Mapping[str, VisualRecipe], training: Mapping[str, str], is_mini: bool
) -> dict[str, SettingRecord]:
    """{"train STAGE": its recipe in one text, and its source} for settings.json."""
    found: dict[str, SettingRecord] = {}
    for stage, recipe in recipes.items():
        given = any(key.partition(".")[0] == stage for key in training)
        source = "this project" if is_mini else SOURCES[stage]
        found[f"{TRAIN}{stage}"] = {
            "value": ", ".join(f"{name} {value}" for name, value in asdict(recipe).items()),
            "source": COMMAND_LINE if given else source,
        }
    return found


def option_words(options: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, SettingRecord]:
    """{"METHOD.NAME": its value and source} of every option, for settings.json."""
    found: dict[str, SettingRecord] = {}
    for method, own in options.items():
        named = {key.partition(".")[2] for key in given if key.partition(".")[0] == method}
        for name, entry in with_sources(own, named).items():
            found[f"{method}.{name}"] = entry
    return found


def check_trained(option: str, given: Mapping[str, str], stages: Collection[str]) -> None:
    """UserError for a value of a stage that the command does not train.

    option  --set or --train; given  {"STAGE.NAME": text} of it
    """
    for key in given:
        stage = key.partition(".")[0]
        if stage not in stages:
            raise UserError(
                f"{option} {key}: this command does not train {stage}; expected a value of "
                f"{', '.join(stages)}, or visual {stage}"
            )


def check_read(
    training: Mapping[str, str],
    recipes: Mapping[str, VisualRecipe],
    semantics: str,
    options: Mapping[str, Any],
) -> None:
    """UserError for a value of --train that the training of its stage does not read.

    training  {"STAGE.NAME": text} of stages that the command trains
    recipes   {stage: its recipe}; options  {method: its options}
    """
    for key in training:
        stage, _, name = key.partition(".")
        recipe = recipes[stage]
        own = options.get(stage)
        reads_forget = own is not None and variant(stage, semantics).reads_forget(own)
        read = names_read(recipe, reads_forget)
        if name not in read:
            why = "it has no forget set"
            if name in READ_BY:
                why = f"its schedule is {recipe.schedule}"
            raise UserError(
                f"--train {key}: {stage} does not read it, because {why}; expected one of "
                f"{', '.join(read)}"
            )


def stage_of(name: str) -> str:
    """The stage whose recipe or option has this name in settings.json; "" for another setting."""
    stage = name.removeprefix(TRAIN) if name.startswith(TRAIN) else name.partition(".")[0]
    return stage if stage in STAGES else ""


def of_earlier_starts(record: RunRecord, out: str, stages: Collection[str]) -> set[str]:
    """Take recipes and options of stages that this start does not train from the run in `out`.

    returns  the names of recipes and options that may differ from that run's: those of stages of
             which no result is there, and defaults that it has no value of
    """
    directory = Path(out)
    if not out or not (directory / SETTINGS_FILE).exists():
        return set()
    before = read_json(directory / SETTINGS_FILE)
    may_differ = set()
    for earlier, own in (
        (before.get("settings", {}), record["settings"]),
        (before.get("options", {}), record.get("options", {})),
    ):
        for name in [name for name in own if stage_of(name)]:
            if stage_of(name) not in stages and name in earlier:
                own[name] = earlier[name]
            begun = any(directory.glob(f"{SPLITS}/*/{stage_of(name)}.json"))
            is_new = name not in earlier and own[name]["source"] != COMMAND_LINE
            if not begun or is_new:
                may_differ.add(name)
    return may_differ
