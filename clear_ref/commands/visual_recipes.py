"""The recipe and the options of each stage of `visual`: defaults, then the command line."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import SettingRecord
from clear_ref.common.settings import COMMAND_LINE, convert
from clear_ref.visual import world_recipes
from clear_ref.visual.method_names import STAGES
from clear_ref.visual.methods.table import make_options, methods_under
from clear_ref.visual.recipes import SOURCES, VisualRecipe, recipe_of


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
        found[f"train {stage}"] = {
            "value": ", ".join(f"{name} {value}" for name, value in asdict(recipe).items()),
            "source": COMMAND_LINE if given else source,
        }
    return found
