"""The command line: python -m clear_ref.run COMMAND. It parses, calls one function per command and prints."""

import argparse
import dataclasses
import json
import os
import sys
from dataclasses import fields

from . import bench, bench_step, compare, doctor, experiment, scoring, settings as settings_of, shapes
from .data import check
from .errors import RunFailed, UserError
from .losses import native
from .methods import table
from .oracle import certificates, conform, diff, explain_run, vectors
from .progress import Progress
from .report import scores, text as shown
from .world import data_directory

EXAMPLES = """examples:
  python -m clear_ref.run scrub                      unlearn with SCRUB in the embedded world, about a minute
  python -m clear_ref.run npo --set beta=0.1         another method, one of its own options
  python -m clear_ref.run idk --modality text        forget the text only; the pictures stay in the model
  python -m clear_ref.run all                        all eleven methods, one leaderboard
  python -m clear_ref.run scrub --help               every setting of a command, its default and where that comes from
"""
ORACLE = ("explain", "certify", "vectors", "conform", "diff")


class Parser(argparse.ArgumentParser):
    def print_help(self, file=None):
        """The help, written out before the exit, where a closed pipe is noticed."""
        print(self.format_help(), end="", file=file, flush=True)

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
    scored = command(commands, "score", "metrics of logs of ours, the released code, TOFU, open-unlearning", settings_of.Score)
    scored.add_argument("log", metavar="LOG", nargs="+", help="run directory, its logs folder, or a log file (.json, .json.gz)")
    made = command(commands, "mini", "the embedded world: what it holds; --rebuild makes it again", None)
    made.add_argument("--rebuild", metavar="DIR", help="write rows, tokenizer, base and gold again, from the sources, into DIR")
    made.add_argument("--seed", type=int, default=0, help="key of every random choice (default: 0)")
    benched = command(commands, "bench", "beside other implementations: time, memory, error", bench.BenchSettings)
    benched.add_argument("--what", choices=("kernel", "step"), default="kernel",
                         help="kernel: token terms; step: a training step, generation and likelihoods beside the released way of "
                              "computing them, with --threads, --rounds (then 3) and the settings below (default: kernel)")
    add_settings(benched, bench_step.BenchStepSettings, skip={"threads", "rounds"})
    shaped = command(commands, "checkpoint", "write random weights in the shape of a real model, for tests of size and speed",
                     shapes.CheckpointSettings)
    shaped.add_argument("shape", metavar="SHAPE", help="one of " + ", ".join(shapes.SHAPES))
    checked = command(commands, "check-data", "what a data directory holds, and what is wrong with it (then exit status 1)", None)
    checked.add_argument("directory", metavar="DIR", help="data directory (CONFIG/rows.jsonl, images/), or mini")
    add_oracle(commands)
    command(commands, "doctor", "what is installed, built and active", None)
    return top


def command(commands, name: str, about: str, kind, skip=frozenset()) -> Parser:
    """One command with --json, --quiet and an option for each field of its settings."""
    made = commands.add_parser(name, help=about, description=about + ".", allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
    made.add_argument("--quiet", action="store_true", help="no progress line")
    implementation = os.environ.get(native.VARIABLE, "auto")
    if kind is not conform.ConformSettings:  # whose --impl is the function to judge
        made.add_argument("--impl", choices=native.IMPLEMENTATIONS, default=implementation, dest="token_terms",
                          help="token terms: native (the compiled kernel), torch, or auto: native where it is built (default: "
                               f"the environment's {native.VARIABLE}, or auto)")
    add_settings(made, kind, skip)
    made.set_defaults(kind=kind, **({"token_terms": implementation} if kind is conform.ConformSettings else {}))
    return made


def add_settings(made: Parser, kind, skip) -> None:
    """An option for each field of a settings dataclass that is not to be skipped."""
    for f in fields(kind) if kind else ():
        if f.name not in skip:
            default = "none" if f.default == "" else f.default
            about = f"{f.metadata['meaning']} (default: {default}; {f.metadata['source']})"
            kind_of = {"action": "store_true"} if isinstance(f.default, bool) else {
                "type": type(f.default), "metavar": f.name.upper()}
            made.add_argument(f"--{f.name.replace('_', '-')}", dest=f.name, default=argparse.SUPPRESS,
                              help=about.replace("%", "%%"), **kind_of)


def add_oracle(commands) -> None:
    """The commands that ask the oracle."""
    told = command(commands, "explain", "what a method computes and why; --batch: what it does to every token of a batch",
                   explain_run.ExplainSettings)
    told.add_argument("method", metavar="METHOD", help="one of " + ", ".join(table.METHODS))
    told.add_argument("--batch", action="store_true", help="a batch token by token; contributions sum to the loss")
    told.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="options", help="an option of the method")
    command(commands, "certify", "every claim about every method and meaning, measured in float64", None)
    told = command(commands, "diff", "the first stage at which another implementation's dump leaves ours", diff.DiffSettings)
    told.add_argument("dump", nargs="?", metavar="DUMP", help="safetensors file, as the helper writes it")
    told.add_argument("--helper", action="store_true", help="print the function that writes a dump from a transformers script")
    told.epilog, told.formatter_class = diff.dump_file.__doc__, argparse.RawDescriptionHelpFormatter
    written = command(commands, "vectors", "write golden vectors: inputs, every method's right answers, known wrong ones", None)
    written.add_argument("--out", default="vectors", metavar="DIR", help="where to (default: vectors)")
    written.add_argument("--compact", action="store_true", help="the small set alone, as it lies in tests/vectors/golden")
    judged_code = command(commands, "conform", "another implementation's losses held against the golden vectors",
                          conform.ConformSettings)
    judged_code.add_argument("--strict", action="store_true", help="another meaning than the one asked for fails as well")
    judged_code.add_argument("--cases", action="store_true", help="a line for each case")
    judged_code.epilog, judged_code.formatter_class = conform.CONTRACT, argparse.RawDescriptionHelpFormatter


def add_recipe(made: Parser, purpose: str) -> None:
    """The recipe's values as options, with the paper's and the embedded world's defaults."""
    paper, mini = (settings_of.RECIPES[name][purpose] for name in ("paper", "mini"))
    group = made.add_argument_group("training recipe (paper: for real models; mini: for the embedded world)")
    for ours, theirs in zip(fields(mini), fields(paper), strict=True):
        group.add_argument(f"--{ours.name.replace('_', '-')}", dest=f"recipe_{ours.name}", default=argparse.SUPPRESS,
                           metavar=ours.name.upper(),
                           help=f"{theirs.metadata['meaning']} (paper: {theirs.default}, {theirs.metadata['source']}; "
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
    os.environ[native.VARIABLE] = arguments.token_terms  # what "auto" means here and in every process of the run
    native.implementation()
    if arguments.command == "doctor":
        return show(arguments, doctor.examine(), doctor.text)
    if arguments.command in ORACLE:
        return consult(arguments)
    if arguments.command == "mini":
        return show(arguments, experiment.mini(arguments.rebuild, arguments.seed), shown.mini)
    if arguments.command == "check-data":
        found = check.check(data_directory(arguments.directory))
        show(arguments, found, check.text)
        if found["problems"]:
            raise RunFailed(f"{arguments.directory} has {len(found['problems'])} wrong things in it; mend what is listed")
        return None
    if arguments.command == "bench":
        return benchmark(arguments)
    settings, given, recipe = given_settings(arguments)
    if arguments.command == "score":
        return show(arguments, scoring.run(arguments.log, settings), scores.text)
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


def benchmark(arguments) -> None:
    """bench: of token terms, or of a step; UserError for a setting of the other one."""
    kinds = {"kernel": (bench, bench.BenchSettings), "step": (bench_step, bench_step.BenchStepSettings)}
    chosen, arguments.kind = kinds[arguments.what]
    foreign = {f.name for _, kind in kinds.values() for f in fields(kind)} - {f.name for f in fields(arguments.kind)}
    for name in sorted(foreign & vars(arguments).keys()):
        raise UserError(f"--{name} is no setting of bench --what {arguments.what}; it has "
                        + ", ".join(f"--{f.name}" for f in fields(arguments.kind)))
    show(arguments, chosen.run(given_settings(arguments)[0]), chosen.text)


def consult(arguments) -> None:
    """One command of the oracle: print what it found, then fail where it found something wrong."""
    if arguments.command == "vectors":
        if not arguments.out:
            raise UserError("vectors: --out is ''; expected a directory (. for the working directory), or no --out")
        return show(arguments, vectors.write(vectors.build(not arguments.compact), arguments.out), vectors.text)
    if arguments.command == "certify":
        found = certificates.certify()
        show(arguments, found, certificates.text)
        return certificates.check(found)
    settings, given, _ = given_settings(arguments)
    if arguments.command == "conform":
        found = conform.run(settings, arguments.strict)
        show(arguments, found, lambda found: conform.text(found, arguments.cases))
        if not found["passed"]:
            raise RunFailed(f"{found['counts']['fail']} of {len(found['cases'])} cases fail")
        return None
    if arguments.command == "diff":
        if arguments.helper:
            return show(arguments, {"helper": diff.helper()}, lambda found: found["helper"])
        found = diff.run(arguments.dump, settings)
        show(arguments, found, diff.text)
        return diff.check(found)
    return show(arguments, explain_run.run(arguments.method, settings, arguments.batch, pairs(arguments.options),
                                           experiment.options_for, given), explain_run.text)


def seeds(text: str) -> list[int]:
    """The seeds of "0,1,2"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds is {text!r}; expected whole numbers with commas, such as 0,1,2") from None


def show(arguments, found: dict, as_text) -> None:
    """One JSON object, or the text for people."""
    print(json.dumps(found, ensure_ascii=False) if arguments.json else as_text(found), flush=True)


def main(argv=None) -> int:
    """Exit status: 0 done, 1 the run failed, 2 the input is wrong (one line on stderr); 130 stopped, 141 nobody reads on."""
    arguments = None
    try:
        arguments = parser().parse_args(argv)
        do(arguments)
    except UserError as error:
        print(f"clear_ref: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"clear_ref: the run failed: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has what it wants; the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"clear_ref: {error.filename or 'a file'}: cannot be read or written ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = "; --resume --out DIR goes on from the last finished epoch" if hasattr(arguments, "resume") else ""
        print(f"\nclear_ref: stopped{more}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
