"""make-data: from people's names, pictures and questions to a data directory that commands use."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.data import check
from clear_ref.data import people as people_file
from clear_ref.data.make_data import Made, make_data, split_people
from clear_ref.mini.directories import data_directory
from clear_ref.mini.example_people import write_example

from .check_data import explained
from .data_needs import YES, Use, data_needs
from .file_settings import MakeData
from .given import given_from, settings_from
from .options import PROGRAM
from .output import Output

NO_REAL = "none"
FORGET = 10  # the forget set is forget10


def command(arguments: Namespace) -> Output:
    """What `make-data` prints."""
    given = set(given_from(arguments, MakeData).settings)
    settings = settings_from(arguments, MakeData)
    if settings.example:
        others = sorted(given - {"example"})
        if arguments.people is not None or others:
            other = "PEOPLE" if arguments.people is not None else f"--{others[0].replace('_', '-')}"
            raise UserError(f"--example writes an example alone; leave {other} out")
        run_directory.check_empty(Path(settings.example), "--example")
        write_example(settings.example)
        return Output({"example": settings.example}, text_of_example)
    if arguments.people is None:
        raise UserError("make-data: PEOPLE is missing; expected a .csv or .jsonl file (--help)")
    if settings.forget and "forget_share" in given:
        raise UserError("--forget names people, --forget-share draws them; expected one of the two")
    for option, value in (("--pictures", settings.pictures), ("--out", settings.out)):
        if not value:
            raise UserError(f"{option} is ''; expected a directory")
    out = Path(settings.out)
    run_directory.check_empty(out, "--out")
    people = people_file.read_people(arguments.people)
    split = split_people(
        people, settings.forget, settings.forget_share, settings.holdout, settings.seed
    )
    real = None if settings.real == NO_REAL else data_directory(settings.real)
    made = make_data(split, settings.pictures, out, settings.seed, real)
    return Output(found(settings, made, data_needs(out, check.examine(out))), text)


def found(settings: MakeData, made: Made, uses: list[Use]) -> dict[str, Any]:
    """What --json prints; uses: what each command needs of the data."""
    return {
        "out": settings.out,
        "retain": [person.name for person in made.split.retain],
        "forget": [person.name for person in made.split.forget],
        "holdout": [person.name for person in made.split.holdout],
        "rows": {config: counts["rows"] for config, counts in made.checked["configs"].items()},
        "paraphrases": made.paraphrases,
        "real": {"from": settings.real, "configs": made.real},
        "notes": made.checked["notes"],
        "stops": [
            f"{use['command']}: {explained(use)}"
            for use in uses
            if use["forget"] == FORGET and use["runs"] != YES and not use["language_model"]
        ],
    }


def text(result: dict[str, Any]) -> str:
    """What was made, for a terminal, and the commands that come next."""
    rows = result["rows"]
    lines = [
        f"{result['out']}: {rows['full']} pictures and {rows['tofu/full']} questions to train on; "
        "check-data finds no problem"
    ]
    for config, part in (("forget10", "forget"), ("retain90", "retain"), ("holdout10", "holdout")):
        if result[part]:
            lines.append(f"{config:10} {', '.join(result[part])}")
    real = result["real"]
    if real["configs"]:
        lines.append(f"Real sets  {', '.join(real['configs'])} of {real['from']}")
    else:
        lines.append("Real sets  none: evaluations need --tasks without eval_real_...")
    texts = result["paraphrases"]
    if texts["given"] < texts["of"]:
        lines.append(
            f"paraphrases are given for {texts['given']} of {texts['of']} texts; for the others "
            "the text itself is used, and its wrong texts are made from it"
        )
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [f"cannot run as it is: {line}" for line in result["stops"]]
    lines += ["", "next:"]
    data = f"--data {result['out']}"
    for split, out in (("full", "full"), ("retain", "gold")):
        lines.append(
            f"  {PROGRAM} finetune {data} --model mini-base --name-question --split {split} "
            f"--out {out}"
        )
    lines.append(f"  {PROGRAM} scrub {data} --model full/model --gold gold/model --out forgotten")
    return "\n".join(lines)


def text_of_example(result: dict[str, Any]) -> str:
    """What --example has written, and the command that comes next."""
    example = result["example"]
    return (
        f"{example}: people.csv and pictures/ of five invented people; next:\n"
        f"  {PROGRAM} make-data {example}/people.csv --pictures {example}/pictures --out own"
    )
