"""Reads run directories for a page: settings, training trace, logs, and metrics of those logs."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, parse_json, read_bytes, read_json, read_text
from clear_ref.common.guards import is_guards
from clear_ref.common.run_directory import (
    CURVE_FILE,
    FORMAT,
    LEADERBOARD_FILE,
    LOGS_DIRECTORY,
    METRICS_FILE,
    SETTINGS_FILE,
    TRACE_FILE,
    RunRecord,
)
from clear_ref.evaluation import log_columns
from clear_ref.evaluation import logs as log_files
from clear_ref.evaluation.choices import LEAKAGE
from clear_ref.evaluation.definitions import SETS, check_set
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import Scores, score
from clear_ref.evaluation.selection import HALVES

from . import comparable
from .record_intervals import Intervals, of_sets

# The modality of a model that was only evaluated: the run does not know what was to be forgotten.
EVALUATED = "evaluated"
Kind = type | tuple[type, ...]
NUMBER = (int, float)
# {command: {key of metrics.json: its type}}: what a page needs.
SUMMARY_KEYS: dict[str, dict[str, Kind]] = {
    "unlearn": {
        "method": str,
        "semantics": str,
        "modality": str,
        "seed": int,
        "steps": int,
        "seconds": dict,
        "impl": str,
    },
    "evaluate": {"model": str, "seconds": dict, "impl": str},
}
TRACE_KEYS: dict[str, Kind] = {"stage": str, "step": int, "loss": NUMBER, "terms": dict}
CURVE_KEYS: dict[str, Kind] = {"step": int}
EXPECTED = "expected the directory of a METHOD or an evaluate run, or one that `all` wrote"
REPEAT = "expected what a finished run of this version writes; run it again"


class TraceLine(TypedDict):
    """The keys of a line of trace.jsonl that a page needs."""

    stage: str
    step: int
    loss: float
    terms: dict[str, float]


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    where      its directory, as it was given
    name       the method; of `evaluate` the model's or adapter's directory
    semantics  of the method; "" if a model was only evaluated
    modality   what was forgotten: both, visual, text; EVALUATED if a model was only evaluated
    seed       None if a model was only evaluated
    record     settings.json
    summary    metrics.json
    logs       {task: log} of the unlearned (or evaluated) model
    metrics    {set of definitions: result of metrics.score}, compared with the run's own gold
    paper      the result by the paper's definitions, whichever were asked for
    trace      {stage: lines of trace.jsonl}
    curve      lines of curve.jsonl: {"step": its number, score or nll: its value}; () without one
    intervals  of the numbers in `metrics`, over the records (record_intervals.py)
    """

    where: Path
    name: str
    semantics: str
    modality: str
    seed: int | None
    record: RunRecord
    summary: dict[str, Any]
    logs: Logs
    metrics: dict[str, Scores]
    paper: Scores
    trace: dict[str, list[TraceLine]]
    curve: tuple[dict[str, Any], ...] = ()
    intervals: Intervals = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The content of a page: runs of one base and one gold on one set of questions.

    sets      the sets of definitions, in the order to show
    logs      {"base", "gold": {task: log}}, those that the runs have
    metrics   {"base", "gold": {set: result of metrics.score}}
    paper     {"base", "gold": result by the paper's definitions}
    failed    names of the directories of runs of `all` that failed
    intervals {"base", "gold": the intervals of their numbers}
    """

    runs: tuple[Run, ...]
    sets: tuple[str, ...]
    logs: dict[str, Logs]
    metrics: dict[str, dict[str, Scores]]
    paper: dict[str, Scores]
    failed: tuple[str, ...] = ()
    intervals: dict[str, Intervals] = field(default_factory=dict)


class RunFiles(NamedTuple):
    """What the files of one run directory hold. logs: {"base", "gold", "unlearned": logs}."""

    directory: Path
    record: RunRecord
    summary: dict[str, Any]
    logs: dict[str, Logs]


# {(name, SHA-256) of every file in a folder: their logs}. Base and gold are the same in most runs,
# and equal files are read once.
KnownLogs = dict[tuple[tuple[str, str], ...], Logs]


def read(paths: Iterable[str | Path], metrics: str = "paper") -> Report:
    """Every run in these directories. Each is the directory of a run, or one that `all` wrote.

    metrics  a set of definitions, or all. All numbers are computed from the
             logs; the numbers in metrics.json are not used.
    raises   UserError for a directory that is not a finished run, for one given twice, for a
             damaged file, and for runs that cannot be compared (comparable.py)
    """
    check_set(metrics)
    directories, failed = _directories(paths)
    known: KnownLogs = {}
    files = [_read_files(directory, known) for directory in directories]
    comparable.check([(own.directory, own.record, own.logs) for own in files])
    shared: dict[str, Logs] = {}
    for own in files:
        base_and_gold = {name: own.logs[name] for name in ("base", "gold") if name in own.logs}
        shared = base_and_gold | shared
    runs = [_run(own, metrics) for own in files]
    metrics_of = {}
    paper_of = {}
    for name, logs in shared.items():
        metrics_of[name], paper_of[name] = _scores(name, logs, shared.get("gold"), metrics)
    sets = SETS if metrics == "all" else (metrics,)
    if any(LEAKAGE in run.metrics for run in runs):
        sets = (*sets, LEAKAGE)
    return Report(
        runs=tuple(runs),
        sets=sets,
        logs=shared,
        metrics=metrics_of,
        paper=paper_of,
        failed=tuple(failed),
        intervals={
            name: of_sets(metrics_of[name], logs, shared.get("gold"))
            for name, logs in shared.items()
        },
    )


def _directories(paths: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """The run directories that the paths name, and the names of the failed runs of `all`."""
    directories: list[Path] = []
    failed: list[str] = []
    seen: dict[Path, Path] = {}
    for path in map(Path, paths):
        finished, failed_here = _runs_in(path)
        failed += failed_here
        for directory in finished:
            before = seen.setdefault(directory.resolve(), directory)
            if before is not directory:
                raise UserError(
                    f"report {path}: {directory} is there twice, as {before} too; "
                    "name each run once"
                )
            directories.append(directory)
    return directories, failed


def _runs_in(path: Path) -> tuple[list[Path], list[str]]:
    """(directories of runs, names of failed runs) of one path that was given."""
    if not path.is_dir():
        raise UserError(f"report {path}: no such directory; {EXPECTED}")
    settings = path / SETTINGS_FILE
    if settings.is_file() and read_json(settings).get("command") != "all":
        return [path], []
    inner = sorted(sub for sub in path.iterdir() if (sub / SETTINGS_FILE).is_file())
    if not inner:
        raise UserError(f"report {path}: holds no run; {EXPECTED}")
    if not (path / LEADERBOARD_FILE).is_file():
        raise UserError(
            f"report {path}: holds {len(inner)} runs and no {LEADERBOARD_FILE}, as an `all` that "
            "has not finished; finish it with --resume, or name its finished runs one by one"
        )
    finished = [sub for sub in inner if (sub / METRICS_FILE).is_file()]
    return finished, [sub.name for sub in inner if sub not in finished]


def _read_files(directory: Path, known: KnownLogs) -> RunFiles:
    """The files of one run; UserError if one is missing or wrong."""
    record = _read_record(directory / SETTINGS_FILE)
    summary = _read_summary(directory, record["command"])
    logs_directory = directory / LOGS_DIRECTORY
    is_unlearning = record["command"] == "unlearn"
    folders = {
        "unlearned": logs_directory if is_unlearning else logs_directory / "model",
        "base": logs_directory / "base",
        "gold": logs_directory / "gold",
    }
    logs = {}
    for name, folder in folders.items():
        own = _read_logs(folder, known) if folder.is_dir() else {}
        if own:
            logs[name] = own
    if "unlearned" not in logs:
        raise UserError(
            f"report {directory}: holds no logs in {folders['unlearned']}; evaluate it again"
        )
    return RunFiles(directory, record, summary, logs)


def _read_record(path: Path) -> RunRecord:
    """settings.json of a METHOD or evaluate run."""
    record = read_json(path)
    command = record.get("command")
    if record.get("format") != FORMAT or command not in SUMMARY_KEYS:
        raise UserError(
            f"{path}: is of {one_line(repr(record.get('format')), 40)}, command "
            f"{one_line(repr(command), 40)}; {EXPECTED}"
        )
    _check_type(record, "impl", str, path)
    for key in ("settings", "inputs", "versions"):
        _check_type(record, key, dict, path)
    for key in ("options", "kernel", "trained"):
        if key in record:
            _check_type(record, key, dict, path)
    for name, entry in (record["settings"] | record.get("options", {})).items():
        if not isinstance(entry, dict) or not {"value", "source"} <= set(entry):
            raise UserError(
                f"{path}: setting {one_line(name, 60)} is {one_line(repr(entry), 60)}; "
                "expected its value and source, as a run writes them; run it again"
            )
    _check_type(record["settings"], "method" if command == "unlearn" else "model", dict, path)
    return cast(RunRecord, record)


def _read_summary(directory: Path, command: str) -> dict[str, Any]:
    """metrics.json of a finished run."""
    path = directory / METRICS_FILE
    if not path.is_file():
        raise UserError(
            f"report {directory}: holds no {METRICS_FILE}, as a run that has not finished; "
            "finish it with --resume"
        )
    summary = read_json(path)
    for key, kind in SUMMARY_KEYS[command].items():
        _check_type(summary, key, kind, path)
    for phase in summary["seconds"]:
        _check_type(summary["seconds"], phase, NUMBER, path)
    for key in ("trained", "not_asked"):
        if summary.get(key) is not None:
            _check_type(summary, key, dict, path)
    if not is_guards(summary.get("guards", [])):
        raise UserError(f"{path}: guards is {one_line(repr(summary['guards']), 60)}; {REPEAT}")
    if "kept" in summary:
        _check_type(summary, "kept", dict, path)
        _check_type(summary["kept"], "step", int, path)
    return summary


def _read_logs(folder: Path, known: KnownLogs) -> Logs:
    """{task: log} of the files in a folder; the same object for files of the same bytes."""
    contents = {path: read_bytes(path) for path in sorted(folder.glob("*.json"))}
    key = tuple((path.name, hashlib.sha256(data).hexdigest()) for path, data in contents.items())
    if key not in known:
        logs: Logs = {}
        for path, data in contents.items():
            logs |= _read_log(path, data)
        known[key] = logs
    return known[key]


def _read_log(path: Path, data: bytes) -> Logs:
    """{task: log} of one file that this project has written."""
    kind, logs, _ = log_files.recognise(parse_json(data, path), path)
    if kind != log_files.FORMATS[0]:
        raise UserError(
            f"{path}: is a log of {kind}; expected one of {log_files.LOG_FORMAT} in a run's "
            "directory"
        )
    for log in logs.values():
        with _errors_name(path):
            texts = log_columns.texts(log)
        for index in texts:
            if not index.isdecimal():
                raise UserError(
                    f"{path}: generated_text has the record {one_line(repr(index), 40)}; "
                    "expected row numbers"
                )
    return logs


def _run(files: RunFiles, metrics: str) -> Run:
    """The run of these files, scored by a set of definitions."""
    where, record, summary, logs = files
    sets, paper = _scores(where, logs["unlearned"], logs.get("gold"), metrics)
    is_unlearning = record["command"] == "unlearn"
    return Run(
        where=where,
        name=summary["method"] if is_unlearning else _evaluated_name(record, summary),
        semantics=summary["semantics"] if is_unlearning else "",
        modality=summary["modality"] if is_unlearning else EVALUATED,
        seed=summary["seed"] if is_unlearning else None,
        record=record,
        summary=summary,
        logs=logs["unlearned"],
        metrics=sets,
        paper=paper,
        trace=_read_trace(where / TRACE_FILE) if is_unlearning else {},
        curve=_read_curve(where / CURVE_FILE) if is_unlearning else (),
        intervals=of_sets(sets, logs["unlearned"], logs.get("gold")),
    )


def _evaluated_name(record: RunRecord, summary: Mapping[str, Any]) -> str:
    """The last two parts of the path of the adapter, or of the model if there is no adapter."""
    adapter = record["settings"].get("adapter")
    path = (adapter["value"] if adapter else "") or summary["model"]
    return "/".join(Path(str(path)).resolve().parts[-2:])


def _scores(
    model: str | Path, logs: Logs, gold: Logs | None, metrics: str
) -> tuple[dict[str, Scores], Scores]:
    """({set: metrics}, metrics by the paper's definitions) of one model's logs."""
    with _errors_name(model):
        scores = score(logs, gold, metrics)
        others = scores.pop("also", {})
        first = SETS[0] if metrics == "all" else metrics
        sets = {first: scores, **others}
        paper = sets[SETS[0]] if SETS[0] in sets else score(logs, gold)
        return sets, paper


@contextmanager
def _errors_name(model: str | Path) -> Iterator[None]:
    """Adds the model to the messages of errors in logs, which name the task only."""
    try:
        yield
    except UserError as error:
        raise UserError(f"report {model}: {error}") from None


def _read_trace(path: Path) -> dict[str, list[TraceLine]]:
    """{stage: lines} of trace.jsonl."""
    stages: dict[str, list[TraceLine]] = {}
    for number, text in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}:{number}"
        line = parse_json(text.encode("utf-8"), where)
        for key, kind in TRACE_KEYS.items():
            _check_type(line, key, kind, where)
        for term in line["terms"]:
            _check_type(line["terms"], term, NUMBER, where)
        stages.setdefault(line["stage"], []).append(cast(TraceLine, line))
    return stages


def _read_curve(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines of curve.jsonl, without what is not drawn; () if there is no such file."""
    if not path.exists():
        return ()
    lines = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}:{number}"
        line = parse_json(text.encode("utf-8"), where)
        drawn = {key: line[key] for key in line if key not in (*HALVES, "stage", "epoch")}
        for key, kind in ({key: NUMBER for key in drawn} | CURVE_KEYS).items():
            _check_type(line, key, kind, where)
        lines.append(drawn)
    return tuple(lines)


def _check_type(values: Mapping[str, Any], key: str, kind: Kind, where: str | Path) -> None:
    """UserError unless values[key] exists and has the type."""
    value = values.get(key)
    if not isinstance(value, kind):
        raise UserError(f"{where}: {one_line(key, 60)} is {one_line(repr(value), 60)}; {REPEAT}")
