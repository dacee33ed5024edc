"""The texts that the commands print for people: of one run, of `all`, of `report`, of `mini`."""

import textwrap
from collections.abc import Sequence
from typing import Any

from clear_ref.common.guards import guards_of
from clear_ref.common.guards import line as guard_line
from clear_ref.evaluation.choices import LEAKAGE
from clear_ref.evaluation.leakage_parts import sentences

from . import record_intervals
from .columns import columns_of, number
from .leaderboard import MARK, PANELS
from .terminal_robustness import robustness
from .terminal_tables import SeedRow, leaderboard, leaderboard_over_seeds, per_task
from .thresholds import COLLAPSED
from .visual_page import terminal as visual_terminal

WIDTH = 110  # of a line of words


def one_run(summary: dict[str, Any]) -> str:
    """The leaderboard of one run, its times and its directory."""
    title = " ".join(
        str(summary[key]) for key in ("method", "command", "split", "model") if key in summary
    )
    about = ", ".join(
        f"{key} {summary[key]}"
        for key in ("adapter", "semantics", "modality", "seed", "recipe", "lr", "epochs", "steps")
        if key in summary
    )
    for name, value in summary.get("options", {}).items():
        about += f", {name} {value}"
    if "trained" in summary:
        trained = summary["trained"]
        kind = f"adapters on {trained['layers']} layers" if trained["layers"] else "all weights"
        parameters = f"{trained['parameters']:,} of {trained['of']:,} parameters"
        about += f"\ntrained: {kind}, {parameters}"
    seconds = ", ".join(f"{phase} {value:.0f} s" for phase, value in summary["seconds"].items())
    lines = [
        f"{title}: {about}" if about else title,
        "",
        table(list(summary["models"].items())),
        "",
        *intervals(summary),
        *summary.get("notes", ()),
        *([""] if summary.get("notes") else ()),
        *leakage_lines(summary),
        *warnings(summary),
        *robustness(summary.get("robustness")),
        f"{seconds}, token terms: {summary['impl']}; written to {summary['out']}",
    ]
    return "\n".join(lines)


def intervals(summary: dict[str, Any]) -> list[str]:
    """The intervals of the leaderboard's numbers by the first set of definitions, and an empty
    line; [] for a summary that an older version wrote."""
    found = summary.get("intervals", {})
    rows = [(name, [scores]) for name, scores in summary["models"].items()]
    if not found or not columns_of([scores for _, (scores,) in rows]):
        return []
    first = {name: _first(sets) for name, sets in found.items()}
    return [*record_intervals.table(rows, first), *leakage_intervals(rows, found), ""]


def _first(sets: dict[str, Any]) -> Any:
    """The intervals by the first set of definitions; {} of a summary that has none."""
    return next(iter(sets.values()), {})


def leakage_intervals(rows: Sequence[SeedRow], found: dict[str, Any]) -> list[str]:
    """The intervals of the numbers of leakage as a table; [] without --leakage.

    found  {model: {set of definitions: its intervals}}
    """
    if not all(LEAKAGE in scores.get("also", {}) for _, seeds in rows for scores in seeds):
        return []
    own = [(name, [scores["also"][LEAKAGE] for scores in seeds]) for name, seeds in rows]
    of_leakage = {name: sets.get(LEAKAGE, {}) for name, sets in found.items()}
    lines = record_intervals.table(own, of_leakage)
    return lines[lines.index("") :]  # what an interval is, is said above


def leakage_lines(summary: dict[str, Any]) -> list[str]:
    """What --leakage could not ask, and an empty line after it; [] if all was asked."""
    found = [_wrapped(line) for line in sentences(summary.get("not_asked", {}))]
    return [*found, ""] if found else []


def warnings(summary: dict[str, Any]) -> list[str]:
    """A line for each guard of a run, and an empty one after them; [] without any."""
    found = [_wrapped(guard_line(guard)) for guard in guards_of(summary)]
    return [*found, ""] if found else []


def _wrapped(text: str) -> str:
    """A text on lines as wide as a table; a word that is longer, as a path, is not broken."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def table(rows: list[tuple[str, Any]]) -> str:
    """The leaderboard; where it would have no column, the numbers of each task."""
    sets = [metrics for _, scores in rows for metrics in (scores, *scores.get("also", {}).values())]
    return leaderboard(rows) if columns_of(sets) else per_task(rows)


def print_finished_run(row: dict[str, Any]) -> None:
    """Print one line about a finished run of `all`, while other runs continue."""
    metrics = row["metrics"]
    numbers = "  ".join(f"{name} {number(metrics[name])}" for name in ("real", "retain", "forget"))
    seconds = f"({row['seconds']['train']:.0f} s + {row['seconds']['evaluate']:.0f} s)"
    run = f"{row['method']:12} {row['modality']:6} seed {row['seed']}"
    print(f"{run}  {numbers}  {seconds}", flush=True)


def all_methods(summary: dict[str, Any]) -> str:
    """The leaderboard of every method, one table for each modality."""
    seeds = ", ".join(map(str, summary["seeds"]))
    blocks = []
    for modality in dict.fromkeys(row["modality"] for row in summary["runs"]):
        rows = [(name, [metrics]) for name, metrics in summary["models"].items()]
        every = dict(summary["intervals"])
        by_method: dict[str, list[dict]] = {}
        for row in summary["runs"]:
            if row["modality"] == modality:
                by_method.setdefault(row["method"], []).append(row["metrics"])
                every[row["method"]] = row["intervals"]
        rows += by_method.items()
        found = {name: _first(sets) for name, sets in every.items()}
        title = f"forgetting {modality}, {summary['semantics']} semantics, seeds {seeds}"
        blocks += ["", title, "", leaderboard_over_seeds(rows)]
        blocks += ["", *record_intervals.table(rows, found), *leakage_intervals(rows, every)]
    said = leakage_lines(summary)[:-1]
    for row in summary["runs"]:
        run = f"{row['method']} {row['modality']} seed {row['seed']}"
        said += [_wrapped(f"{run}: {guard_line(guard)}") for guard in guards_of(row)]
    if said:
        blocks += ["", *said]
    return "\n".join([*blocks, "", f"token terms: {summary['impl']}; written to {summary['out']}"])


def report(summary: dict[str, Any]) -> str:
    """The leaderboards of commands.report.run, one for each panel, and its files.

    The tables of `visual` runs are below them, or alone.
    """
    visual = [line for found in summary.get("visual", ()) for line in visual_terminal(found)]
    if "lines" not in summary:
        files = ", ".join(summary["files"])
        return "\n".join([*visual, "", f"{files} written to {summary['out']}"])
    several_seeds = any(line["seeds"] > 1 for line in summary["lines"])
    decimals = 2 if several_seeds else 3
    # The runs are in the order of the lines; a line has as many runs as seeds.
    runs = iter(summary["runs"])
    blocks = [summary["title"]]
    for panel in dict.fromkeys(line["modality"] for line in summary["lines"]):
        rows = [(name, [_joined(sets)]) for name, sets in summary["models"].items()]
        found = {name: _first(sets) for name, sets in summary["intervals"].items()}
        for line in summary["lines"]:
            if line["modality"] == panel:
                label = line["label"] + (f" {MARK}" if line["retain_collapsed"] else "")
                own = [next(runs) for _ in range(line["seeds"])]
                rows.append((label, [_joined(run["metrics"]) for run in own]))
                found[label] = _first(own[0]["intervals"])
        blocks += ["", PANELS.get(panel, panel), "", leaderboard_over_seeds(rows, decimals)]
        if columns_of([scores for _, seeds in rows for scores in seeds]):
            blocks += ["", *record_intervals.table(rows, found)]
    if any(line["retain_collapsed"] for line in summary["lines"]):
        meaning = f"Retain or Retain text is less than {COLLAPSED} of base's"
        blocks += ["", f"{MARK} Retain collapsed: {meaning}"]
    for run in summary["runs"]:
        own = [_wrapped(f"{run['label']}: {guard_line(guard)}") for guard in guards_of(run)]
        blocks += ["", *own] if own else []
    for note in summary["notes"]:
        blocks.append(f"\n{note}")
    files = ", ".join(summary["files"])
    blocks += ["", *visual] if visual else []
    return "\n".join([*blocks, "", f"{files} written to {summary['out']}"])


def _joined(sets: dict[str, dict]) -> dict:
    """{set: metrics} in the form of metrics.score(..., "all"): later sets are in "also"."""
    first, *others = sets
    if not others:
        return sets[first]
    return sets[first] | {"also": {name: sets[name] for name in others}}


def mini(summary: dict[str, Any]) -> str:
    """The embedded world's rows; after a rebuild, the numbers of the old and the new models."""
    lines = [f"data  {summary['data']}", f"base  {summary['base']}", f"gold  {summary['gold']}"]
    lines += [f"{rows:6} rows  {config}" for config, rows in summary["rows"].items()]
    if "rebuilt" in summary:
        rows = list(summary["models"].items())
        lines += [
            "",
            f"rebuilt in {summary['minutes']} minutes: {summary['rebuilt']}",
            "",
            leaderboard(rows),
            "",
            per_task(rows),
        ]
    return "\n".join(lines)
