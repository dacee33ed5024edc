"""Options of the oracle's commands: explain, certify, diff, vectors, conform, visual-oracle."""

from clear_ref.methods import table
from clear_ref.oracle.diff import dump_format
from clear_ref.oracle.vectors.conform_settings import CONTRACT, ConformSettings
from clear_ref.visual.method_names import METHOD_NAMES

from .examine_settings import VECTORS, DiffSettings, ExplainSettings
from .options import Parser, add_set, add_shared
from .visual_oracle_settings import ACTIONS, VisualOracleSettings
from .visual_oracle_settings import CONTRACT as VISUAL_CONTRACT


def add_explain(one: Parser) -> None:
    """explain."""
    add_shared(one, "explain", ExplainSettings)
    one.add_argument(
        "method",
        nargs="?",
        metavar="METHOD",
        help="one of " + ", ".join(table.LOSSES) + "; visual: see below",
    )
    one.add_argument(
        "visual_method",
        nargs="?",
        metavar="VISUAL_METHOD",
        help="explain visual VISUAL_METHOD, of the visual-only track: one of "
        + ", ".join(METHOD_NAMES),
    )
    one.add_argument(
        "--batch",
        action="store_true",
        help="a batch token by token; contributions sum to the loss",
    )
    one.add_argument(
        "--mistakes",
        action="store_true",
        help="every known mistake, and what other projects compute: the names for --mistake",
    )
    add_set(one, "an option of the method")


def add_certify(one: Parser) -> None:
    """certify."""
    add_shared(one, "certify")


def add_diff(one: Parser) -> None:
    """diff."""
    add_shared(one, "diff", DiffSettings, epilog=dump_format.__doc__)
    one.add_argument(
        "dump", nargs="?", metavar="DUMP", help="safetensors file, as the helper writes it"
    )
    one.add_argument(
        "--helper",
        action="store_true",
        help="print the function that writes a dump from a transformers script",
    )


def add_vectors(one: Parser) -> None:
    """vectors."""
    add_shared(one, "vectors")
    one.add_argument("--out", metavar="DIR", help=f"directory to write (default: {VECTORS})")
    one.add_argument(
        "--compact", action="store_true", help="the compact set only, as in tests/vectors/golden"
    )
    one.add_argument(
        "--archive",
        metavar="FILE",
        help="a zip file to write instead: the compact set, its format, and a runner that needs "
        "numpy alone; the same bytes each time",
    )


def add_conform(one: Parser) -> None:
    """conform."""
    add_shared(one, "conform", ConformSettings, epilog=CONTRACT)
    one.add_argument(
        "--strict",
        action="store_true",
        help="another semantics than the one asked for fails as well",
    )
    one.add_argument(
        "--all-batches",
        action="store_true",
        help="hand over every batch with student and teacher, not only what the method reads",
    )
    one.add_argument(
        "--padded",
        action="store_true",
        help="pad all batches of a case to one length (without it T differs between batches)",
    )
    one.add_argument("--cases", action="store_true", help="a line for each case")


def add_visual_oracle(one: Parser) -> None:
    """visual-oracle."""
    add_shared(
        one, "visual_oracle", VisualOracleSettings, epilog=VISUAL_CONTRACT, computes_terms=False
    )
    one.add_argument(
        "action",
        choices=ACTIONS,
        metavar="ACTION",
        help="certify: every claim about the eight visual methods, measured; vectors: write their "
        "golden vectors; conform: check another implementation's losses; diff: which definition "
        "gives the loss of a step that was written to a file. Formulas: explain visual METHOD",
    )


ADD = {
    "explain": add_explain,
    "certify": add_certify,
    "diff": add_diff,
    "vectors": add_vectors,
    "conform": add_conform,
    "visual-oracle": add_visual_oracle,
}
