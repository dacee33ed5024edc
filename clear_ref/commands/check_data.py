"""check-data: what a data directory holds, and what is wrong with it."""

from argparse import Namespace

from clear_ref.common.errors import RunFailed
from clear_ref.data import check
from clear_ref.mini.directories import data_directory

from .output import Output


def command(arguments: Namespace) -> Output:
    """What `check-data` prints; it fails if there are problems."""

    def fail_on_problems(found: dict) -> None:
        if found["problems"]:
            raise RunFailed(
                f"{arguments.directory} has {len(found['problems'])} problems, listed above"
            )

    found = check.check(data_directory(arguments.directory))
    return Output(found, check.text, fail_on_problems)
