"""The command `explain`: what a method's file says or, with a batch, what it does to each token."""

from argparse import Namespace
from dataclasses import fields

from clear_ref.common.errors import UserError
from clear_ref.methods import table
from clear_ref.oracle.explain import method_file, mistake_names
from clear_ref.oracle.explain.method_file import Description
from clear_ref.visual.method_names import METHOD_NAMES, check_not_visual

from .examine_settings import ExplainSettings
from .given import Given, given_from, settings_from
from .options import command_of
from .output import Output

VISUAL = "visual"  # explain visual METHOD: a method of the visual-only track


def command(arguments: Namespace) -> Output:
    """What `explain` prints."""
    settings = settings_from(arguments, ExplainSettings)
    given = given_from(arguments, ExplainSettings)
    if arguments.mistakes:
        return Output(all_names(arguments, given), mistake_names.text)
    if arguments.method is None:
        raise UserError(f"explain: METHOD is missing; expected one of {', '.join(table.LOSSES)}")
    if arguments.method == VISUAL:
        return visual(arguments, given)
    check_method(arguments)
    if arguments.batch or settings.compare or settings.html or settings.mistake:
        return command_of("explain_batch")(arguments)  # with torch
    check_without_batch(given)
    return Output(describe(arguments.method, settings), method_file.text)


def all_names(arguments: Namespace, given: Given) -> mistake_names.Names:
    """Every name that --mistake takes; UserError if the command line has more."""
    if arguments.method or arguments.batch or given.options or given.settings:
        raise UserError("explain --mistakes prints all names; expected nothing beside it")
    return mistake_names.names()


def check_method(arguments: Namespace) -> None:
    """UserError for a second method, and for one of the visual-only track alone."""
    method, second = arguments.method, arguments.visual_method
    if second is not None:
        raise UserError(
            f"explain {method} {second}: two methods; expected one, or explain {VISUAL} METHOD"
        )
    check_not_visual([method], f"explain {VISUAL} {method}")


def visual(arguments: Namespace, given: Given) -> Output:
    """What `explain visual METHOD` prints; UserError for anything beside --semantics."""
    if arguments.visual_method is None:
        raise UserError(
            f"explain {VISUAL}: METHOD is missing; expected one of {', '.join(METHOD_NAMES)}"
        )
    more = [f"--{name.replace('_', '-')}" for name in sorted(given.settings - {"semantics"})]
    more += ["--batch"] if arguments.batch else []
    more += ["--set"] if given.options else []
    more += ["--impl"] if arguments.token_terms else []
    if more:
        raise UserError(
            f"explain {VISUAL} prints what the method's file says and does not read "
            f"{', '.join(more)}; expected --semantics or nothing"
        )
    return command_of("explain_visual")(arguments)  # with torch


def describe(method: str, settings: ExplainSettings) -> Description:
    """What the method's file says."""
    return method_file.describe(method, settings.semantics or None)


def check_without_batch(given: Given) -> None:
    """UserError for a setting or option that changes nothing without a batch."""
    if given.options:
        raise UserError("--set changes nothing without a batch; add --batch, or leave --set out")
    names = [field.name for field in fields(ExplainSettings) if field.name != "semantics"]
    unused = [f"--{name.replace('_', '-')}" for name in names if name in given.settings]
    if unused:
        one = len(unused) == 1
        raise UserError(
            f"{', '.join(unused)} {'changes' if one else 'change'} nothing without a batch; "
            f"add --batch, or leave {'it' if one else 'them'} out"
        )
