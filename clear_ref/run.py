"""The command line, python -m clear_ref.run COMMAND: parse, call the command, print."""

import os
import signal
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .commands.output import show
from .commands.parser import named_command, parser
from .commands.repeat import take_settings
from .common import distributed
from .common.errors import Notice, RunFailed, UserError, message_line
from .common.files import last_read, one_line
from .common.progress import Progress
from .common.stopping import signals_stop
from .losses.choice import default_implementation, use_implementation
from .methods.table import METHODS


def do(arguments: Namespace) -> None:
    """Run one parsed command and print what it found."""
    check_torchrun(arguments.command)
    distributed.start()
    Progress.begin(arguments.quiet)
    take_settings(arguments)
    with use_implementation(arguments.token_terms), notices_in_one_line():
        default_implementation()  # a wrong CLEAR_REF_IMPL is an error, also where it is not used
        show(arguments.function(arguments), arguments.json)
    distributed.end()


def check_torchrun(command: str) -> None:
    """UserError if torchrun started several processes for a command that uses one."""
    several = (*METHODS, "all", "finetune", "evaluate", "visual")
    if distributed.launched() > 1 and command not in several:
        raise UserError(
            f"{command} runs in one process; start it without torchrun, which is for METHOD, all, "
            "finetune, evaluate and visual"
        )


@contextmanager
def notices_in_one_line() -> Iterator[None]:
    """Inside the block a Notice is one line on stderr, once; other warnings are as before."""
    printed = set()
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show_warning(message: Any, category: Any, *rest: Any, **named: Any) -> None:
            if not issubclass(category, Notice):
                before(message, category, *rest, **named)
            elif str(message) not in printed:
                printed.add(str(message))
                print(f"clear_ref: {message_line(str(message))}", file=sys.stderr)

        warnings.showwarning = show_warning
        warnings.simplefilter("always", Notice)
        yield


def main(argv: list[str] | None = None) -> int:
    """The exit status of a command line.

    0 done; 1 the run failed or a check has a negative result; 2 the input is wrong or a file cannot
    be read or written; 130 interrupted, 143 terminated; 141 stdout was closed. An error is one line
    on stderr, also one that nobody has foreseen (status 1); with --debug its traceback comes before
    it.
    """
    with distributed.only_first_prints(), signals_stop():
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    """`main`, in a process whose output is that of the run or goes nowhere."""
    arguments = Namespace()
    try:
        given = sys.argv[1:] if argv is None else argv
        arguments = parser(named_command(given)).parse_args(given)
        do(arguments)
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends: that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", int(signal.SIGINT))
        resume = "; --resume --out DIR continues after the last finished part"
        print(file=sys.stderr)
        said = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        return fail(said + (resume if hasattr(arguments, "resume") else ""), 128 + number)
    except Exception as error:
        if getattr(arguments, "debug", False):
            traceback.print_exc()
        return fail(*message_and_status(error))
    return 0


def message_and_status(error: Exception) -> tuple[str, int]:
    """The error line and the exit status of an exception."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, RunFailed):
        return f"the run failed: {error}", 1
    if distributed.is_lost(error):
        return (
            "the run failed: another of its processes has ended; --resume --out DIR continues "
            "after the last finished part, with any number of processes"
        ), 1
    if is_out_of_memory(error):
        return (
            f"the run failed: out of memory ({one_line(error, 120)}); lower --eval-batch or "
            "--records-at-once, use --dtype bfloat16 or --checkpointing on; --resume continues "
            "after the last finished part"
        ), 1
    if isinstance(error, OSError):
        file = error.filename or "a file"
        return f"{file}: cannot be read or written ({error.strerror})", 2
    file = last_read()
    after = "" if file is None else f" after {file} was read: is it damaged?"
    return (
        f"the run failed: {type(error).__name__} ({one_line(error, 200)}){after}; "
        "the same command with --debug shows where"
    ), 1


def is_out_of_memory(error: BaseException) -> bool:
    """True for Python's, torch's and the CPU allocator's out-of-memory errors."""
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_torch)


def fail(message: str, status: int) -> int:
    """Print the error line, under torchrun once for all processes; returns the exit status."""
    distributed.print_error(f"clear_ref: {message_line(message)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
