"""The command line: python -m clear_ref.run COMMAND. It parses, calls one function per command and prints."""

import dataclasses
import json
import math
import os
import sys
from dataclasses import fields

import torch

from clear_ref.bench import likelihood, token_terms, training_step
from clear_ref.commands import (
    all_methods,
    checkpoint,
    diff,
    doctor,
    estimate,
    experiment,
    explain,
    report,
    score,
)
from clear_ref.commands.parser import given_settings, pairs, parser
from clear_ref.commands.resolve import options_for
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import one_line
from clear_ref.common.progress import Progress
from clear_ref.data import check
from clear_ref.loop.unlearn import MODALITIES
from clear_ref.losses import implementation
from clear_ref.mini.directories import data_directory
from clear_ref.oracle.certify import certificates
from clear_ref.oracle.vectors import conform, golden
from clear_ref.report import scores
from clear_ref.report import terminal as shown

ORACLE = ("explain", "certify", "vectors", "conform", "diff")


def do(arguments) -> None:
    """Run one parsed command and print what it found."""
    Progress.quiet = arguments.quiet
    os.environ[implementation.VARIABLE] = (
        arguments.token_terms
    )  # what "auto" means here and in every process of the run
    implementation.choose_implementation()
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
            raise RunFailed(
                f"{arguments.directory} has {len(found['problems'])} wrong things in it; mend what is listed"
            )
        return None
    if arguments.command == "bench":
        return benchmark(arguments)
    settings, given, recipe = given_settings(arguments)
    if arguments.command == "score":
        return show(arguments, score.run(arguments.log, settings), scores.text)
    if arguments.command == "report":
        return show(arguments, report.run(arguments.run, settings), shown.report)
    if arguments.command == "checkpoint":
        return show(arguments, checkpoint.run(arguments.shape, settings), checkpoint.text)
    if arguments.command == "estimate":
        return show(arguments, estimate.run(arguments.shape, settings), estimate.text)
    if arguments.command == "all":
        modalities = list(MODALITIES) if arguments.modality == "each" else [arguments.modality]
        result = all_methods.run_all(
            settings,
            modalities,
            seeds(arguments.seeds),
            recipe,
            given,
            (lambda row: None) if arguments.json or arguments.quiet else shown.one_of_all,
            arguments.resume,
        )
        return show(arguments, result.summary, shown.all_methods)
    if arguments.command == "finetune":
        result = experiment.finetune(settings, recipe, given, arguments.resume)
    elif arguments.command == "evaluate":
        result = experiment.evaluate(settings, given, arguments.resume)
    else:
        settings, given = (
            dataclasses.replace(settings, method=arguments.command),
            given | {"method"},
        )
        result = experiment.unlearn(
            settings, recipe, pairs(arguments.options), given, arguments.resume
        )
    show(arguments, result.summary, shown.one_run)


def benchmark(arguments) -> None:
    """bench: of token terms, a step or likelihoods; UserError for a setting of the others."""
    kinds = {
        "kernel": (token_terms, token_terms.BenchSettings),
        "step": (training_step, training_step.BenchStepSettings),
        "likelihood": (likelihood, likelihood.BenchLikelihoodSettings),
    }
    chosen, arguments.kind = kinds[arguments.what]
    foreign = {f.name for _, kind in kinds.values() for f in fields(kind)} - {
        f.name for f in fields(arguments.kind)
    }
    for name in sorted(foreign & vars(arguments).keys()):
        raise UserError(
            f"--{name} is no setting of bench --what {arguments.what}; it has "
            + ", ".join(f"--{f.name}" for f in fields(arguments.kind))
        )
    show(arguments, chosen.run(given_settings(arguments)[0]), chosen.text)


def consult(arguments) -> None:
    """One command of the oracle: print what it found, then fail where it found something wrong."""
    if arguments.command == "vectors":
        if not arguments.out:
            raise UserError(
                "vectors: --out is ''; expected a directory (. for the working directory), or no --out"
            )
        return show(
            arguments, golden.write(golden.build(not arguments.compact), arguments.out), golden.text
        )
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
    return show(
        arguments,
        explain.run(
            arguments.method,
            settings,
            arguments.batch,
            pairs(arguments.options),
            options_for,
            given,
        ),
        explain.text,
    )


def seeds(text: str) -> list[int]:
    """The seeds of "0,1,2"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--seeds is {text!r}; expected whole numbers with commas, such as 0,1,2"
        ) from None


def show(arguments, found: dict, as_text) -> None:
    """One JSON object, or the text for people. JSON has no number for infinity or NaN: they are printed as "inf" and "nan"."""
    print(
        json.dumps(in_json(found), ensure_ascii=False, allow_nan=False)
        if arguments.json
        else as_text(found),
        flush=True,
    )


def in_json(value):
    """The same value with each float that JSON cannot hold as a string."""
    if isinstance(value, dict):
        return {key: in_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [in_json(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
    except (MemoryError, RuntimeError) as error:
        if not isinstance(
            error, MemoryError | torch.OutOfMemoryError
        ) and "can't allocate memory" not in str(error):
            raise
        print(
            f"clear_ref: the run failed: no memory left ({one_line(error, 120)}); lower --eval-batch or --records-at-once, use "
            "--dtype bfloat16 or --checkpointing on; --resume goes on from the last finished part",
            file=sys.stderr,
        )
        return 1
    except (
        BrokenPipeError
    ):  # `| head` has what it wants; the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(
            f"clear_ref: {error.filename or 'a file'}: cannot be read or written ({error.strerror})",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        more = (
            "; --resume --out DIR goes on from the last finished part"
            if hasattr(arguments, "resume")
            else ""
        )
        print(f"\nclear_ref: stopped{more}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
