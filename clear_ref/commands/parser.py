"""The command line: every command in one line, and the options of the one that is given.

The files with the options of commands are imported only for a command of theirs: most of them need
torch, which takes seconds to import.
"""

import argparse
import importlib
from collections.abc import Sequence
from importlib import metadata

from clear_ref.methods import table

from . import training_commands
from .options import PROGRAM, Parser

EXAMPLES = f"""examples:
  {PROGRAM} scrub                      unlearn with SCRUB in the embedded world, two minutes
  {PROGRAM} npo --set beta=0.1         another method, with an option of its own
  {PROGRAM} idk --modality text        forget texts only; pictures are not trained on
  {PROGRAM} all                        all eleven methods, one leaderboard
  {PROGRAM} sweep npo --grid lr=1e-3,2e-3  which setting forgets most and keeps Retain
  {PROGRAM} visual all                 the visual-only track: eight methods, two attacks
  {PROGRAM} report runs/all-paper      one page of finished runs, and CSV, LaTeX, Markdown
  {PROGRAM} estimate llava-1.5-7b      memory, operations and minutes of a real model
  {PROGRAM} scrub --help               every setting of a command, its default and its source
"""
# {command: (file with its options, what it does)}; METHODs come before these
COMMANDS = {
    "all": ("training_commands", "every method, one leaderboard"),
    "sweep": (
        "training_commands",
        "one or more methods, each with many settings; a rule chooses one setting of each method",
    ),
    "finetune": (
        "training_commands",
        "train a base (split full) or a gold (split retain) model",
    ),
    "visual": (
        "visual_options",
        "the visual-only track: a face-recognition network forgets people (Table 5)",
    ),
    "evaluate": ("reading_commands", "logs and metrics of one model"),
    "metrics-audit": (
        "audit_options",
        "which metrics can tell a model that knows the people to forget from one that never did",
    ),
    "ask": (
        "file_commands",
        "one answer, and the probabilities of its first tokens; with --adapter, before and after",
    ),
    "score": (
        "reading_commands",
        "metrics of logs of ours, the released code, TOFU, open-unlearning",
    ),
    "report": (
        "file_commands",
        "one page of many runs, and its table in CSV, LaTeX and Markdown",
    ),
    "mini": (
        "file_commands",
        "the embedded world: what it holds; --rebuild makes it again",
    ),
    "bench": ("file_commands", "time, memory and error beside other implementations"),
    "checkpoint": (
        "file_commands",
        "write random weights in the shape of a real model, for tests of size and speed",
    ),
    "estimate": (
        "file_commands",
        "memory and time of CLEAR's runs on a real model, computed from its shapes",
    ),
    "check-data": (
        "file_commands",
        "what a data directory holds, what is wrong with it, and which commands can use it",
    ),
    "make-data": (
        "file_commands",
        "a data directory from people of your own: names, pictures, captions, questions",
    ),
    "explain": (
        "oracle_commands",
        "what a method computes and why; --batch: what it does to every token of a batch",
    ),
    "certify": (
        "oracle_commands",
        "every claim about every method and semantics, measured in float64",
    ),
    "diff": (
        "oracle_commands",
        "the first stage at which another implementation's dump differs from ours",
    ),
    "vectors": (
        "oracle_commands",
        "write golden vectors: inputs, every method's right answers, known wrong ones",
    ),
    "conform": (
        "oracle_commands",
        "check another implementation's losses against the golden vectors",
    ),
    "visual-oracle": (
        "oracle_commands",
        "certify, vectors, conform and diff of the eight visual-only methods",
    ),
    "doctor": (
        "reading_commands",
        "what is installed, built and active; with --model, what is wrong with a model directory",
    ),
}


def named_command(arguments: Sequence[str]) -> str:
    """The command that a command line names: its first argument without a dash, "" if none."""
    return next((each for each in arguments if not each.startswith("-")), "")


def parser(only: str | None = None) -> Parser:
    """All commands with their options; the options are the fields of the settings dataclasses.

    only  the options of this command alone; None: of every command
    """
    top = Parser(
        prog=PROGRAM,
        description="CLEAR: make a vision-language model forget people, and measure it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--version", action="version", version=f"clear_ref {metadata.version('clear_ref')}"
    )
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    about = table.summaries() | {name: text for name, (_, text) in COMMANDS.items()}
    for name, text in about.items():
        made = commands.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
        if only in (None, name):
            _add_options(made, name)
    top.commands = commands.choices
    return top


def _add_options(made: Parser, command: str) -> None:
    if command in table.METHODS:
        training_commands.add_method(made, command)
    else:
        file, _ = COMMANDS[command]
        importlib.import_module(f".{file}", __package__).ADD[command](made)
