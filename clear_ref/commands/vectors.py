"""vectors: write golden vectors, against which implementations are checked."""

from argparse import Namespace
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import check_directory
from clear_ref.oracle.vectors import golden, vector_files

from .output import Output


def command(arguments: Namespace) -> Output:
    """What `vectors` prints."""
    if not arguments.out:
        raise UserError(
            "vectors: --out is ''; expected a directory (. for the working directory), or no --out"
        )
    check_directory(Path(arguments.out), "--out")
    return Output(
        vector_files.write(golden.build(not arguments.compact), arguments.out), vector_files.text
    )
