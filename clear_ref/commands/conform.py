"""conform: check another implementation's losses against the golden vectors."""

from argparse import Namespace
from pathlib import Path

from clear_ref.common.errors import RunFailed
from clear_ref.common.files import write_bytes
from clear_ref.common.run_directory import check_file
from clear_ref.oracle.suite import junit
from clear_ref.oracle.vectors import conform, conform_text
from clear_ref.visual.method_names import check_not_visual

from .given import settings_from
from .output import Output


def command(arguments: Namespace) -> Output:
    """What `conform` prints; it fails if a case fails."""
    settings = settings_from(arguments, conform.ConformSettings)
    check_not_visual(settings.methods.split(","), "visual-oracle conform --methods")
    if settings.junit:
        check_file(Path(settings.junit), "--junit")
    found = conform.run(settings, arguments.strict, arguments.all_batches, arguments.padded)
    if settings.junit:
        write_bytes(settings.junit, junit.of_result(found))
    return Output(found, lambda result: conform_text.text(result, arguments.cases), check)


def check(found: dict) -> None:
    """Raises RunFailed if a case fails."""
    if not found["passed"]:
        raise RunFailed(f"{found['counts']['fail']} of {len(found['cases'])} cases fail")
