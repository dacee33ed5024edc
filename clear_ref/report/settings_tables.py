"""Every setting with its source, every input's hash, every version: once where all runs agree, then what differs."""

import os

from .html_frame import details, table
from .leaderboard import Row
from .read_runs import Report


def as_html(report: Report, lines: list[Row]) -> str:
    """Folded tables: the runs, settings in common, settings that differ, the methods' options, inputs, versions."""
    runs = [(_name(row, run), run) for row in lines for run in row.runs]
    settings = [(name, run.record["settings"]) for name, run in runs]
    common, differing = _split(settings)
    blocks = [
        details("The runs", _facts(runs)),
        details(
            "Settings" + (f" common to all {len(runs)} runs" if len(runs) > 1 else ""),
            table(
                ["setting", "value", "source of the value"],
                [[key, entry["value"], entry["source"]] for key, entry in common.items()],
            ),
        ),
    ]
    if differing:
        blocks.append(
            details(
                "Settings that differ",
                table(
                    ["run", *differing],
                    [
                        [name, *(_entry(own.get(key)) for key in differing)]
                        for name, own in settings
                    ],
                ),
            )
        )
    options = dict.fromkeys(
        (row.label, key, str(entry["value"]), str(entry["source"]))
        for row in lines
        for run in row.runs
        for key, entry in run.record.get("options", {}).items()
    )
    if options:
        blocks.append(
            details(
                "Options of the methods",
                table(["method", "option", "value", "source of the value"], options),
            )
        )
    for heading, key, columns in (
        ("Inputs", "inputs", ["file", "sha256"]),
        ("Versions", "versions", ["package", "version"]),
    ):
        values = [
            (name, {file: str(value) for file, value in _told(run.record, key).items()})
            for name, run in runs
        ]
        same, different = _split(values)
        rows = [[name, value, "all"] for name, value in same.items()]
        where = (
            os.path.commonprefix([*same, *different]).rpartition("/")[0] if key == "inputs" else ""
        )
        for name in different:
            who = {}
            for run, own in values:
                who.setdefault(own.get(name), []).append(run)
            rows += [
                [name, value, ", ".join(names)] for value, names in who.items() if value is not None
            ]
        rows = [
            [str(name).removeprefix(f"{where}/") if where else name, *row] for name, *row in rows
        ]
        blocks.append(
            details(
                heading + (f" (below {where})" if where else ""),
                table([*columns, "runs"], rows)
                if len(runs) > 1
                else table(columns, [row[:2] for row in rows]),
            )
        )
    return "\n".join(blocks)


def _name(row: Row, run) -> str:
    """What the tables here call a run."""
    where = "" if run.seed is None else f", {run.modality}, seed {run.seed}"
    return f"{row.label}{where}"


def _split(found) -> tuple[dict, list[str]]:
    """({key: value} that all have alike, [keys that differ or are not in all]) of [(name, {key: value})]."""
    keys = list(dict.fromkeys(key for _, own in found for key in own))
    common = {
        key: found[0][1][key]
        for key in keys
        if key in found[0][1]
        and all(key in own and own[key] == found[0][1][key] for _, own in found)
    }
    return common, [key for key in keys if key not in common]


def _entry(entry) -> str:
    """A setting's value and where it is from."""
    return "-" if entry is None else f"{entry['value']} ({entry['source']})"


def _told(record: dict, key: str) -> dict:
    """A run's inputs, or its versions with what was known of the compiled kernel."""
    kernel = record.get("kernel", {}) if key == "versions" else {}
    return record[key] | {f"kernel {name}": value for name, value in kernel.items()}


def _facts(runs) -> str:
    """A line a run: what was trained, how long it took, where it lies."""
    rows = []
    for name, run in runs:
        trained = run.summary.get("trained") or {}
        counts = [trained.get(key) for key in ("parameters", "of")]
        shown = (
            "{:,} of {:,}".format(*counts)
            if all(isinstance(count, int) for count in counts)
            else "-"
        )
        seconds = run.summary["seconds"]
        rows.append(
            [
                name,
                run.summary.get("steps", "-"),
                shown,
                run.record.get("label_mask", "-"),
                run.summary["impl"],
                *(
                    f"{seconds[what]:.1f}" if what in seconds else "-"
                    for what in ("train", "evaluate")
                ),
                run.where,
            ]
        )
    return table(
        [
            "run",
            "steps",
            "trained parameters",
            "label mask",
            "token terms",
            "train s",
            "evaluate s",
            "directory",
        ],
        rows,
        (1, 2, 5, 6),
    )
