"""Options of the commands that train: METHOD, all, sweep, finetune."""

import argparse

from clear_ref.loop import mini_recipes
from clear_ref.methods import table

from .options import (
    Parser,
    add_fresh,
    add_recipe,
    add_resume,
    add_set,
    add_settings_file,
    add_shared,
)
from .settings import MODALITY_CHOICES, Finetune, Sweep, Unlearn

# Settings of METHOD alone.
SEQUENCE = ("sequence", "request")


def add_method(one: Parser, method: str) -> None:
    """METHOD."""
    add_shared(one, "method", Unlearn, skip={"method"})
    add_recipe(one, "unlearn", [method])
    own = "; ".join([*table.option_help(method), *mini_recipes.option_help(method)])
    add_set(one, f"an option of the method: {own}")
    add_settings_file(one)
    add_resume(one)
    add_fresh(one)


def add_all(every: Parser) -> None:
    """all."""
    add_shared(every, "all_methods", Unlearn, skip={"method", "modality", "seed", *SEQUENCE})
    add_recipe(every, "unlearn", table.METHODS)
    every.add_argument(
        "--modality",
        dest="modalities",
        choices=MODALITY_CHOICES,
        default=argparse.SUPPRESS,
        help="records of the forget set that are trained on; each: one after the other (default: "
        "both)",
    )
    every.add_argument(
        "--seeds",
        default=argparse.SUPPRESS,
        help="seeds, with commas: the leaderboard shows mean and spread (default: 0)",
    )
    every.add_argument(
        "--methods",
        default=argparse.SUPPRESS,
        metavar="METHOD,...",
        help="methods to run, with commas (default: all)",
    )
    add_set(
        every,
        "an option for every chosen method that has it; METHOD.NAME=VALUE: for one method; METHOD "
        "--help lists the options",
    )
    add_settings_file(every)
    add_resume(every)
    add_fresh(every)


def add_finetune(tuned: Parser) -> None:
    """finetune."""
    add_shared(tuned, "finetune", Finetune)
    add_recipe(tuned, "finetune")
    add_settings_file(tuned)
    add_resume(tuned)


def add_sweep(one: Parser) -> None:
    """sweep."""
    add_shared(one, "sweep", Sweep, skip={"method", "seed", "metrics", "leakage", *SEQUENCE})
    one.add_argument(
        "methods", metavar="METHOD", help="a method, several with commas, or all: every method"
    )
    one.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values of the recipe to compare, such as lr=1e-4,3e-4; several: every combination "
        "(default: the settings from which the embedded world's recipes were chosen)",
    )
    one.add_argument(
        "--set-grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values of an option to compare, such as alpha=1,2,5, for the methods that have it",
    )
    one.add_argument(
        "--seeds",
        default=argparse.SUPPRESS,
        help="seeds, with commas: a setting's scores are the mean (default: 0)",
    )
    add_recipe(one, "unlearn", table.METHODS)
    add_settings_file(one)
    add_resume(one)
    add_fresh(one)


ADD = {"all": add_all, "sweep": add_sweep, "finetune": add_finetune}
