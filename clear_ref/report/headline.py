"""The headline of a page, and the line of facts below it."""

from clear_ref.evaluation.metrics import Scores

from .columns import PAPER_COLUMNS, number
from .leaderboard import PANELS
from .read_runs import Report, Run
from .run_groups import RunGroup


def headline(report: Report, groups: list[RunGroup]) -> str:
    """The result in one sentence.

    Of one run: Forget and Retain (of text, if no picture was asked about). Of several: which one is
    most like gold, among those that have kept Retain.
    """
    if len(report.runs) == 1:
        return _of_one(report, report.runs[0])
    return _of_several(report, groups)


def _of_several(report: Report, groups: list[RunGroup]) -> str:
    definitions = report.sets[0]
    count = f"{len(report.runs)} runs"
    if all(run.semantics for run in report.runs):
        count += f" of {len({run.name for run in report.runs})} methods"
    first: RunGroup | None = None
    highest = 0.0
    for group in groups:
        quality = _mean_forget_quality(group, definitions)
        if quality is not None and (first is None or quality > highest):
            first = group
            highest = quality
    if first is None:
        return count
    label = first.label
    if len({group.panel for group in groups}) > 1:
        label += f" ({PANELS.get(first.panel, first.panel).lower()})"
    result = f"forget quality {number(highest, 2)}"
    of_base = report.metrics.get("base", {}).get(definitions, {}).get("forget_quality")
    if of_base is not None:
        result += f" (base {number(of_base, 2)})"
    return f"{count}: most like gold, with Retain kept, is {label}, {result}"


def _mean_forget_quality(group: RunGroup, definitions: str) -> float | None:
    """The mean over seeds; None if a seed has no number, or if Retain has collapsed."""
    if group.collapsed:
        return None
    values = [run.metrics[definitions].get("forget_quality") for run in group.runs]
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def _of_one(report: Report, run: Run) -> str:
    definitions = report.sets[0]
    after = run.metrics[definitions]
    before = report.metrics.get("base", {}).get(definitions, {})
    gold = report.metrics.get("gold", {}).get(definitions, {})
    shown = [metric for metric in ("forget", "retain") if after.get(metric) is not None]
    if not shown:
        of_text = ("text_forget", "text_retain", "real")
        shown = [metric for metric in of_text if after.get(metric) is not None]
    changes = [_change(metric, before, after, gold) for metric in shown]
    if after.get("forget_quality") is not None:
        changes.append(f"forget quality {number(after['forget_quality'], 2)}")
    subject = f"{run.name}, {run.semantics} semantics" if run.semantics else run.name
    return f"{subject}: " + (", ".join(changes) or "no reported number could be computed")


def _change(metric: str, before: Scores, after: Scores, gold: Scores) -> str:
    """For example "Forget 0.64 → 0.60 (gold 0.17)"."""
    heading = next(heading for key, heading, _ in PAPER_COLUMNS if key == metric)
    words = heading + " "
    if before.get(metric) is not None:
        words += f"{number(before[metric], 2)} → "
    words += number(after[metric], 2)
    if gold.get(metric) is not None:
        words += f" (gold {number(gold[metric], 2)})"
    return words


def facts(groups: list[RunGroup]) -> str:
    """What all runs share, in one line: modalities, semantics, seeds, implementation.

    Of one run also its steps and seconds.
    """
    runs = [run for group in groups for run in group.runs]
    panels = [PANELS.get(group.panel, group.panel).lower() for group in groups]
    lists = (
        ("{}", panels),
        ("{} semantics", [run.semantics for run in runs if run.semantics]),
        ("seed {}", [str(run.seed) for run in runs if run.seed is not None]),
        ("token terms {}", [str(run.summary["impl"]) for run in runs]),
    )
    parts = [form.format(", ".join(dict.fromkeys(values))) for form, values in lists if values]
    if len(runs) == 1:
        summary = runs[0].summary
        if "steps" in summary:
            parts.append(f"{summary['steps']} steps")
        parts += [f"{phase} {seconds:.1f} s" for phase, seconds in summary["seconds"].items()]
    return " · ".join(parts)
