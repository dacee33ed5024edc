"""METHOD on the command line: one run (unlearn.py), or several requests after one another."""

from argparse import Namespace

from clear_ref.common.errors import UserError
from clear_ref.report import sequence_page, terminal

from . import sequence, unlearn
from .given import given_from, settings_from
from .guarded import strict_check
from .output import Output
from .repeat import check_inputs
from .settings import Unlearn


def command(arguments: Namespace) -> Output:
    """What `python -m clear_ref.run METHOD` prints."""
    settings = settings_from(arguments, Unlearn, method=arguments.command)
    given = given_from(arguments, Unlearn, "method")
    if settings.request and not settings.sequence:
        raise UserError(
            f"--request is {settings.request}, and there is no --sequence; expected both, or "
            "neither"
        )
    if settings.sequence:
        settings, given = sequence.with_forget(settings, given)
    if settings.sequence and not settings.request:
        whole = sequence.resolve(settings, given, arguments.resume)
        check_inputs(arguments, whole.record)
        found = sequence.run_requests(whole, arguments.fresh)
        return Output(found, sequence_page.terminal, strict_check(whole))
    run = unlearn.resolve(settings, given, arguments.resume)
    check_inputs(arguments, run.record)
    summary = unlearn.unlearn(run, fresh=arguments.fresh)
    return Output(summary, terminal.one_run, strict_check(run))
