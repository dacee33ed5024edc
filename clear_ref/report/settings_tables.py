"""Folded tables of every setting with its source, every input's hash, every version.

A value that all runs share is shown once; the other values are shown beside their runs.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from clear_ref.common.run_directory import RunRecord, SettingRecord

from .html_frame import details, table
from .read_runs import Report, Run
from .run_groups import RunGroup

Value = TypeVar("Value")
NamedRuns = Sequence[tuple[str, Run]]


def as_html(report: Report, groups: list[RunGroup]) -> str:
    """The runs, settings in common and those that differ, options, inputs, versions."""
    runs = [(name_of(group, run), run) for group in groups for run in group.runs]
    blocks = [details("The runs", _facts(runs)), *_settings(runs), *_options(groups)]
    blocks.append(_inputs_or_versions("Inputs", "inputs", ["file", "sha256"], runs))
    blocks.append(_inputs_or_versions("Versions", "versions", ["package", "version"], runs))
    return "\n".join(blocks)


def name_of(group: RunGroup, run: Run) -> str:
    """The name of a run in these tables."""
    if run.seed is None:
        return group.label
    return f"{group.label}, {run.modality}, seed {run.seed}"


def _settings(runs: NamedRuns) -> list[str]:
    """The settings in common, and those that differ, if there are any."""
    settings = [(name, run.record["settings"]) for name, run in runs]
    common, differing = _split([own for _, own in settings])
    heading = "Settings" + (f" common to all {len(runs)} runs" if len(runs) > 1 else "")
    rows = [[key, entry["value"], entry["source"]] for key, entry in common.items()]
    blocks = [details(heading, table(["setting", "value", "source of the value"], rows))]
    if differing:
        rows = []
        for name, own in settings:
            rows.append([name, *(_value_and_source(own.get(key)) for key in differing)])
        blocks.append(details("Settings that differ", table(["run", *differing], rows)))
    return blocks


def _value_and_source(entry: SettingRecord | None) -> str:
    return "-" if entry is None else f"{entry['value']} ({entry['source']})"


def _options(groups: list[RunGroup]) -> list[str]:
    """The options of every method, each different value once; [] if no method has options."""
    rows: dict[tuple[str, str, str, str], None] = {}
    for group in groups:
        for run in group.runs:
            for option, entry in run.record.get("options", {}).items():
                rows[group.label, option, str(entry["value"]), str(entry["source"])] = None
    if not rows:
        return []
    header = ["method", "option", "value", "source of the value"]
    return [details("Options of the methods", table(header, list(rows)))]


def _inputs_or_versions(heading: str, key: str, columns: list[str], runs: NamedRuns) -> str:
    """A table of the inputs, or of the versions, of all runs.

    key    inputs or versions
    """
    values = [
        (name, {file: str(value) for file, value in inputs_or_versions(run.record, key).items()})
        for name, run in runs
    ]
    common, differing = _split([own for _, own in values])
    rows = [[name, value, "all"] for name, value in common.items()]
    for name in differing:
        runs_with: dict[str, list[str]] = {}
        for run_name, own in values:
            if name in own:
                runs_with.setdefault(own[name], []).append(run_name)
        rows += [[name, value, ", ".join(names)] for value, names in runs_with.items()]
    if key == "inputs":
        folder = os.path.commonprefix([*common, *differing]).rpartition("/")[0]
        if folder:
            heading += f" (below {folder})"
            rows = [[name.removeprefix(f"{folder}/"), *row] for name, *row in rows]
    if len(runs) == 1:
        return details(heading, table(columns, [row[:2] for row in rows]))
    return details(heading, table([*columns, "runs"], rows))


def inputs_or_versions(record: RunRecord, key: str) -> dict[str, Any]:
    """The inputs of a run, or its versions together with the description of the compiled kernel."""
    if key == "inputs":
        return dict(record["inputs"])
    kernel = record.get("kernel", {})
    return record["versions"] | {f"kernel {name}": value for name, value in kernel.items()}


def _split(all_values: Sequence[Mapping[str, Value]]) -> tuple[dict[str, Value], list[str]]:
    """({key: value} that all have in common, [keys that differ or that not all have])."""
    first = all_values[0]
    common = {}
    for key, value in first.items():
        if all(key in values and values[key] == value for values in all_values):
            common[key] = value
    keys = dict.fromkeys(key for values in all_values for key in values)
    return common, [key for key in keys if key not in common]


def _facts(runs: NamedRuns) -> str:
    """A line for each run: what was trained, how long it took, its directory."""
    header = ["run", "steps", "trained parameters", "label mask", "token terms"]
    header += ["train s", "evaluate s", "directory"]
    rows = [
        [
            name,
            run.summary.get("steps", "-"),
            _trained_parameters(run),
            run.record.get("label_mask", "-"),
            run.summary["impl"],
            _seconds(run, "train"),
            _seconds(run, "evaluate"),
            run.where,
        ]
        for name, run in runs
    ]
    return table(header, rows, numbers=(1, 2, 5, 6))


def _trained_parameters(run: Run) -> str:
    trained = run.summary.get("trained") or {}
    count = trained.get("parameters")
    total = trained.get("of")
    if isinstance(count, int) and isinstance(total, int):
        return f"{count:,} of {total:,}"
    return "-"


def _seconds(run: Run, phase: str) -> str:
    seconds = run.summary["seconds"]
    return f"{seconds[phase]:.1f}" if phase in seconds else "-"
