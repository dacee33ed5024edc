"""The headline of a page, and the line of facts below it."""

from clear_ref.evaluation.metrics import Scores

from .columns import PAPER_COLUMNS, mean, number
from .given_settings import common_words
from .judgement import mean_scores, verdict_of
from .leaderboard import PANELS
from .read_runs import Report
from .run_groups import RunGroup
from .thresholds import KEPT
from .verdict import shares_kept


def headline(report: Report, groups: list[RunGroup]) -> str:
    """The result in one sentence.

    Of one line: the verdict in words; where nothing can be judged, Forget and Retain. Of several:
    the line most like gold among those that have kept Retain, or that none has kept it.
    """
    if len(groups) == 1:
        return _of_one(report, groups[0])
    return _of_several(report, groups)


def _of_several(report: Report, groups: list[RunGroup]) -> str:
    definitions = report.sets[0]
    count = f"{len(report.runs)} runs"
    if all(run.semantics for run in report.runs):
        count += f" of {len({run.name for run in report.runs})} methods"
    qualities = {group: _mean_forget_quality(group, definitions) for group in groups}
    known = {group: value for group, value in qualities.items() if value is not None}
    if not known:
        return count
    kept = {group: value for group, value in known.items() if _has_kept(report, group)}
    among = kept or known
    first = max(among, key=lambda group: among[group])
    if kept:
        about = "most like gold, with Retain kept,"
    elif "base" not in report.paper:
        about = "most like gold"
    else:
        about = f"none kept Retain ({KEPT:.0%} of base's); most like gold"
    label = first.label
    if len({group.panel for group in groups}) > 1:
        label += f", {PANELS.get(first.panel, first.panel).lower()}"
    result = f"forget quality {number(among[first], 2)}"
    of_base = report.metrics.get("base", {}).get(definitions, {}).get("forget_quality")
    if of_base is not None:
        result += f" (base {number(of_base, 2)})"
    words = verdict_of(report, first)
    return f"{count}: {about} is {label}" + (f": {words}" if words else "") + f", {result}"


def _has_kept(report: Report, group: RunGroup) -> bool:
    """Whether a line has kept both Retain and Retain text, of those that were evaluated."""
    base = report.paper.get("base")
    shares = shares_kept(base, mean_scores(group)) if base else {}
    return bool(shares) and min(shares.values()) >= KEPT


def _mean_forget_quality(group: RunGroup, definitions: str) -> float | None:
    """The mean over seeds; None if a seed has no number."""
    return mean([run.metrics[definitions].get("forget_quality") for run in group.runs])


def _of_one(report: Report, group: RunGroup) -> str:
    run = group.runs[0]
    subject = f"{run.name}, {run.semantics} semantics" if run.semantics else run.name
    if len(group.runs) > 1:
        subject += f", {len(group.runs)} seeds"
    return f"{subject}: {verdict_of(report, group) or _changes(report, group)}"


def _changes(report: Report, group: RunGroup) -> str:
    """Forget and Retain before and after, where there is no verdict."""
    definitions = report.sets[0]
    seeds = [run.metrics[definitions] for run in group.runs]
    after = {metric: mean([own.get(metric) for own in seeds]) for metric, _, _ in PAPER_COLUMNS}
    before = report.metrics.get("base", {}).get(definitions, {})
    gold = report.metrics.get("gold", {}).get(definitions, {})
    shown = [metric for metric in ("forget", "retain") if after.get(metric) is not None]
    if not shown:
        of_text = ("text_forget", "text_retain", "real")
        shown = [metric for metric in of_text if after.get(metric) is not None]
    changes = [_change(metric, before, after, gold) for metric in shown]
    return ", ".join(changes) or "no reported number could be computed"


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
    """What all runs share, in one line: modalities, semantics, seeds, implementation, settings.

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
    parts += common_words(runs, len(groups))
    if len(runs) == 1:
        summary = runs[0].summary
        if "steps" in summary:
            parts.append(f"{summary['steps']} steps")
        parts += [f"{phase} {seconds:.1f} s" for phase, seconds in summary["seconds"].items()]
    return " · ".join(parts)
