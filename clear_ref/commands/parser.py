"""The command line: each command with its options, its help and the function that does it."""

import argparse
from importlib import metadata

from clear_ref.bench.likelihood import BenchLikelihoodSettings
from clear_ref.bench.token_terms import BenchSettings
from clear_ref.bench.training_step import BenchStepSettings
from clear_ref.loop import mini_recipes
from clear_ref.methods import table

from . import (
    all_methods,
    ask,
    bench,
    check_data,
    checkpoint,
    doctor,
    estimate,
    evaluate,
    finetune,
    make_data,
    mini,
    report,
    score,
    sweep,
    unlearn,
)
from .options import (
    PROGRAM,
    Commands,
    Parser,
    add_command,
    add_fresh,
    add_recipe,
    add_resume,
    add_set,
    add_settings,
    add_settings_file,
    add_shape,
)
from .oracle_commands import add_oracle
from .settings import Evaluate, Finetune, Report, Score, Sweep, Unlearn

EXAMPLES = f"""examples:
  {PROGRAM} scrub                      unlearn with SCRUB in the embedded world, two minutes
  {PROGRAM} npo --set beta=0.1         another method, with an option of its own
  {PROGRAM} idk --modality text        forget texts only; pictures are not trained on
  {PROGRAM} all                        all eleven methods, one leaderboard
  {PROGRAM} sweep npo --grid lr=1e-3,2e-3  which setting forgets most and keeps Retain
  {PROGRAM} report runs/all-paper      one page of finished runs, and CSV, LaTeX, Markdown
  {PROGRAM} estimate llava-1.5-7b      memory, operations and minutes of a real model
  {PROGRAM} scrub --help               every setting of a command, its default and its source
"""
WHAT_BENCH = (
    "kernel: token terms; step: a training step, generation and likelihoods beside the way of the "
    "released code, with --threads, --rounds (default 3), --shape and --tasks; likelihood: "
    "candidate answers with shared prompts beside plain forward passes, with --threads, --rounds "
    "(default 3) and --records (default: kernel)"
)


def parser() -> Parser:
    """All commands with their options; the options are the fields of the settings dataclasses."""
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
    add_training(commands)
    add_evaluation(commands)
    add_embedded_world_and_real_models(commands)
    add_oracle(commands)
    add_command(
        commands,
        "doctor",
        "what is installed, built and active; with --model, what is wrong with a model directory",
        doctor.command,
        doctor.DoctorSettings,
    )
    top.commands = commands.choices
    return top


def add_training(commands: Commands) -> None:
    """METHOD, all, finetune."""
    for method, about in table.summaries().items():
        one = add_command(commands, method, about, unlearn.command, Unlearn, skip={"method"})
        add_recipe(one, "unlearn", [method])
        own = "; ".join([*table.option_help(method), *mini_recipes.option_help(method)])
        add_set(one, f"an option of the method: {own}")
        add_settings_file(one)
        add_resume(one)
        add_fresh(one)
    every = add_command(
        commands,
        "all",
        "every method, one leaderboard",
        all_methods.command,
        Unlearn,
        skip={"method", "modality", "seed"},
    )
    add_recipe(every, "unlearn", table.METHODS)
    every.add_argument(
        "--modality",
        dest="modalities",
        choices=all_methods.MODALITY_CHOICES,
        default=argparse.SUPPRESS,
        help="records of the forget set that are trained on; each: one after the other (default: "
        "both)",
    )
    every.add_argument(
        "--seeds",
        default=argparse.SUPPRESS,
        help="seeds, with commas: the leaderboard shows mean and spread (default: 0)",
    )
    every.add_argument(
        "--methods",
        default=argparse.SUPPRESS,
        metavar="METHOD,...",
        help="methods to run, with commas (default: all)",
    )
    add_set(
        every,
        "an option for every chosen method that has it; METHOD.NAME=VALUE: for one method; METHOD "
        "--help lists the options",
    )
    add_settings_file(every)
    add_resume(every)
    add_fresh(every)
    add_sweep(commands)
    tuned = add_command(
        commands,
        "finetune",
        "train a base (split full) or a gold (split retain) model",
        finetune.command,
        Finetune,
    )
    add_recipe(tuned, "finetune")
    add_settings_file(tuned)
    add_resume(tuned)


def add_sweep(commands: Commands) -> None:
    """sweep."""
    one = add_command(
        commands,
        "sweep",
        "one or more methods, each with many settings; a rule chooses one setting of each method",
        sweep.command,
        Sweep,
        skip={"method", "seed", "metrics"},
    )
    one.add_argument(
        "methods", metavar="METHOD", help="a method, several with commas, or all: every method"
    )
    one.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values of the recipe to compare, such as lr=1e-4,3e-4; several: every combination "
        "(default: the settings from which the embedded world's recipes were chosen)",
    )
    one.add_argument(
        "--set-grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values of an option to compare, such as alpha=1,2,5, for the methods that have it",
    )
    one.add_argument(
        "--seeds",
        default="0",
        help="seeds, with commas: a setting's scores are the mean (default: 0)",
    )
    add_recipe(one, "unlearn", table.METHODS)
    add_fresh(one)
    add_resume(one)


def add_evaluation(commands: Commands) -> None:
    """evaluate, ask, score, report."""
    one = add_command(
        commands,
        "evaluate",
        "logs and metrics of one model",
        evaluate.command,
        Evaluate,
        skip={"model"},
    )
    one.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=argparse.SUPPRESS,
        help="model directory in HF format, or mini: the base model of the embedded world",
    )
    add_settings_file(one)
    add_resume(one)
    add_fresh(one)
    one = add_command(
        commands,
        "ask",
        "one answer, and the probabilities of its first tokens; with --adapter, before and after",
        ask.command,
        ask.Ask,
        skip={"model"},
    )
    one.add_argument(
        "model",
        metavar="MODEL",
        help="model directory in HF format, or mini: the base model of the embedded world",
    )
    one.add_argument("picture", metavar="PICTURE", help="a picture file, or -: no picture")
    one.add_argument("question", metavar="QUESTION", help="the question, in quotes")
    one = add_command(
        commands,
        "score",
        "metrics of logs of ours, the released code, TOFU, open-unlearning",
        score.command,
        Score,
    )
    one.add_argument(
        "log",
        metavar="LOG",
        nargs="+",
        help="run directory, its logs folder, or a log file (.json, .json.gz)",
    )
    one = add_command(
        commands,
        "report",
        "one page of many runs, and its table in CSV, LaTeX and Markdown",
        report.command,
        Report,
        epilog=report.__doc__,
    )
    one.add_argument(
        "run",
        metavar="DIR",
        nargs="+",
        help="directory of a METHOD or evaluate run, or one that `all` wrote; all with one base, "
        "one gold and one set of questions",
    )


def add_embedded_world_and_real_models(commands: Commands) -> None:
    """mini, bench, checkpoint, estimate, check-data, make-data."""
    one = add_command(
        commands,
        "mini",
        "the embedded world: what it holds; --rebuild makes it again",
        mini.command,
    )
    one.add_argument(
        "--rebuild",
        metavar="DIR",
        help="build rows, tokenizer, base and gold again from the sources, in DIR",
    )
    one.add_argument("--seed", type=int, default=0, help="key of every random choice (default: 0)")
    one = add_command(
        commands,
        "bench",
        "time, memory and error beside other implementations",
        bench.command,
        BenchSettings,
    )
    one.add_argument("--what", choices=bench.KINDS, default="kernel", help=WHAT_BENCH)
    for kind in (BenchStepSettings, BenchLikelihoodSettings):
        add_settings(one, kind, skip={"threads", "rounds"})
    one = add_command(
        commands,
        "checkpoint",
        "write random weights in the shape of a real model, for tests of size and speed",
        checkpoint.command,
        checkpoint.CheckpointSettings,
    )
    add_shape(one)
    one = add_command(
        commands,
        "estimate",
        "memory and time of CLEAR's runs on a real model, computed from its shapes",
        estimate.command,
        estimate.EstimateSettings,
    )
    add_shape(one)
    one = add_command(
        commands,
        "check-data",
        "what a data directory holds, what is wrong with it, and which commands can use it",
        check_data.command,
        epilog=check_data.__doc__,
    )
    one.add_argument(
        "directory", metavar="DIR", help="data directory (CONFIG/rows.jsonl, images/), or mini"
    )
    one = add_command(
        commands,
        "make-data",
        "a data directory from people of your own: names, pictures, captions, questions",
        make_data.command,
        make_data.MakeData,
        epilog=make_data.epilog(),
    )
    one.add_argument(
        "people", metavar="PEOPLE", nargs="?", help="a .csv or .jsonl file; its columns are below"
    )
