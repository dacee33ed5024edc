"""How a run trains: the recipe's name, its values, and the options of the method.

Later sources win: the defaults, what the embedded world has tuned, the run's seed, the command
line.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.settings import convert, setting_names
from clear_ref.loop import mini_recipes
from clear_ref.loop.history import FILE as HISTORY_FILE
from clear_ref.loop.history import read_history, recipe_of
from clear_ref.loop.recipes import RECIPES, Recipe, check_recipe, warn_recipe
from clear_ref.methods import table
from clear_ref.methods.option_checks import warn_zero_weights
from clear_ref.mini.directories import model_directory

from .given import Given
from .settings import Unlearn


def recipe_name_for(chosen: str, model: Path) -> str:
    """The name of a recipe: the chosen one, else that of the model's last training, else paper.

    model  the directory, whose training history names its recipe
    """
    return chosen or recipe_of(read_history(model)) or "paper"


def recipe_for(chosen: str, model: Path, purpose: str, given: dict[str, str]) -> tuple[str, Recipe]:
    """(name, recipe) of a training that begins with a model, whatever the method; see
    recipe_name_for and method_recipe_for.

    purpose  unlearn or finetune
    given    values of the command line as text
    raises   UserError for a value that no training can run with
    """
    name = recipe_name_for(chosen, model)
    return name, _recipe(name, model, purpose, given, {})


def _recipe(
    name: str, model: Path, purpose: str, given: dict[str, str], tuned: dict[str, Any]
) -> Recipe:
    """The recipe of a name. Later sources win: its defaults, `tuned`, `given`."""
    if name not in RECIPES:
        raise UserError(
            f"{model / HISTORY_FILE}: recipe is {name!r}; expected one of {', '.join(RECIPES)}"
        )
    kind = RECIPES[name][purpose]
    values = {key: convert(kind, key, value) for key, value in given.items()}
    recipe = kind(**{**tuned, **values})
    check_recipe(recipe)
    warn_recipe(recipe)
    return recipe


@dataclass(frozen=True)
class MethodRecipe:
    """How a method is trained: a recipe and the options of the method's variant.

    name           paper or mini
    tuned_recipe   names of the recipe's values that are the embedded world's for this method
    tuned_options  names of the options that are the embedded world's
    """

    name: str
    recipe: Recipe
    options: Any
    tuned_recipe: frozenset[str]
    tuned_options: frozenset[str]


def method_recipe_for(settings: Unlearn, given: Given) -> MethodRecipe:
    """The recipe and the options of a method.

    Later sources win: the defaults of recipe and variant, the embedded world's for this method and
    semantics (mini_recipes), the run's seed, the command line.
    raises   UserError for a value that no training can run with, and for an unknown option
    """
    model = model_directory(settings.model)
    name = recipe_name_for(settings.recipe, model)
    tuned = mini_recipes.Tuned()
    if name == "mini":
        tuned = mini_recipes.tuned(settings.method, settings.semantics)
    recipe = _recipe(name, model, "unlearn", given.recipe, tuned.recipe)
    options = options_for(
        settings.method, settings.semantics, tuned.options, settings.seed, given.options
    )
    warn_zero_weights(options)
    return MethodRecipe(name, recipe, options, frozenset(tuned.recipe), frozenset(tuned.options))


def options_for(
    method: str, semantics: str, defaults: dict[str, Any], seed: int, given: dict[str, str]
) -> Any:
    """The options of a variant. Later sources win: its own, `defaults`, the run's seed, `given`."""
    known = setting_names(table.variant(method, semantics).options)
    values = {name: value for name, value in {**defaults, "seed": seed}.items() if name in known}
    return table.make_options(method, {**values, **given}, semantics)
