"""The embedded world's recipes: for each method and semantics, what a sweep has chosen.

mini_recipes.json holds the choices, the rule that made them, and the command. The sweep's tables,
from which the choices follow, are mini_sweeps/SEMANTICS.csv.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json
from clear_ref.common.settings import setting_names
from clear_ref.methods import table

FILE = Path(__file__).with_name("mini_recipes.json")
SWEEPS = Path(__file__).with_name("mini_sweeps")
# Options that a model of this size needs before anything is tuned: the decoder has four layers, and
# its hidden states are short. Tuned values go before them.
OPTIONS = {"rmu": {"layer": 2, "c": 30.0}}


@dataclass(frozen=True)
class Tuned:
    """What a sweep has chosen for a method; a name that is not here keeps its default.

    recipe   {field of the recipe: value}
    options  {option of the method: value}
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@functools.cache
def _file() -> dict[str, Any]:
    return read_json(FILE)


def tuned(method: str, semantics: str) -> Tuned:
    """What the sweep has chosen for a method and a semantics; nothing for one that is not swept.

    A dated semantics has the values of the next later one that is swept.
    raises  UserError if the file names an option that the variant does not have
    """
    of_method = _file()["recipes"].get(method, {})
    name = next((name for name in table.later(semantics) if name in of_method), "")
    found = of_method.get(name, {"recipe": {}, "options": {}})
    known = setting_names(table.variant(method, semantics).options)
    options = {**OPTIONS.get(method, {}), **found["options"]}
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UserError(
            f"{FILE.name}: {method} {semantics} has no option {unknown[0]!r}; known: "
            f"{', '.join(known) or 'none'}"
        )
    return Tuned(found["recipe"], options)
