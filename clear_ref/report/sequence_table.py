"""`report` of sequences of requests: one table of methods, with mean and spread over seeds."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import PathName, one_line, read_json
from clear_ref.common.run_directory import METRICS_FILE, REPORT_FILE, SETTINGS_FILE
from clear_ref.common.text_table import aligned
from clear_ref.evaluation.sequence import OF_ALL, OF_REQUEST

from . import html_frame, sequence_page
from .columns import spread
from .comparable import REPORT_OF_EACH, check_settings
from .html_frame import text
from .run_groups import IGNORED_SETTINGS
from .sequence_page import ABOUT, CSV, definition_line, heading

MARKDOWN = "sequence.md"
TEXTS = ("method", "semantics", "modality", "impl", "recipe")
# {key that sequences of one report have alike: what it is}
COMMON = {"sequence": "requests", "definitions": "definitions", "gold": "numbers of gold"}
CHANGE = "came back"  # heading of change_since_own_request


def read(directory: Path) -> dict[str, Any] | None:
    """What metrics.json of a finished sequence holds; None for another directory.

    raises  UserError for one that has not finished, and for a metrics.json of another form
    """
    file, path = directory / SETTINGS_FILE, directory / METRICS_FILE
    settings = read_json(file).get("settings") if file.is_file() else None
    if not isinstance(settings, dict) or not _value(settings, "sequence"):
        return None
    if _value(settings, "request"):
        return None
    if not path.is_file():
        raise UserError(
            f"report {directory}: holds no {path.name}, as a sequence that has not finished; "
            "finish it with --resume"
        )
    found = read_json(path)
    if not _is_whole(found):
        raise UserError(
            f"{path}: is not what a finished sequence writes; expected sequence, states, changes "
            "and definitions: run it again"
        )
    return found


def _value(settings: Mapping[str, Any], name: str) -> object:
    entry = settings.get(name)
    return entry.get("value") if isinstance(entry, dict) else None


def _is_whole(found: Mapping[str, Any]) -> bool:
    labels, states, gold = (found.get(name) for name in ("sequence", "states", "gold"))
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return False
    if not isinstance(states, list) or len(states) != len(labels) + 1:
        return False
    every = [*states, *([] if gold is None else [gold])]
    return (
        all(isinstance(found.get(name), str) for name in TEXTS)
        and type(found.get("seed")) is int
        and all(_is_state(state, labels) for state in every)
        and _are_by_label(found.get("changes"), labels, OF_REQUEST)
        and isinstance(found.get("definitions"), dict)
        and all(isinstance(each, str) for each in found["definitions"].values())
    )


def _is_state(state: object, labels: Sequence[str]) -> bool:
    return (
        isinstance(state, dict)
        and _are_by_label(state.get("requests"), labels, OF_REQUEST)
        and _are_numbers(state.get("all"), OF_ALL)
        and _are_intervals(state.get("intervals"), labels)
    )


def _are_intervals(found: object, labels: Sequence[str]) -> bool:
    return isinstance(found, dict) and all(
        isinstance(own, dict)
        and all(isinstance(each, list) and len(each) == 2 for each in own.values())
        for own in (found.get(label) for label in (*labels, ""))
    )


def _are_by_label(found: object, labels: Sequence[str], names: Sequence[str]) -> bool:
    return isinstance(found, dict) and all(_are_numbers(found.get(each), names) for each in labels)


def _are_numbers(found: object, names: Sequence[str]) -> bool:
    return isinstance(found, dict) and all(
        name in found and (found[name] is None or is_number(found[name])) for name in names
    )


def check_together(sequences: Mapping[str, dict[str, Any]]) -> None:
    """UserError unless the sequences have the same requests, base and gold, and those of one method
    differ in nothing but their seed.

    sequences  {directory: what its metrics.json holds}
    """
    (first, one), *others = sequences.items()
    seen = {_key(one): first}
    for path, found in others:
        for name, words in COMMON.items():
            if found[name] != one[name]:
                raise UserError(
                    f"report {path}: its {words} are not those of {first}; expected sequences of "
                    f"the same {', '.join(COMMON.values())}; {REPORT_OF_EACH}"
                )
        for name in ("requests", "all"):
            if found["states"][0][name] != one["states"][0][name]:
                raise UserError(
                    f"report {path}: its base is not that of {first}; expected one base, and "
                    "sequences of one evaluation"
                )
        before = seen.setdefault(_key(found), path)
        if before != path:
            raise UserError(f"report {path}: the same method and seed as {before}; name one")
    _check_settings(sequences)


def _check_settings(sequences: Mapping[str, dict[str, Any]]) -> None:
    """UserError for two sequences of other evaluations, and for two of one method with other
    settings: they are no seeds of one.
    """
    known: dict[tuple[object, ...], tuple[str, dict[str, Any]]] = {}
    evaluated: dict[str, tuple[PathName, Any]] = {}
    for path, found in sequences.items():
        own = _settings(path) | {"recipe": found["recipe"], "impl": found["impl"]}
        check_settings(path, own, evaluated)
        of = tuple(found[name] for name in ("method", "semantics", "modality"))
        first, before = known.setdefault(of, (path, own))
        for name in {**before, **own}:
            if own.get(name) != before.get(name):
                raise UserError(
                    f"report {path}: {name} is {one_line(repr(own.get(name)), 60)}, of {first} "
                    f"{one_line(repr(before.get(name)), 60)}; expected sequences of one method "
                    f"that differ in their seed alone; {REPORT_OF_EACH}"
                )


def _settings(path: str) -> dict[str, Any]:
    """{setting or option: its value} of a sequence, but for those that do not distinguish runs."""
    record = read_json(Path(path) / SETTINGS_FILE)
    parts = [part for part in map(record.get, ("settings", "options")) if isinstance(part, dict)]
    return {
        name: _value(part, name) for part in parts for name in part if name not in IGNORED_SETTINGS
    }


def _key(found: Mapping[str, Any]) -> tuple[object, ...]:
    return (*(found[name] for name in TEXTS), found["seed"])


def lines_of(sequences: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(header, lines): base, each method after each request and what came back, gold."""
    first = sequences[0]
    labels = first["sequence"]
    columns = [(label, metric) for label in labels for metric in OF_REQUEST]
    columns += [("", metric) for metric in OF_ALL]
    known = [state for found in sequences for state in found["states"]]
    columns = [each for each in columns if any(_number(own, *each) is not None for own in known)]

    def cells(states: Sequence[Any]) -> list[str]:
        return [spread([_number(state, *each) for state in states], 3) for each in columns]

    lines = [["base", "", *cells(first["states"][:1])]]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    several = len({(found["semantics"], found["modality"]) for found in sequences}) > 1
    for found in sequences:
        name = found["method"]
        if several:
            name += f" {found['semantics']} {found['modality']}"
        groups.setdefault(name, []).append(found)
    for name, own in groups.items():
        for number, label in enumerate(labels, 1):
            after = [found["states"][number] for found in own]
            lines.append([name if number == 1 else "", label, *cells(after)])
        back = [{"requests": found["changes"], "all": {}} for found in own]
        shown = [
            spread([_number(each, label, metric) for each in back], 3)
            if label and label != labels[-1]
            else ""
            for label, metric in columns
        ]
        lines.append(["", CHANGE, *shown])
    if first["gold"]:
        lines.append(["gold", "", *cells([first["gold"]])])
    return ["model", "after", *(heading(*each) for each in columns)], lines


def _number(state: Mapping[str, Any], label: str, metric: str) -> float | None:
    return state["requests"][label].get(metric) if label else state["all"].get(metric)


def legend(sequences: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table shows, in sentences."""
    seeds = sorted({found["seed"] for found in sequences})
    said = [ABOUT, f"{definition_line(sequences[0])}."]
    if len(seeds) > 1:
        said.insert(0, f"Mean ± standard deviation (n - 1) over the seeds {seeds}.")
    return said


def texts_of(sequences: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """{file: its text}; the page is last."""
    header, lines = lines_of(sequences)
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    markdown = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    notes = legend(sequences)
    body = [
        "<h1>Requests in sequence</h1>",
        html_frame.table(header, lines, range(2, len(header))),
        *(f'<p class="soft">{text(note)}</p>' for note in notes),
    ]
    page = html_frame.page("clear_ref · requests in sequence", html_frame.STYLE, "\n".join(body))
    return {
        CSV: as_csv(sequences),
        MARKDOWN: "\n".join([markdown, "", *(f"- {note}" for note in notes)]) + "\n",
        REPORT_FILE: page,
    }


def as_csv(sequences: Sequence[Mapping[str, Any]]) -> str:
    """The lines of every sequence's own CSV, after its method, semantics, modality and seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    named = ["method", "semantics", "modality", "seed"]
    for number, found in enumerate(sequences):
        header, *rows = csv.reader(io.StringIO(sequence_page.as_csv(found)))
        if number == 0:
            writer.writerow([*named, *header])
        writer.writerows([*(found[name] for name in named), *row] for row in rows)
    return out.getvalue()


def terminal(summary: Mapping[str, Any]) -> str:
    """The text of `report` of sequences."""
    header, lines = lines_of(summary["sequences"])
    files = ", ".join(summary["files"])
    return "\n".join(
        [
            *aligned(header, lines, left=(0, 1)),
            "",
            *legend(summary["sequences"]),
            "",
            f"{files} written to {summary['out']}",
        ]
    )
