"""The embedded world's recipes: for each method and semantics, what a sweep has chosen.

mini_sweeps/SEMANTICS.csv is the table that `python -m clear_ref.run sweep all --semantics
SEMANTICS` writes (sweep.csv): every setting that was tried, the scores of both halves of the
records, the rule, and the chosen setting of each method.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from clear_ref.common.settings import convert, setting_names
from clear_ref.methods import table

from .points import Point, read_points
from .recipes import Recipe

SWEEPS = Path(__file__).with_name("mini_sweeps")
# Options that a model of this size needs before anything is tuned: the decoder has four layers, and
# its hidden states are short. Tuned values go before them.
OPTIONS = {"rmu": {"layer": 2, "c": 30.0}}
# Options that another loss of the same method does not take from a sweep. npo before 2025-03-30 is
# log(1 + x^beta), x = log(p_student / p_teacher): where the student is the teacher, x is 0 and the
# slope is 0 for beta > 1 (nothing is ever trained) and infinite for beta < 1.
OF_ONE_LOSS = {"npo": ("beta",)}


@dataclass(frozen=True)
class Tuned:
    """What a sweep has chosen for a method; a name that is not here keeps its default.

    recipe   {field of the recipe: value}
    options  {option of the method: value, or value as text}
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@functools.cache
def _chosen(semantics: str) -> dict[str, Point]:
    """{method: the point that the sweep has chosen}; {} for a semantics without a sweep.

    Options that have the definition's default are left out: another date may have another one.
    """
    path = SWEEPS / f"{semantics}.csv"
    if not path.is_file():
        return {}
    return {
        point.method: Point(point.method, point.recipe, _not_default(point, semantics))
        for point, chosen in read_points(path, semantics)
        if chosen
    }


def _not_default(point: Point, semantics: str) -> dict[str, str]:
    options = table.variant(point.method, semantics).options
    defaults = {each.name: each.default for each in fields(options)}
    return {
        name: value
        for name, value in point.options.items()
        if convert(options, name, value) != defaults[name]
    }


@functools.cache
def tuned(method: str, semantics: str) -> Tuned:
    """What the sweep has chosen for a method and a semantics; nothing for one that is not swept.

    A dated semantics has the values of the next later one that is swept, as far as it has the
    options, but for those of OF_ONE_LOSS where its loss is another one.
    """
    variant = table.variant(method, semantics)
    point, known = Point(method), setting_names(variant.options)
    for name in table.later(semantics):
        if method in _chosen(name):
            point = _chosen(name)[method]
            if table.variant(method, name).loss is not variant.loss:
                known = [each for each in known if each not in OF_ONE_LOSS.get(method, ())]
            break
    options = {**OPTIONS.get(method, {}), **point.options}
    return Tuned(
        {name: convert(Recipe, name, value) for name, value in point.recipe.items()},
        {name: value for name, value in options.items() if name in known},
    )


def in_words(methods: Collection[str], name: str, default: Any) -> str:
    """The embedded world's value of one recipe setting for --help.

    One value if it is the same under every semantics, else each with its semantics; "by method" if
    several methods differ.
    """
    values = {
        (method, semantics): tuned(method, semantics).recipe.get(name, default)
        for method in methods
        for semantics in swept()
    }
    if len(set(values.values())) <= 1:
        return str(next(iter(values.values()), default))
    if len(methods) > 1:
        return "by method"
    return ", ".join(f"{semantics} {value}" for (_, semantics), value in values.items())


def option_help(method: str) -> list[str]:
    """A text for --help: the options whose value in the embedded world is not the default."""
    parts = []
    for semantics in swept():
        options = tuned(method, semantics).options
        if options:
            named = ", ".join(f"{name}={value}" for name, value in options.items())
            parts.append(f"{semantics} {named}")
    return [f"in the embedded world: {'; '.join(parts)}"] if parts else []


def swept() -> list[str]:
    """The semantics for which there is a sweep."""
    return [name for name in table.SEMANTICS if _chosen(name)]


def markdown() -> str:
    """The table of all chosen values in mini/README.md."""
    lines = ["| method | " + " | ".join(f"`{name}`" for name in swept()) + " |"]
    lines.append("|---" * (len(swept()) + 1) + "|")
    for method in table.METHODS:
        cells = [_chosen(name)[method].words for name in swept()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
