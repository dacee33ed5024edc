"""The oracle's commands on the command line: explain, certify, diff, vectors, conform."""

from clear_ref.methods import table
from clear_ref.oracle.diff import dump_file
from clear_ref.oracle.vectors import conform as conform_vectors

from . import certify, conform, diff, explain, vectors
from .options import Commands, add_command, add_set


def add_oracle(commands: Commands) -> None:
    """explain, certify, diff, vectors, conform."""
    one = add_command(
        commands,
        "explain",
        "what a method computes and why; --batch: what it does to every token of a batch",
        explain.command,
        explain.ExplainSettings,
    )
    one.add_argument(
        "method", nargs="?", metavar="METHOD", help="one of " + ", ".join(table.LOSSES)
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
    add_command(
        commands,
        "certify",
        "every claim about every method and semantics, measured in float64",
        certify.command,
    )
    one = add_command(
        commands,
        "diff",
        "the first stage at which another implementation's dump differs from ours",
        diff.command,
        diff.DiffSettings,
        epilog=dump_file.__doc__,
    )
    one.add_argument(
        "dump", nargs="?", metavar="DUMP", help="safetensors file, as the helper writes it"
    )
    one.add_argument(
        "--helper",
        action="store_true",
        help="print the function that writes a dump from a transformers script",
    )
    one = add_command(
        commands,
        "vectors",
        "write golden vectors: inputs, every method's right answers, known wrong ones",
        vectors.command,
    )
    one.add_argument(
        "--out", metavar="DIR", help=f"directory to write (default: {vectors.DEFAULT})"
    )
    one.add_argument(
        "--compact", action="store_true", help="the compact set only, as in tests/vectors/golden"
    )
    one.add_argument(
        "--archive",
        metavar="FILE",
        help="a zip file to write instead: the compact set, its format, and a runner that needs "
        "numpy alone; the same bytes each time",
    )
    one = add_command(
        commands,
        "conform",
        "check another implementation's losses against the golden vectors",
        conform.command,
        conform_vectors.ConformSettings,
        epilog=conform_vectors.CONTRACT,
    )
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
