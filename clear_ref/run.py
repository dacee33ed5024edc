"""The command line: python -m clear_ref.run COMMAND. It parses, calls one function per command and prints."""

import argparse
import dataclasses
import json
import os
import sys
from dataclasses import fields

from . import bench, compare, doctor, experiment, settings as settings_of, shapes
from .data import check
from .errors import RunFailed, UserError
from .losses import native
from .methods import table
from .progress import Progress
from .report import text as shown
from .world import data_directory

EXAMPLES = """examples:
  python -m clear_ref.run scrub                      unlearn with SCRUB in the embedded world, about a minute
  python -m clear_ref.run npo --set beta=0.1         another method, one of its own options
  python -m clear_ref.run idk --modality text        forget the text only; the pictures stay in the model
  python -m clear_ref.run all                        all eleven methods, one leaderboard
  python -m clear_ref.run scrub --help               every setting of a command, its default and where that comes from
"""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, exit status 2."""
        raise UserError(f"{self.prog.removeprefix('python -m clear_ref.run').strip() or 'command line'}: {message}; "
                        "--help shows what is expected")


def parser() -> Parser:
    """All commands with their options; the options are the fields of the settings dataclasses."""
    top = Parser(prog="python -m clear_ref.run", description="CLEAR: make a vision-language model forget people, and measure it.",
                 epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for method, about in table.summaries().items():
        one = command(commands, method, about, settings_of.Unlearn, skip={"method"})
        add_recipe(one, "unlearn")
        one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="options",
                         help="an option of the method: " + "; ".join(table.option_help(method)))
        one.add_argument("--resume", action="store_true", help="go on with the run in --out")
    every = command(commands, "all", "every method, one leaderboard", settings_of.Unlearn, skip={"method", "modality", "seed"})
    add_recipe(every, "unlearn")
    every.add_argument("--modality", default="both", help="both, text, visual, or each (default: both)")
    every.add_argument("--seeds", default="0", help="seeds, with commas: the leaderboard shows mean and spread (default: 0)")
    tuned = command(commands, "finetune", "train a base (split full) or a gold (split retain) model", settings_of.Finetune)
    add_recipe(tuned, "finetune")
    tuned.add_argument("--resume", action="store_true", help="go on with the run in --out")
    judged = command(commands, "evaluate", "logs and metrics of one model", settings_of.Evaluate, skip={"model"})
    judged.add_argument("model", metavar="MODEL", help="model directory in HF format, or mini: the embedded world's base")
    made = command(commands, "mini", "the embedded world: what it holds; --rebuild makes it again", None)
    made.add_argument("--rebuild", metavar="DIR", help="write rows, tokenizer, base and gold again, from the sources, into DIR")
    made.add_argument("--seed", type=int, default=0, help="key of every random choice (default: 0)")
    command(commands, "bench", "token terms beside other implementations: time, memory, error", bench.BenchSettings)
    shaped = command(commands, "checkpoint", "write random weights in the shape of a real model, for tests of size and speed",
                     shapes.CheckpointSettings)
    shaped.add_argument("shape", metavar="SHAPE", help="one of " + ", ".join(shapes.SHAPES))
    checked = command(commands, "check-data", "what a data directory holds, and what is wrong with it (then exit status 1)", None)
    checked.add_argument("directory", metavar="DIR", help="data directory (CONFIG/rows.jsonl, images/), or mini")
    command(commands, "doctor", "what is installed, built and active", None)
    return top


def command(commands, name: str, about: str, kind, skip=frozenset()) -> Parser:
    """One command with --json, --quiet and an option for each field of its settings."""
    made = commands.add_parser(name, help=about, description=about + ".", allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
    made.add_argument("--quiet", action="store_true", help="no progress line")
    made.add_argument("--impl", choices=native.IMPLEMENTATIONS, default=os.environ.get(native.VARIABLE, "auto"),
                      help="token terms: native (the compiled kernel), torch, or auto: native where it is built (default: the "
                           f"environment's {native.VARIABLE}, or auto)")
    for f in fields(kind) if kind else ():
        if f.name not in skip:
            default = "none" if f.default == "" else f.default
            about = f"{f.metadata['meaning']} (default: {default}; {f.metadata['source']})"
            made.add_argument(f"--{f.name.replace('_', '-')}", dest=f.name, default=argparse.SUPPRESS, type=type(f.default),
                              metavar=f.name.upper(), help=about.replace("%", "%%"))
    made.set_defaults(kind=kind)
    return made


def add_recipe(made: Parser, purpose: str) -> None:
    """The recipe's values as options, with the paper's and the embedded world's defaults."""
    paper, mini = (settings_of.RECIPES[name][purpose] for name in ("paper", "mini"))
    group = made.add_argument_group("training recipe (paper: for real models; mini: for the embedded world)")
    for ours, theirs in zip(fields(mini), fields(paper), strict=True):
        group.add_argument(f"--{ours.name.replace('_', '-')}", dest=f"recipe_{ours.name}", default=argparse.SUPPRESS,
                           metavar=ours.name.upper(),
                           help=f"{ours.metadata['meaning']} (paper: {theirs.default}, {theirs.metadata['source']}; "
                                f"mini: {ours.default})".replace("%", "%%"))


def given_settings(arguments) -> tuple[object, set, dict]:
    """The settings, the names given on the command line, and the recipe values given there."""
    values = vars(arguments)
    own = {f.name: values[f.name] for f in fields(arguments.kind) if f.name in values}
    recipe = {name.removeprefix("recipe_"): value for name, value in values.items() if name.startswith("recipe_")}
    return arguments.kind(**own), set(own), recipe


def pairs(options: list[str]) -> dict[str, str]:
    """{name: value} of --set NAME=VALUE options."""
    for option in options:
        if "=" not in option:
            raise UserError(f"--set {option}: expected NAME=VALUE, such as --set beta=0.1")
    return dict(option.split("=", 1) for option in options)


def do(arguments) -> None:
    """Run one parsed command and print what it found."""
    Progress.quiet = arguments.quiet
    os.environ[native.VARIABLE] = arguments.impl  # what "auto" means here and in every process of the run
    native.implementation()
    if arguments.command == "doctor":
        return show(arguments, doctor.examine(), doctor.text)
    if arguments.command == "mini":
        return show(arguments, experiment.mini(arguments.rebuild, arguments.seed), shown.mini)
    if arguments.command == "check-data":
        found = check.check(data_directory(arguments.directory))
        show(arguments, found, check.text)
        if found["problems"]:
            raise RunFailed(f"{arguments.directory} has {len(found['problems'])} wrong things in it; mend what is listed")
        return None
    settings, given, recipe = given_settings(arguments)
    if arguments.command == "bench":
        return show(arguments, bench.run(settings), bench.text)
    if arguments.command == "checkpoint":
        return show(arguments, shapes.write_checkpoint(arguments.shape, settings), shapes.text)
    if arguments.command == "all":
        modalities = list(experiment.unlearning.MODALITIES) if arguments.modality == "each" else [arguments.modality]
        result = compare.run_all(settings, modalities, seeds(arguments.seeds), recipe, given,
                                 (lambda row: None) if arguments.json or arguments.quiet else shown.one_of_all)
        return show(arguments, result.summary, shown.all_methods)
    if arguments.command == "finetune":
        result = experiment.finetune(settings, recipe, given, arguments.resume)
    elif arguments.command == "evaluate":
        result = experiment.evaluate(settings, given)
    else:
        settings, given = dataclasses.replace(settings, method=arguments.command), given | {"method"}
        result = experiment.unlearn(settings, recipe, pairs(arguments.options), given, arguments.resume)
    show(arguments, result.summary, shown.one_run)


def seeds(text: str) -> list[int]:
    """The seeds of "0,1,2"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds is {text!r}; expected whole numbers with commas, such as 0,1,2") from None


def show(arguments, found: dict, as_text) -> None:
    """One JSON object, or the text for people."""
    print(json.dumps(found, ensure_ascii=False) if arguments.json else as_text(found))


def main(argv=None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 the input is wrong (one line on stderr)."""
    try:
        do(parser().parse_args(argv))
    except UserError as error:
        print(f"clear_ref: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"clear_ref: the run failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"clear_ref: {error.filename or 'a file'}: cannot be read or written ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nclear_ref: stopped; --resume --out DIR goes on with a training run from its last finished epoch",
              file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
