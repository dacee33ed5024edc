"""explain visual METHOD: what the file of a visual-only method says."""

from argparse import Namespace

from clear_ref.oracle.visual import method_file

from .examine_settings import ExplainSettings
from .given import settings_from
from .output import Output


def command(arguments: Namespace) -> Output:
    """What `explain visual METHOD` prints."""
    settings = settings_from(arguments, ExplainSettings)
    found = method_file.describe(arguments.visual_method, settings.semantics or None)
    return Output(found, method_file.text)
