"""The commands and their options: what `python -m clear_ref.run` understands, and what its help says."""

import argparse
import os
from dataclasses import fields

from clear_ref.bench import likelihood, token_terms, training_step
from clear_ref.common.errors import UserError
from clear_ref.loop.recipes import RECIPES
from clear_ref.losses.implementation import IMPLEMENTATIONS, VARIABLE
from clear_ref.methods import table
from clear_ref.model import shapes
from clear_ref.oracle.vectors import conform

from . import checkpoint, diff, estimate, explain, report
from .settings import Evaluate, Finetune, Report, Score, Unlearn

EXAMPLES = """examples:
  python -m clear_ref.run scrub                      unlearn with SCRUB in the embedded world, about a minute
  python -m clear_ref.run npo --set beta=0.1         another method, one of its own options
  python -m clear_ref.run idk --modality text        forget the text only; the pictures stay in the model
  python -m clear_ref.run all                        all eleven methods, one leaderboard
  python -m clear_ref.run report runs/all-paper      one page of runs that are there, and CSV, LaTeX, Markdown
  python -m clear_ref.run estimate llava-1.5-7b      what a real model would take: memory, operations, minutes
  python -m clear_ref.run scrub --help               every setting of a command, its default and where that comes from
"""


class Parser(argparse.ArgumentParser):
    def print_help(self, file=None):
        """The help, written out before the exit, where a closed pipe is noticed."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message):
        """One line, exit status 2."""
        raise UserError(
            f"{self.prog.removeprefix('python -m clear_ref.run').strip() or 'command line'}: {message}; "
            "--help shows what is expected"
        )


def parser() -> Parser:
    """All commands with their options; the options are the fields of the settings dataclasses."""
    top = Parser(
        prog="python -m clear_ref.run",
        description="CLEAR: make a vision-language model forget people, and measure it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    for method, about in table.summaries().items():
        one = command(commands, method, about, Unlearn, skip={"method"})
        add_recipe(one, "unlearn")
        one.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            dest="options",
            help="an option of the method: " + "; ".join(table.option_help(method)),
        )
        one.add_argument("--resume", action="store_true", help="go on with the run in --out")
    every = command(
        commands,
        "all",
        "every method, one leaderboard",
        Unlearn,
        skip={"method", "modality", "seed"},
    )
    add_recipe(every, "unlearn")
    every.add_argument(
        "--modality", default="both", help="both, text, visual, or each (default: both)"
    )
    every.add_argument("--resume", action="store_true", help="go on with the runs in --out")
    every.add_argument(
        "--seeds",
        default="0",
        help="seeds, with commas: the leaderboard shows mean and spread (default: 0)",
    )
    tuned = command(
        commands, "finetune", "train a base (split full) or a gold (split retain) model", Finetune
    )
    add_recipe(tuned, "finetune")
    tuned.add_argument("--resume", action="store_true", help="go on with the run in --out")
    judged = command(
        commands, "evaluate", "logs and metrics of one model", Evaluate, skip={"model"}
    )
    judged.add_argument("--resume", action="store_true", help="go on with the evaluation in --out")
    judged.add_argument(
        "model",
        metavar="MODEL",
        help="model directory in HF format, or mini: the embedded world's base",
    )
    scored = command(
        commands,
        "score",
        "metrics of logs of ours, the released code, TOFU, open-unlearning",
        Score,
    )
    scored.add_argument(
        "log",
        metavar="LOG",
        nargs="+",
        help="run directory, its logs folder, or a log file (.json, .json.gz)",
    )
    told = command(
        commands,
        "report",
        "one page of many runs, and its table in CSV, LaTeX and Markdown",
        Report,
    )
    told.add_argument(
        "run",
        metavar="DIR",
        nargs="+",
        help="directory of a METHOD or evaluate run, or one that `all` wrote; all "
        "of one base, one gold and one set of questions",
    )
    told.epilog, told.formatter_class = report.__doc__, argparse.RawDescriptionHelpFormatter
    made = command(
        commands, "mini", "the embedded world: what it holds; --rebuild makes it again", None
    )
    made.add_argument(
        "--rebuild",
        metavar="DIR",
        help="write rows, tokenizer, base and gold again, from the sources, into DIR",
    )
    made.add_argument("--seed", type=int, default=0, help="key of every random choice (default: 0)")
    benched = command(
        commands,
        "bench",
        "beside other implementations: time, memory, error",
        token_terms.BenchSettings,
    )
    benched.add_argument(
        "--what",
        choices=("kernel", "step", "likelihood"),
        default="kernel",
        help="kernel: token terms; step: a training step, generation and likelihoods beside the released way of "
        "computing them, with --threads, --rounds (then 3), --shape and --tasks; likelihood: candidate "
        "answers with shared prompts beside plain forwards, with --threads, --rounds (then 3) and "
        "--records (default: kernel)",
    )
    add_settings(benched, training_step.BenchStepSettings, skip={"threads", "rounds"})
    add_settings(benched, likelihood.BenchLikelihoodSettings, skip={"threads", "rounds"})
    shaped = command(
        commands,
        "checkpoint",
        "write random weights in the shape of a real model, for tests of size and speed",
        checkpoint.CheckpointSettings,
    )
    shaped.add_argument("shape", metavar="SHAPE", help="one of " + ", ".join(shapes.SHAPES))
    judged_size = command(
        commands,
        "estimate",
        "memory and time of CLEAR's runs on a real model, computed from its shapes",
        estimate.EstimateSettings,
    )
    judged_size.add_argument("shape", metavar="SHAPE", help="one of " + ", ".join(shapes.SHAPES))
    checked = command(
        commands,
        "check-data",
        "what a data directory holds, and what is wrong with it (then exit status 1)",
        None,
    )
    checked.add_argument(
        "directory", metavar="DIR", help="data directory (CONFIG/rows.jsonl, images/), or mini"
    )
    add_oracle(commands)
    command(commands, "doctor", "what is installed, built and active", None)
    return top


def command(commands, name: str, about: str, kind, skip=frozenset()) -> Parser:
    """One command with --json, --quiet and an option for each field of its settings."""
    made = commands.add_parser(name, help=about, description=about + ".", allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
    made.add_argument("--quiet", action="store_true", help="no progress line")
    implementation = os.environ.get(VARIABLE, "auto")
    if kind is not conform.ConformSettings:  # whose --impl is the function to judge
        made.add_argument(
            "--impl",
            choices=IMPLEMENTATIONS,
            default=implementation,
            dest="token_terms",
            help="token terms: native (the compiled kernel), torch, or auto: native where it is built (default: "
            f"the environment's {VARIABLE}, or auto)",
        )
    add_settings(made, kind, skip)
    made.set_defaults(
        kind=kind, **({"token_terms": implementation} if kind is conform.ConformSettings else {})
    )
    return made


def add_settings(made: Parser, kind, skip) -> None:
    """An option for each field of a settings dataclass that is not to be skipped."""
    for f in fields(kind) if kind else ():
        if f.name not in skip:
            default = "off" if f.default is False else "none" if f.default == "" else f.default
            about = f"{f.metadata['meaning']} (default: {default}; {f.metadata['source']})"
            how = (
                {"action": "store_true"}
                if isinstance(f.default, bool)
                else {"type": type(f.default), "metavar": f.name.upper()}
            )
            made.add_argument(
                f"--{f.name.replace('_', '-')}",
                dest=f.name,
                default=argparse.SUPPRESS,
                help=about.replace("%", "%%"),
                **how,
            )


def add_oracle(commands) -> None:
    """The commands that ask the oracle."""
    told = command(
        commands,
        "explain",
        "what a method computes and why; --batch: what it does to every token of a batch",
        explain.ExplainSettings,
    )
    told.add_argument("method", metavar="METHOD", help="one of " + ", ".join(table.METHODS))
    told.add_argument(
        "--batch", action="store_true", help="a batch token by token; contributions sum to the loss"
    )
    told.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="options",
        help="an option of the method",
    )
    command(
        commands, "certify", "every claim about every method and meaning, measured in float64", None
    )
    told = command(
        commands,
        "diff",
        "the first stage at which another implementation's dump leaves ours",
        diff.DiffSettings,
    )
    told.add_argument(
        "dump", nargs="?", metavar="DUMP", help="safetensors file, as the helper writes it"
    )
    told.add_argument(
        "--helper",
        action="store_true",
        help="print the function that writes a dump from a transformers script",
    )
    told.epilog, told.formatter_class = diff.dump_file.__doc__, argparse.RawDescriptionHelpFormatter
    written = command(
        commands,
        "vectors",
        "write golden vectors: inputs, every method's right answers, known wrong ones",
        None,
    )
    written.add_argument(
        "--out", default="vectors", metavar="DIR", help="where to (default: vectors)"
    )
    written.add_argument(
        "--compact",
        action="store_true",
        help="the small set alone, as it lies in tests/vectors/golden",
    )
    judged_code = command(
        commands,
        "conform",
        "another implementation's losses held against the golden vectors",
        conform.ConformSettings,
    )
    judged_code.add_argument(
        "--strict", action="store_true", help="another meaning than the one asked for fails as well"
    )
    judged_code.add_argument("--cases", action="store_true", help="a line for each case")
    judged_code.epilog, judged_code.formatter_class = (
        conform.CONTRACT,
        argparse.RawDescriptionHelpFormatter,
    )


def add_recipe(made: Parser, purpose: str) -> None:
    """The recipe's values as options, with the paper's and the embedded world's defaults."""
    paper, mini = (RECIPES[name][purpose] for name in ("paper", "mini"))
    group = made.add_argument_group(
        "training recipe (paper: for real models; mini: for the embedded world)"
    )
    for ours, theirs in zip(fields(mini), fields(paper), strict=True):
        group.add_argument(
            f"--{ours.name.replace('_', '-')}",
            dest=f"recipe_{ours.name}",
            default=argparse.SUPPRESS,
            metavar=ours.name.upper(),
            help=f"{theirs.metadata['meaning']} (paper: {theirs.default}, {theirs.metadata['source']}; "
            f"mini: {ours.default})".replace("%", "%%"),
        )


def given_settings(arguments) -> tuple[object, set, dict]:
    """The settings, the names given on the command line, and the recipe values given there."""
    values = vars(arguments)
    own = {f.name: values[f.name] for f in fields(arguments.kind) if f.name in values}
    recipe = {
        name.removeprefix("recipe_"): value
        for name, value in values.items()
        if name.startswith("recipe_")
    }
    return arguments.kind(**own), set(own), recipe


def pairs(options: list[str]) -> dict[str, str]:
    """{name: value} of --set NAME=VALUE options."""
    for option in options:
        if "=" not in option:
            raise UserError(f"--set {option}: expected NAME=VALUE, such as --set beta=0.1")
    return dict(option.split("=", 1) for option in options)
