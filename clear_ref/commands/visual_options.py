"""Options of the command `visual`."""

from clear_ref.visual.method_names import METHOD_NAMES

from .options import Parser, add_resume, add_set, add_shared
from .visual_settings import HELP, Visual


def add_visual(one: Parser) -> None:
    """visual."""
    add_shared(one, "visual", Visual, epilog=HELP, computes_terms=False)
    one.add_argument(
        "method",
        metavar="METHOD",
        choices=(*METHOD_NAMES, "all"),
        help="all, or one of " + ", ".join(METHOD_NAMES),
    )
    add_set(
        one,
        "METHOD.NAME=VALUE: an option of a method (clear_ref/visual/methods/README.md lists them)",
    )
    one.add_argument(
        "--train",
        action="append",
        default=[],
        metavar="STAGE.NAME=VALUE",
        help="a value of the recipe of base, gold or a method, such as base.epochs=10 or "
        "scrub.lr=0.02 (clear_ref/visual/recipes.py lists them)",
    )
    add_resume(one)


ADD = {"visual": add_visual}
