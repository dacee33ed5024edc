"""The settings that a sweep compares: from grids, from a CSV file, or the embedded world's own."""

import itertools
from collections.abc import Iterable
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line
from clear_ref.common.settings import convert, setting_names
from clear_ref.loop import mini_recipes
from clear_ref.loop.points import Point, from_words, read_points
from clear_ref.loop.recipes import Recipe
from clear_ref.methods import table
from clear_ref.methods.semantics import TEXT_ONLY

from .given import check_once


def grid_axes(texts: Iterable[str], option: str) -> dict[str, list[str]]:
    """{name: values} of several NAME=V1,V2; UserError for another form or a name given twice."""
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        found = [value.strip() for value in values.split(",")]
        if not name or not all(found):
            raise UserError(
                f"{option} {text}: expected NAME=V1,V2, such as {option} {_example(option)}"
            )
        name = name.strip().replace("-", "_")
        if len(set(found)) < len(found):
            raise UserError(f"{option} {text}: a value is given twice; expected each once")
        check_once(option, name, {each: ",".join(own) for each, own in axes.items()}, values)
        axes[name] = found
    return axes


def _example(option: str) -> str:
    return "lr=1e-4,3e-4" if option == "--grid" else "alpha=1,2,5"


def from_grids(
    methods: list[str], semantics: str, recipe: dict[str, list[str]], options: dict[str, list[str]]
) -> list[Point]:
    """Every combination of the values, for each method. An option is for the methods that have it.

    raises  UserError for a value of the wrong type, a recipe value that there is not, and an option
            that no method has
    """
    for name, values in recipe.items():
        for value in values:
            try:
                convert(Recipe, name, value)
            except UserError as error:
                raise UserError(f"--grid {name}={value}: {error}") from None
    points = []
    for method in methods:
        known = setting_names(table.variant(method, semantics).options)
        own = {name: values for name, values in options.items() if name in known}
        for chosen in itertools.product(*recipe.values(), *own.values()):
            named = dict(zip([*recipe, *own], chosen, strict=True))
            points.append(
                Point(
                    method,
                    {name: named[name] for name in recipe},
                    {name: named[name] for name in own},
                )
            )
    have = {name for point in points for name in point.options}
    for name in options:
        if name not in have:
            raise UserError(
                f"--set-grid {name}: none of {', '.join(methods)} has an option {name!r} with "
                f"--semantics {semantics}; METHOD --help lists the options"
            )
    return points


def from_csv(path: Path, methods: list[str], semantics: str) -> list[Point]:
    """The points of these methods in a CSV file (loop/points.py), such as a sweep's own.

    raises  UserError for a wrong file, no row of one of the methods, a point that is there twice
    """
    points = [point for point, _ in read_points(path, semantics)]
    chosen = of_methods(points, methods, str(path))
    for index, point in enumerate(chosen):
        if point in chosen[:index]:
            raise UserError(f"{path}: {point.method} with {point.words} is there twice")
    return chosen


def from_record(value: object, semantics: str) -> list[Point]:
    """The points that settings.json of a sweep has: "METHOD: " and the words of each.

    raises  UserError for what no sweep writes
    """
    points = []
    for text in value if isinstance(value, list) else [value]:
        method, _, words = text.partition(": ") if isinstance(text, str) else ("", "", "")
        if method not in table.METHODS:
            raise UserError(
                f"{one_line(repr(text), 60)}; expected METHOD: and its values, such as npo: lr "
                "0.001, beta 1"
            )
        points.append(from_words(method, words, semantics))
        for name, text in points[-1].recipe.items():
            convert(Recipe, name, text)
    if not points:
        raise UserError("[]; expected one point or more")
    return points


def of_methods(points: list[Point], methods: list[str], where: str) -> list[Point]:
    """The points of these methods, in their order; UserError for a method without one.

    where  the points are from, for the message
    """
    for method in methods:
        if not any(point.method == method for point in points):
            raise UserError(f"{where}: has no row of {method}; expected one or more")
    return [point for method in methods for point in points if point.method == method]


def own_file(semantics: str) -> Path:
    """The embedded world's own points; UserError for a semantics that it was not tuned for."""
    path = mini_recipes.SWEEPS / f"{semantics}.csv"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in mini_recipes.SWEEPS.glob("*.csv")))
        raise UserError(
            f"sweep --semantics {semantics}: there is no built-in list of settings for it (there "
            f"is for {known or 'none'}); expected --grid NAME=V1,V2, --set-grid NAME=V1,V2 or "
            f"--points FILE{', or --released-code mm' * (semantics == TEXT_ONLY)}"
        )
    return path
