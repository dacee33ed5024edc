"""The commands of the soak, and what two directories of one command must have alike."""

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from clear_ref.methods.table import METHODS

# Of trained tensors and losses that different numbers of processes computed in fp32. A gradient
# sums a few hundred rows, each rounded to 2^-24; AdamW divides an entry by its size, so an entry
# near 0 can move by its whole step: lr 5e-4 in each of 12 steps.
MOST_DIFFERENCE = 12 * 5e-4
MOST_OF_LOSS = 1e-3  # relative

# 6 forget records in steps of 2: 12 steps.
TRAINED = ("--recipe", "mini", "--epochs", "4", "--batch-size", "2", "--accumulate", "1")
FEW = ("--limit", "2", "--tasks", "eval_log_forget,eval_log", "--max-new-tokens", "4", "--quiet")
ROBUST = ("--robustness", "--relearn-records", "2", "--relearn-at", "1,2,3", "--round-bits", "4")


PHASES = ("training", "saving", "evaluating", "report")


@dataclass(frozen=True)
class Case:
    """A command that is stopped and resumed.

    processes  in each start: 1, 2, or 0: drawn anew for each start
    phases     in which a signal stops it
    threads    of each process; evaluation forks as many processes
    """

    name: str
    arguments: tuple[str, ...]
    processes: int
    phases: tuple[str, ...] = (*PHASES, *PHASES, "start")
    threads: int = 1
    trains: bool = True


def cases() -> list[Case]:
    """Every method with one and with two processes, and the commands with parts of their own."""
    found = []
    for processes in (1, 2):
        for method in METHODS:
            name = f"{method} x{processes}"
            found.append(Case(name, (method, *TRAINED, *FEW), processes))
    further = {
        "scrub original": ("scrub", "--semantics", "original", *TRAINED, *FEW),
        "npo released": ("npo", "--semantics", "released", *TRAINED, *FEW),
        "scrub weights": ("scrub", "--lora-rank", "0", *TRAINED, *FEW),
        "npo curve": ("npo", "--evaluate-every", "2", *TRAINED, *FEW),
        "finetune": ("finetune", *TRAINED, *FEW),
        "all": ("all", "--methods", "npo,grad_diff", "--seeds", "0,1", *TRAINED, *FEW),
    }
    for name, arguments in further.items():
        found.append(Case(f"{name} x1", arguments, 1, threads=2))
    for name in ("scrub original", "scrub weights", "all"):
        found.append(Case(f"{name} x2", further[name], 2))
    robust = ("evaluate", "MODEL", *ROBUST, *FEW)
    phases = ("robustness", "robustness", "robustness", "evaluating", "report", "start")
    found.append(Case("robustness x1", robust, 1, phases, trains=False))
    found.append(Case("robustness x2", robust, 2, phases, trains=False))
    found.append(Case("scrub x1 or x2", ("scrub", *TRAINED, *FEW), 0))
    found.append(Case("dpo x1 or x2", ("dpo", *TRAINED, *FEW), 0))
    return found


def words(case: Case, world: Path, save_every: int) -> tuple[str, ...]:
    """The command of a case on the tiny model and data in `world`."""
    found = [str(world / "tiny") if word == "MODEL" else word for word in case.arguments]
    found += ["--data", str(world / "data"), "--out", "run"]
    if case.trains:
        found += ["--model", str(world / "tiny"), "--save-every", str(save_every)]
    return tuple(found)


NOT_COMPARED = ("seconds", "save_every")  # columns
SECONDS = (
    (re.compile(r'"(seconds|train|evaluate|robustness)": [\d.]+'), r'"\1": 0'),
    (re.compile(r"(train|evaluate|robustness) [\d,.]+ s"), r"\1 0 s"),
    (re.compile(r"[\d,.]+ (s|min)\b"), "0 s"),
    (re.compile(r"(<td class=n>[\d.,]+</td>){2}(?=<td>run)"), ""),
)


def settled(path: Path, data: bytes) -> bytes:
    """A file's bytes without the seconds that the run took, and without --save-every.

    A checkpoint has the length of the trace, which has seconds, and a hash of that length too.
    """
    if path.suffix in (".json", ".jsonl", ".html", ".txt"):
        text = data.decode("utf-8")
        for pattern, new in SECONDS:
            text = pattern.sub(new, text)
        if path.suffix == ".json" and path.name == "settings.json":
            record = json.loads(text)
            record["settings"].pop("save_every", None)
            record.pop("processes", None)
            text = json.dumps(record)
        if path.name.startswith("state-"):
            record = json.loads(text)
            text = json.dumps(record | {"trace_bytes": 0, "sha256": ""})
        if path.suffix == ".html":
            text = re.sub(r"save[-_]every.{0,200}", "", text)
            text = re.sub(r"--save-every \d+", "", text)
        return text.encode("utf-8")
    if path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
        kept = [{name: row[name] for name in row if name not in NOT_COMPARED} for row in rows]
        return json.dumps(kept).encode("utf-8")
    return data


def files(folder: Path) -> dict[str, Path]:
    """{name: path} of every file below a folder."""
    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def differences(found: Path, expected: Path, processes_differ: bool) -> list[str]:
    """What is not alike in two run directories; with other numbers of processes, to a bound."""
    one, two = files(found), files(expected)
    if processes_differ:
        problems = [f"{name}: only in one" for name in sorted(one.keys() ^ two.keys())]
        return problems + _far(one, two)
    problems = [f"{name}: only in one" for name in sorted(one.keys() ^ two.keys())]
    for name in sorted(one.keys() & two.keys()):
        data = [settled(each[name], each[name].read_bytes()) for each in (one, two)]
        if data[0] != data[1]:
            problems.append(f"{name}: other bytes")
    return problems


def _far(one: dict[str, Path], two: dict[str, Path]) -> list[str]:
    """Tensors and losses that differ by more than their bound."""
    problems = []
    for name in sorted(one.keys() & two.keys()):
        if name.endswith(".safetensors") and not name.startswith("checkpoint"):
            most = furthest(one[name], two[name])
            if most > MOST_DIFFERENCE:
                problems.append(f"{name}: differs by {most:.2g}; at most {MOST_DIFFERENCE:.2g}")
        if name.endswith("trace.jsonl"):
            problems += _far_losses(name, one[name], two[name])
    return problems


def furthest(one: Path, two: Path) -> float:
    """The largest difference of two files of tensors with equal names."""
    first, second = load_file(one), load_file(two)
    return max(float((first[name] - second[name]).abs().max()) for name in second)


def _far_losses(name: str, one: Path, two: Path) -> list[str]:
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (one, two)]
    if [line["step"] for line in lines[0]] != [line["step"] for line in lines[1]]:
        return [f"{name}: other steps"]
    return [
        f"{name}, step {line['step']}: loss {line['loss']} and {other['loss']}"
        for line, other in zip(*lines, strict=True)
        if abs(line["loss"] - other["loss"]) > MOST_OF_LOSS * abs(other["loss"])
    ]
