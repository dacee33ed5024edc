"""The names of the methods and of their semantics, without torch, for the command line."""

from collections.abc import Iterable

from clear_ref.common.errors import UserError
from clear_ref.methods.table import LOSSES

from .recipes import METHOD_RECIPES

METHOD_NAMES = tuple(METHOD_RECIPES)
SEMANTICS = ("paper", "released", "original")
STAGES = ("base", "gold", *METHOD_NAMES)
# Names that only this track has; the others are names of language models' methods too.
VISUAL_ALONE = tuple(name for name in METHOD_NAMES if name not in LOSSES)


def check_not_visual(names: Iterable[str], instead: str) -> None:
    """UserError for a name of VISUAL_ALONE; instead: the command that knows it."""
    for name in names:
        if name.strip() in VISUAL_ALONE:
            raise UserError(
                f"method {name.strip()!r} is of the visual-only track; expected {instead}"
            )
