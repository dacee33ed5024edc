"""Options of the command line: the parser, and the options that commands share."""

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.loop import mini_recipes
from clear_ref.loop.recipes import RECIPES
from clear_ref.losses.choice import IMPLEMENTATIONS, VARIABLE
from clear_ref.methods import FURTHER
from clear_ref.model.shape_table import SHAPES
from clear_ref.oracle.vectors.conform_settings import ConformSettings
from clear_ref.report.command_line import PROGRAM
from clear_ref.visual.method_names import VISUAL_ALONE

from .output import Output


class Once(argparse.Action):
    """Stores a value. An option given twice is an error: the last value would win in silence."""

    given: tuple[Any, Any] = (None, None)  # the namespace of the last parse, the value

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value; raises ArgumentError if there is one already."""
        where, before = self.given
        if where is namespace and option_string:
            raise argparse.ArgumentError(self, f"given twice, as {before} and as {values}")
        self.given = namespace, values
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, and whose options are given once.

    commands  {name: parser} of its commands; empty for a parser without commands
    repeats   whether --settings is given: an empty value beside it takes back what its file has
    """

    commands: Mapping[str, "Parser"] = {}
    repeats = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for action in (None, "store"):
            self.register("action", action, Once)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The parsed arguments; UserError of the command that has an unknown one."""
        given = sys.argv[1:] if args is None else args
        repeats = any(word.split("=")[0] == "--settings" for word in given)
        for command in self.commands.values():
            command.repeats = repeats
        found, unknown = self.parse_known_args(with_numbers_joined(given), namespace)
        if unknown:
            command = self.commands.get(getattr(found, "command", ""), self)
            command.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def print_help(self, file: Any = None) -> None:
        """Print the help and flush, so that a closed stdout is noticed here."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> Any:
        """Raises UserError: one line, exit status 2."""
        command = self.prog.removeprefix(PROGRAM).strip() or "command line"
        raise UserError(f"{command}: {self.with_hint(message)} --help shows what is expected")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Also refuses an option without a value, as a variable of the shell that is not set: its
        command would take it for the default."""
        is_empty = isinstance(value, str) and not value.strip()
        may_be = self.repeats and action.dest != "settings_file"
        if action.option_strings and is_empty and not may_be:
            option = action.option_strings[-1]
            self.error(f"{option} is {value!r}; expected a value, or no {option}")
        super()._check_value(action, value)

    def with_hint(self, message: str) -> str:
        """argparse's message with what the user may have meant.

        The list of all commands is left out where one of them is near.
        """
        unknown = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if unknown and unknown[1] in FURTHER:
            return (
                f"{unknown[1]!r} is a loss that no command trains with: explain {unknown[1]}, "
                f"conform --methods {unknown[1]}, or clear_ref.method_loss in Python;"
            )
        if unknown and unknown[1] in VISUAL_ALONE:
            return f"{unknown[1]!r} is a method of the visual-only track: visual {unknown[1]};"
        if unknown:
            near = nearest(unknown[1], re.findall(r"'(.*?)'", unknown[2]))
            if near and message.startswith("argument COMMAND"):
                return f"{unknown[1]!r} is no command; did you mean {near}?"
            return message + (f"; did you mean {near}?" if near else ";")
        unrecognized = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        near = nearest(unrecognized[1], self.option_names()) if unrecognized else ""
        if near:
            return f"{message}; did you mean {near}?"
        if message.endswith("expected one argument"):
            return f"{message}; a value that begins with - is written after =, as in --lr=-1e-3;"
        return f"{message};"

    def option_names(self) -> list[str]:
        """The long options of this parser."""
        return sorted(set(re.findall(r"--[a-z][a-z-]*", self.format_help())))


def with_numbers_joined(arguments: Sequence[str]) -> list[str]:
    """The arguments; "--lr -1e-3" is "--lr=-1e-3", which argparse takes for a value."""
    joined: list[str] = []
    for argument in arguments:
        is_number = re.fullmatch(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf", argument, re.IGNORECASE)
        if is_number and joined and re.fullmatch(r"--[a-z][a-z0-9-]*", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def nearest(word: str, known: list[str]) -> str:
    """The known word that is most like `word`; "" if none is near."""
    found = difflib.get_close_matches(word, known, 1)
    return found[0] if found else ""


Command = Callable[[argparse.Namespace], Output]


def command_of(file: str) -> Command:
    """The function `command` of a file of this room, which is imported when it is called.

    So torch is imported by the commands that need it, after the command line is known to be right.
    """

    def command(arguments: argparse.Namespace) -> Output:
        return importlib.import_module(f".{file}", __package__).command(arguments)

    return command


def add_shared(
    made: Parser,
    file: str,
    kind: type | None = None,
    skip: Collection[str] = frozenset(),
    epilog: str | None = None,
    computes_terms: bool = True,
) -> Parser:
    """Add --json, --quiet, --debug, --impl and an option for each field of a command's settings.

    file    has the function that the command calls
    kind    its settings dataclass; skip: fields that it takes in another way
    epilog  printed below the options as it is
    computes_terms  whether it computes token terms; if not, it has no --impl
    """
    if epilog:
        made.epilog = epilog
        made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
    made.add_argument("--quiet", action="store_true", help="no progress line")
    made.add_argument(
        "--debug", action="store_true", help="before an error's line, where in the code it is from"
    )
    if computes_terms and kind is not ConformSettings:  # its --impl is the function to check
        made.add_argument(
            "--impl",
            choices=IMPLEMENTATIONS,
            dest="token_terms",
            help="token terms: native (the compiled kernel), torch, or auto: native where it is "
            f"built (default: the environment variable {VARIABLE}, or auto)",
        )
    add_settings(made, kind, skip)
    made.set_defaults(function=command_of(file), kind=kind, token_terms=None)
    return made


def add_settings(made: Parser, kind: type | None, skip: Collection[str] = frozenset()) -> None:
    """An option for each field of a settings dataclass but those of `skip`."""
    for f in fields(kind) if kind else ():
        if f.name in skip:
            continue
        about = f"{f.metadata['meaning']} ({_default(f)})"
        choices = [str(value) for value in f.metadata["choices"] or () if value != ""]
        how: dict[str, Any]
        if isinstance(f.default, bool):
            how = {"action": "store_true"}
        else:
            metavar = "{" + ",".join(choices) + "}" if choices else f.name.upper()
            how = {"type": type(f.default), "metavar": metavar}
        made.add_argument(
            f"--{f.name.replace('_', '-')}",
            dest=f.name,
            default=argparse.SUPPRESS,
            help=about.replace("%", "%%"),
            **how,
        )


def _default(field: Field[Any]) -> str:
    """What --help says of a default. The meaning says what "" stands for."""
    source = str(field.metadata["source"])
    if field.default == "":
        return source
    return f"default: {'off' if field.default is False else field.default}; {source}"


def add_recipe(made: Parser, purpose: str, methods: Collection[str] = ()) -> None:
    """The recipe's values as options, with the defaults of the paper and of the embedded world.

    methods  those whose values in the embedded world are named; of several: "by method"
    """
    paper, mini_recipe = (RECIPES[name][purpose] for name in ("paper", "mini"))
    group = made.add_argument_group(
        "training recipe (paper: for real models; mini: for the embedded world)"
    )
    for ours, theirs in zip(fields(mini_recipe), fields(paper), strict=True):
        about = (
            f"{theirs.metadata['meaning']} (paper: {theirs.default}, {theirs.metadata['source']}; "
            f"mini: {mini_recipes.in_words(methods, ours.name, ours.default)})"
        )
        choices = theirs.metadata["choices"]
        group.add_argument(
            f"--{ours.name.replace('_', '-')}",
            dest=f"recipe_{ours.name}",
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(choices) + "}" if choices else ours.name.upper(),
            help=about.replace("%", "%%"),
        )


def add_set(made: Parser, about: str) -> None:
    """--set NAME=VALUE"""
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="options", help=about
    )


def add_resume(made: Parser) -> None:
    """--resume"""
    made.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out where it stopped, with the settings that it began with",
    )


def add_settings_file(made: Parser) -> None:
    """--settings"""
    made.add_argument(
        "--settings",
        dest="settings_file",
        default="",
        metavar="FILE",
        help="settings.json of an earlier run of this command (or its directory): repeat that run; "
        "options given beside it win",
    )


def add_fresh(made: Parser) -> None:
    """--fresh"""
    made.add_argument(
        "--fresh",
        action="store_true",
        help="evaluate base and gold again although runs/.evaluated holds their logs: those of the "
        "same model, data, settings and code",
    )


def add_shape(made: Parser, *more: str) -> None:
    """SHAPE; more: what a command takes in its place."""
    known = ", ".join([*SHAPES, *more])
    made.add_argument("shape", metavar="SHAPE", help=f"one of {known}")
