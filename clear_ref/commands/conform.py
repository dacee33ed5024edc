"""conform: check another implementation's losses against the golden vectors."""

from argparse import Namespace

from clear_ref.common.errors import RunFailed
from clear_ref.oracle.vectors import conform, conform_text

from .given import settings_from
from .output import Output


def command(arguments: Namespace) -> Output:
    """What `conform` prints; it fails if a case fails."""
    found = conform.run(
        settings_from(arguments, conform.ConformSettings),
        arguments.strict,
        arguments.all_batches,
        arguments.padded,
    )
    return Output(found, lambda result: conform_text.text(result, arguments.cases), check)


def check(found: dict) -> None:
    """Raises RunFailed if a case fails."""
    if not found["passed"]:
        raise RunFailed(f"{found['counts']['fail']} of {len(found['cases'])} cases fail")
