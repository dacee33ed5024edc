"""What the command line prints for people."""

from . import robustness
from .leaderboard import COLLAPSED, MARK, PANELS
from .table import leaderboard, leaderboard_over_seeds, number, per_task


def one_run(summary: dict) -> str:
    """The leaderboard of one run, its times and where it was written."""
    seconds = ", ".join(f"{what} {value:.0f} s" for what, value in summary["seconds"].items())
    title = " ".join(
        str(summary[key]) for key in ("method", "command", "split", "model") if key in summary
    )
    about = ", ".join(
        f"{key} {summary[key]}"
        for key in ("adapter", "semantics", "modality", "seed", "steps")
        if key in summary
    )
    if "trained" in summary:
        found = summary["trained"]
        kind = f"adapters on {found['layers']} layers" if found["layers"] else "all weights"
        about += f"\ntrained: {kind}, {found['parameters']:,} of {found['of']:,} parameters"
    return "\n".join(
        [
            f"{title}: {about}" if about else title,
            "",
            leaderboard(list(summary["models"].items())),
            "",
            *robustness.lines(summary.get("robustness")),
            f"{seconds}, token terms: {summary['impl']}; written to {summary['out']}",
        ]
    )


def one_of_all(row: dict) -> None:
    """One line for each finished run of `all`, while the others go on."""
    metrics = row["metrics"]
    found = "  ".join(f"{name} {number(metrics[name])}" for name in ("real", "retain", "forget"))
    seconds = f"({row['seconds']['train']:.0f} s + {row['seconds']['evaluate']:.0f} s)"
    print(
        f"{row['method']:12} {row['modality']:6} seed {row['seed']}  {found}  {seconds}", flush=True
    )


def all_methods(summary: dict) -> str:
    """The leaderboard of every method, one table for each modality."""
    blocks = []
    for modality in dict.fromkeys(row["modality"] for row in summary["runs"]):
        runs = [row for row in summary["runs"] if row["modality"] == modality]
        rows = [(name, [metrics]) for name, metrics in summary["models"].items()]
        rows += [
            (method, [row["metrics"] for row in runs if row["method"] == method])
            for method in dict.fromkeys(row["method"] for row in runs)
        ]
        seeds = ", ".join(map(str, summary["seeds"]))
        title = f"forgetting {modality}, {summary['semantics']} semantics, seeds {seeds}"
        blocks += ["", title, "", leaderboard_over_seeds(rows)]
    return "\n".join([*blocks, "", f"token terms: {summary['impl']}; written to {summary['out']}"])


def report(summary: dict) -> str:
    """The leaderboards of commands.report.run, one for each panel, and where its files are."""
    first, *others = summary["metrics"]
    joined = lambda sets: (
        sets[first] | ({"also": {name: sets[name] for name in others}} if others else {})
    )
    blocks, runs = [summary["title"]], iter(summary["runs"])
    decimals = 2 if any(line["seeds"] > 1 for line in summary["lines"]) else 3
    for panel in dict.fromkeys(line["modality"] for line in summary["lines"]):
        rows = [(name, [joined(sets)]) for name, sets in summary["models"].items()]
        rows += [
            (
                line["label"] + f" {MARK}" * bool(line["retain_collapsed"]),
                [joined(next(runs)["metrics"]) for _ in range(line["seeds"])],
            )
            for line in summary["lines"]
            if line["modality"] == panel
        ]
        blocks += ["", PANELS.get(panel, panel), "", leaderboard_over_seeds(rows, decimals)]
    if any(line["retain_collapsed"] for line in summary["lines"]):
        blocks += [
            "",
            f"{MARK} Retain collapsed: Retain or Retain text is less than {COLLAPSED} of base's",
        ]
    files = ", ".join(summary["files"])
    return "\n".join(
        [
            *blocks,
            *(f"\n{note}" for note in summary["notes"]),
            "",
            f"{files} written to {summary['out']}",
        ]
    )


def mini(found: dict) -> str:
    """The embedded world's rows, and after a rebuild how close it came."""
    lines = [f"data  {found['data']}", f"base  {found['base']}", f"gold  {found['gold']}"]
    lines += [f"{rows:6} rows  {config}" for config, rows in found["rows"].items()]
    if "rebuilt" in found:
        rows = list(found["models"].items())
        lines += [
            "",
            f"rebuilt in {found['minutes']} minutes: {found['rebuilt']}",
            "",
            leaderboard(rows),
            "",
            per_task(rows),
        ]
    return "\n".join(lines)
