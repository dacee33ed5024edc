"""vectors: write golden vectors, against which implementations are checked."""

from argparse import Namespace

from clear_ref.common.errors import UserError
from clear_ref.oracle.vectors import golden

from .output import Output


def command(arguments: Namespace) -> Output:
    """What `vectors` prints."""
    if not arguments.out:
        raise UserError(
            "vectors: --out is ''; expected a directory (. for the working directory), or no --out"
        )
    return Output(golden.write(golden.build(not arguments.compact), arguments.out), golden.text)
