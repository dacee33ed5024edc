"""Runs as their directories hold them, read again for a page: settings, training trace, logs, and the metrics of those logs."""

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, parse_json, read_bytes, read_json, read_text
from clear_ref.evaluation import log_columns
from clear_ref.evaluation import logs as log_files
from clear_ref.evaluation.definitions import SETS, check_set
from clear_ref.evaluation.metrics import score

from . import comparable

SETTINGS, METRICS, TRACE, LEADERBOARD = (
    "settings.json",
    "metrics.json",
    "trace.jsonl",
    "leaderboard.json",
)
FORMAT, EVALUATED = "clear_ref.run/1", "evaluated"
KINDS = {
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
NUMBER = (int, float)
EXPECTED = "expected the directory of a METHOD or an evaluate run, or one that `all` wrote"


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    where      its directory, as it was named
    name       the method; of `evaluate` the model's or adapter's directory
    semantics  the method's meaning; "" where a model was only evaluated
    modality   what was forgotten: both, visual, text; EVALUATED where the run does not know
    seed       None where a model was only evaluated
    record     settings.json                          summary    metrics.json
    logs       {task: log} of the unlearned (or evaluated) model
    metrics    {set of definitions: what metrics.score returns}, beside the run's own gold
    paper      the same by the paper's definitions, whichever were asked for
    trace      {stage: rows of trace.jsonl}
    """

    where: Path
    name: str
    semantics: str
    modality: str
    seed: int | None
    record: dict
    summary: dict
    logs: dict
    metrics: dict
    paper: dict
    trace: dict


@dataclass(frozen=True)
class Report:
    """What a page is made of: runs of one base and one gold on one set of questions.

    sets      the sets of definitions, in the order to show
    logs      {"base", "gold": {task: log}}, those that the runs have
    metrics   {"base", "gold": {set: what metrics.score returns}}           paper      the same by the paper's definitions
    failed    runs of an `all` that ended without a result: their directories' names
    """

    runs: tuple[Run, ...]
    sets: tuple[str, ...]
    logs: dict
    metrics: dict
    paper: dict
    failed: tuple[str, ...] = ()


def read(paths, metrics: str = "paper") -> Report:
    """Every run in the directories named, of which each is a run's or one that `all` wrote.

    metrics  whose definitions: paper, released, tofu or all; computed from the logs, whatever the run itself printed
    raises   UserError for a directory that is no run or an unfinished one, one named twice, a damaged file, and for runs that
             cannot stand beside each other (comparable.py)
    """
    check_set(metrics)
    directories, failed = _directories(paths)
    known = {}  # logs by the hash of their files: base's and gold's are the same in most runs
    found = [_open(directory, known) for directory in directories]
    comparable.check([(where, record, logs) for where, record, _, logs in found])
    shared = {}
    for _, _, _, logs in found:
        shared = {name: logs[name] for name in ("base", "gold") if name in logs} | shared
    runs = [_run(where, record, summary, logs, metrics) for where, record, summary, logs in found]
    models = {
        name: _scores(name, shared[name], shared.get("gold"), metrics)
        for name in ("base", "gold")
        if name in shared
    }
    return Report(
        tuple(runs),
        SETS if metrics == "all" else (metrics,),
        shared,
        {name: sets for name, (sets, _) in models.items()},
        {name: paper for name, (_, paper) in models.items()},
        tuple(failed),
    )


def _directories(paths) -> tuple[list[Path], list[str]]:
    """The run directories that the paths stand for, and the names of those in an `all` that hold no result."""
    directories, failed, seen = [], [], {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"report {path}: no such directory; {EXPECTED}")
        below = [path]
        if not (path / SETTINGS).is_file() or read_json(path / SETTINGS).get("command") == "all":
            inner = sorted(sub for sub in path.iterdir() if (sub / SETTINGS).is_file())
            if not inner:
                raise UserError(f"report {path}: holds no run; {EXPECTED}")
            if not (path / LEADERBOARD).is_file():
                raise UserError(
                    f"report {path}: holds {len(inner)} runs and no {LEADERBOARD}, as an `all` that has not ended; "
                    "let it end (--resume), or name the finished runs in it one by one"
                )
            below = [sub for sub in inner if (sub / METRICS).is_file()]
            failed += [sub.name for sub in inner if sub not in below]
        for directory in below:
            before = seen.setdefault(directory.resolve(), directory)
            if before is not directory:
                raise UserError(
                    f"report {path}: {directory} is there twice, as {before} too; name each run once"
                )
            directories.append(directory)
    return directories, failed


def _open(directory: Path, known: dict):
    """(directory, settings.json, metrics.json, {"base", "gold", "unlearned": logs}) of one run."""
    record = read_json(directory / SETTINGS)
    command = record.get("command")
    if record.get("format") != FORMAT or command not in KINDS:
        raise UserError(
            f"{directory / SETTINGS}: is of {one_line(repr(record.get('format')), 40)}, command "
            f"{one_line(repr(command), 40)}; {EXPECTED}"
        )
    for key in ("settings", "inputs", "versions"):
        _checked(record, key, dict, directory / SETTINGS)
    for name, entry in (record["settings"] | record.get("options", {})).items():
        if not isinstance(entry, dict) or not {"value", "source"} <= set(entry):
            raise UserError(
                f"{directory / SETTINGS}: setting {name} is {one_line(repr(entry), 60)}; expected its value and "
                "source, as a run writes them; run it again"
            )
    if not (directory / METRICS).is_file():
        raise UserError(
            f"report {directory}: holds no {METRICS}, as a run that has not finished; let it end, or go on with it "
            "(--resume)"
        )
    summary = read_json(directory / METRICS)
    for key, kind in KINDS[command].items():
        _checked(summary, key, kind, directory / METRICS)
    for what in summary["seconds"]:
        _checked(summary["seconds"], what, NUMBER, directory / METRICS)
    folders = {
        "unlearned": directory / "logs" if command == "unlearn" else directory / "logs" / "model",
        "base": directory / "logs" / "base",
        "gold": directory / "logs" / "gold",
    }
    found = {name: _logs(folder, known) for name, folder in folders.items() if folder.is_dir()}
    if not found.get("unlearned"):
        raise UserError(
            f"report {directory}: holds no logs in {folders['unlearned']}; evaluate it again"
        )
    return directory, record, summary, {name: logs for name, logs in found.items() if logs}


def _logs(folder: Path, known: dict) -> dict:
    """{task: log} of the files in a folder; the same object for files of the same bytes."""
    files = [(path, read_bytes(path)) for path in sorted(folder.glob("*.json"))]
    key = tuple((path.name, hashlib.sha256(data).hexdigest()) for path, data in files)
    if key not in known:
        known[key] = {}
        for path, data in files:
            kind, tasks, _ = log_files.recognise(parse_json(data, path), path)
            if kind != log_files.FORMATS[0]:
                raise UserError(
                    f"{path}: is a log of {kind}; expected one of {log_files.LOG_FORMAT} in a run's directory"
                )
            for log in tasks.values():
                with _named(path):
                    odd = [key for key in log_columns.texts(log) if not key.isdecimal()]
                if odd:
                    raise UserError(
                        f"{path}: generated_text has the record {one_line(repr(odd[0]), 40)}; expected row numbers"
                    )
            known[key] |= tasks
    return known[key]


def _run(where: Path, record: dict, summary: dict, logs: dict, metrics: str) -> Run:
    sets, paper = _scores(where, logs["unlearned"], logs.get("gold"), metrics)
    facts = {
        "logs": logs["unlearned"],
        "metrics": sets,
        "paper": paper,
        "record": record,
        "summary": summary,
    }
    if record["command"] == "evaluate":
        named = Path(
            str(record["settings"].get("adapter", {}).get("value") or summary["model"])
        ).resolve()
        return Run(where, "/".join(named.parts[-2:]), "", EVALUATED, None, trace={}, **facts)
    return Run(
        where,
        summary["method"],
        summary["semantics"],
        summary["modality"],
        summary["seed"],
        trace=_trace(where / TRACE),
        **facts,
    )


def _scores(what, own: dict, gold: dict | None, metrics: str) -> tuple[dict, dict]:
    """({set: metrics}, metrics by the paper's definitions) of one model's logs."""
    with _named(what):
        found = score(own, gold, metrics)
        also = found.pop("also", {})
        sets = {metrics if metrics != "all" else SETS[0]: found, **also}
        return sets, sets.get(SETS[0]) or score(own, gold)


@contextmanager
def _named(what):
    """Errors of logs name their task; here they also say whose."""
    try:
        yield
    except UserError as error:
        raise UserError(f"report {what}: {error}") from None


def _trace(path: Path) -> dict[str, list[dict]]:
    """{stage: rows} of trace.jsonl."""
    stages = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        row = parse_json(line.encode("utf-8"), f"{path}:{number}")
        for key, kind in (("stage", str), ("step", int), ("loss", NUMBER), ("terms", dict)):
            _checked(row, key, kind, f"{path}:{number}")
        for term in row["terms"]:
            _checked(row["terms"], term, NUMBER, f"{path}:{number}")
        stages.setdefault(row["stage"], []).append(row)
    return stages


def _checked(found: dict, key: str, kind, where) -> None:
    """UserError unless found[key] is there and of its kind."""
    if not isinstance(found.get(key), kind):
        raise UserError(
            f"{where}: {key} is {one_line(repr(found.get(key)), 60)}; expected what a finished run of this version "
            "writes; run it again"
        )
