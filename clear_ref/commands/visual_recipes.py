"""The recipe and the options of each stage of `visual`: defaults, then the command line."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.run_directory import PUT_BACK, SettingRecord
from clear_ref.common.settings import COMMAND_LINE, convert, setting_names, with_sources
from clear_ref.visual import world_recipes
from clear_ref.visual.method_names import STAGES
from clear_ref.visual.methods.table import make_options, methods_under, variant
from clear_ref.visual.recipes import READ_BY, SOURCES, VisualRecipe, names_read, recipe_of

TRAIN = "train "  # begins the name of a stage's recipe in settings.json


def recipes_of(
    is_mini: bool,
    semantics: str,
    training: Mapping[str, str],
    earlier: Mapping[str, VisualRecipe] = {},
) -> dict[str, VisualRecipe]:
    """{stage: recipe} of every stage; later sources win: its defaults, `earlier`, --train.

    training  {"STAGE.NAME": text}
    earlier   {stage: recipe} of the run that is resumed
    raises    UserError for an unknown stage or value
    """
    of = world_recipes.recipe_of if is_mini else recipe_of
    found = {stage: of(stage, semantics) for stage in STAGES} | dict(earlier)
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


def options_of(
    semantics: str, given: Mapping[str, str], earlier: Mapping[str, object] = {}
) -> dict[str, Any]:
    """{method: its options} of every method that the semantics has.

    given    {"METHOD.NAME": text} of --set
    earlier  {"METHOD.NAME": value} of the run that is resumed; what is given wins
    raises   UserError for an unknown method or option
    """
    methods = methods_under(semantics)
    own: dict[str, dict[str, object]] = {method: {} for method in methods}
    for key, value in {**earlier, **given}.items():
        method, _, name = key.partition(".")
        if method not in own or not name:
            raise UserError(
                f"--set {key}: expected METHOD.NAME=VALUE with a method that {semantics} has: "
                + ", ".join(methods)
            )
        own[method][name] = value
    return {method: make_options(method, values, semantics) for method, values in own.items()}


def recipe_words(
    recipes: Mapping[str, VisualRecipe],
    training: Mapping[str, str],
    is_mini: bool,
    recorded: Mapping[str, str] = {},
) -> dict[str, SettingRecord]:
    """{"train STAGE": its recipe in one text, and its source} for settings.json.

    recorded  {name: source} of what is the earlier start's
    """
    found: dict[str, SettingRecord] = {}
    for stage, recipe in recipes.items():
        given = any(key.partition(".")[0] == stage for key in training)
        default = "this project" if is_mini else SOURCES[stage]
        source = recorded.get(f"{TRAIN}{stage}", default)
        found[f"{TRAIN}{stage}"] = {
            "value": ", ".join(f"{name} {value}" for name, value in asdict(recipe).items()),
            "source": COMMAND_LINE if given else source,
        }
    return found


def recipe_from(text: object, where: str) -> VisualRecipe:
    """The recipe that recipe_words has written; `where` begins the UserError for another text."""
    words = [each.partition(" ") for each in str(text).split(", ")]
    names = setting_names(VisualRecipe)
    if [name for name, _, _ in words] != names:
        raise UserError(
            f"{where} is {shown(text)}; expected a text with a value of each of "
            f"{', '.join(names)}; {PUT_BACK}"
        )
    try:
        values = {name: convert(VisualRecipe, name, value) for name, _, value in words}
        return VisualRecipe(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}; {PUT_BACK}") from None


def option_words(
    options: Mapping[str, Any], given: Mapping[str, str], recorded: Mapping[str, str] = {}
) -> dict[str, SettingRecord]:
    """{"METHOD.NAME": its value and source} of every option, for settings.json.

    recorded  {"METHOD.NAME": source} of what is the earlier start's
    """
    found: dict[str, SettingRecord] = {}
    for method, own in options.items():
        for name, entry in with_sources(own, ()).items():
            key = f"{method}.{name}"
            source = COMMAND_LINE if key in given else recorded.get(key, entry["source"])
            found[key] = {"value": entry["value"], "source": source}
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
    earlier: Mapping[str, VisualRecipe],
) -> None:
    """UserError for a value of --train that the training of its stage does not read, unless the run
    that is resumed has it already.

    training  {"STAGE.NAME": text} of stages that the command trains
    recipes   {stage: its recipe}; options  {method: its options}
    earlier   {stage: its recipe} of the run that is resumed
    """
    for key in training:
        stage, _, name = key.partition(".")
        recipe = recipes[stage]
        if stage in earlier and getattr(earlier[stage], name) == getattr(recipe, name):
            continue
        own = options.get(stage)
        reads_forget = own is not None and variant(stage, semantics).reads_forget(own)
        read = names_read(recipe, reads_forget)
        if name not in read:
            why = "no batch has forget pictures"
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
