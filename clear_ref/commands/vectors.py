"""vectors: write golden vectors, against which implementations are checked."""

from argparse import Namespace
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import check_directory, check_file
from clear_ref.oracle.suite import archive
from clear_ref.oracle.vectors import golden, vector_files

from .examine_settings import VECTORS
from .output import Output


def command(arguments: Namespace) -> Output:
    """What `vectors` prints."""
    directory, file = arguments.out, arguments.archive
    if directory is not None and file is not None:
        raise UserError("vectors: --out and --archive are both given; expected one of them")
    if file is not None:
        check_file(Path(file), "--archive")
        return Output(archive.write(golden.build(), file), archive.text)
    directory = directory or VECTORS
    check_directory(Path(directory), "--out")
    vectors = golden.build(not arguments.compact)
    return Output(vector_files.write(vectors, directory), vector_files.text)
