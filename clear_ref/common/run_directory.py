"""A run directory: its file names, the type of settings.json, and how it is chosen.

A run directory holds one run. settings.json describes the run and is written first.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Any, Concatenate, NotRequired, ParamSpec, Protocol, TypedDict, TypeVar, cast

from . import distributed
from .atomic import UNFINISHED, PathName
from .errors import UserError
from .file_keys import shown
from .files import one_line, read_json, sha256, write_json
from .run_lock import LOCK, locked

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

FORMAT = "clear_ref.run/1"
RUNS = Path("runs")  # where runs without --out are written
EVALUATED = RUNS / ".evaluated"  # logs of models that several runs use, see commands/evaluated.py

# Names inside a run directory.
SETTINGS_FILE = "settings.json"  # RunRecord: what was run, on what inputs
TRACE_FILE = "trace.jsonl"  # one line per optimiser step
TRACE_CSV_FILE = "trace.csv"  # the same values in columns
CURVE_FILE = "curve.jsonl"  # one line per evaluation during the training
RECORDS_FILE = "records.jsonl"  # one line per record and model
METRICS_FILE = "metrics.json"  # the run's summary, with its metrics
REPORT_FILE = "report.html"  # the page; a run writes it last
LEADERBOARD_FILE = "leaderboard.json"  # of the command `all`
LOGS_DIRECTORY = "logs"  # evaluation logs, one file per task
CHECKPOINT_DIRECTORY = "checkpoint"  # training state, and what is finished of an evaluation

# Settings that change no number of a run.
WITHOUT_EFFECT = {"out", "save_every", "keep_checkpoints", "shard", "strict", "teacher"}
# Settings that may change when a run is resumed: they have no effect on training.
CHANGEABLE = WITHOUT_EFFECT | {
    "limit",
    "max_new_tokens",
    "metrics",
    "tasks",
    "eval_batch",
    "plain",
}
# Settings that older runs have not got, and the value with which they ran.
ADDED_LATER = {"leakage": False, "sequence": "", "request": 0}
MISSING = object()  # in place of a value that a run does not have
# Settings that name the files of `inputs`: where these are equal, their place may have changed.
OF_INPUTS = {"model", "gold", "adapter", "data", "network", "forget_names", "holdout_names"}
# Parts of a RunRecord that all processes of a run must have alike.
COMPARED = ("command", "impl", "settings", "options", "inputs")
# What to do about a settings.json that no run writes.
PUT_BACK = "put back the file that the run wrote, or start a new run"
PACKAGES = ("clear_ref", "torch", "safetensors", "pillow", "numpy", "tokenizers")


class SettingRecord(TypedDict):
    """One setting or option: its value (a string, a number or a bool) and where it is from."""

    value: Any
    source: str


class TrainedTensor(TypedDict):
    """One trained tensor; count is its number of elements."""

    name: str
    shape: list[int]
    count: int


class TrainedRecord(TypedDict):
    """What is trained: the tensors, their total size, and the size of the whole model."""

    tensors: list[TrainedTensor]
    trainable: int
    total: int


class KernelRecord(TypedDict):
    """The compiled kernel: instruction_set is None if it is not built; cuda lists capabilities."""

    built: bool
    instruction_set: str | None
    cuda: list[str]


class RunRecord(TypedDict):
    """The content of settings.json.

    command         unlearn, finetune, evaluate or all
    impl            implementation of the token terms: native or torch
    kernel          what was compiled; not in the record of `all`
    recipe          name of the recipe; not in the record of `evaluate`
    settings        of the command and of the recipe
    options         of the method; `unlearn` only
    adapted_layers  layers with LoRA adapters; `unlearn` and `finetune` only
    trained         `unlearn` and `finetune` only
    inputs          {path or description: SHA-256}
    versions        {package: version}
    label_mask      which tokens are predicted in the loss; `unlearn` only
    processes       how many torchrun started; only under torchrun
    """

    format: str
    command: str
    impl: str
    kernel: NotRequired[KernelRecord]
    recipe: NotRequired[str]
    settings: dict[str, SettingRecord]
    options: NotRequired[dict[str, SettingRecord]]
    adapted_layers: NotRequired[list[str]]
    trained: NotRequired[TrainedRecord]
    inputs: dict[str, str]
    versions: dict[str, str]
    label_mask: NotRequired[str]
    processes: NotRequired[int]


FilesOf = Callable[[RunRecord], object]


class Run(Protocol):
    """A run that was resolved: its directory, and the content of its settings.json."""

    @property
    def out(self) -> Path:
        """The run directory."""

    @property
    def record(self) -> RunRecord:
        """The content of settings.json."""


AnyRun = TypeVar("AnyRun", bound=Run)


def alone_in_its_directory(
    function: Callable[Concatenate[AnyRun, Parameters], Result],
) -> Callable[Concatenate[AnyRun, Parameters], Result]:
    """`function` of a run, called while no other process runs in the run's directory.

    settings.json is written first. Under torchrun the first process has the lock.
    raises  UserError as `locked`
    """

    @wraps(function)
    def locked_function(run: AnyRun, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        with locked(run.out) if distributed.is_first() else nullcontext():
            write_record(run.out, run.record)
            return function(run, *args, **named)

    return locked_function


def versions() -> dict[str, str]:
    """The versions of Python and of every run-time package."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    return found


def hashes(paths: Iterable[PathName]) -> dict[str, str]:
    """{path: SHA-256 of the file}."""
    return {str(path): sha256(path) for path in paths}


def hash_of_all(directory: Path, paths: Iterable[Path]) -> str:
    """One SHA-256 of many files: of one line "HASH  PATH BELOW directory" per file."""
    lines = "".join(f"{sha256(path)}  {path.relative_to(directory)}\n" for path in paths)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def unused_directory(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that does not exist."""
    path = RUNS / name
    number = 1
    while path.exists():
        number += 1
        path = RUNS / f"{name}-{number}"
    return path


def check_directory(path: Path, option: str) -> None:
    """UserError if `path` or a parent of it is a file."""
    for parent in (path, *path.parents):
        if parent.exists() and not parent.is_dir():
            raise UserError(
                f"{option} {path}: {parent} is a file; expected a directory to write into"
            )


def check_file(path: Path, option: str) -> None:
    """UserError if `path` is a directory, or a parent of it is a file."""
    if path.is_dir():
        raise UserError(f"{option} {path}: is a directory; expected a file to write")
    check_directory(path.parent, option)


def check_empty(path: Path, option: str) -> None:
    """UserError unless `path` is absent or an empty directory, and no parent of it is a file."""
    check_directory(path, option)
    if holds_files(path):
        raise UserError(f"{option} {path}: is not empty; choose another directory")


def holds_files(path: Path) -> bool:
    """Whether a directory holds more than a lock and what a killed process did not finish."""
    if not path.is_dir():
        return False
    return any(each.name != LOCK and each.suffix != UNFINISHED for each in path.iterdir())


def inputs_of(record: RunRecord) -> object:
    """The inputs of a record, with the paths that it names."""
    return record["inputs"]


def choose(
    out: str,
    default_name: str,
    record: RunRecord,
    resume: bool,
    changeable: set[str] = CHANGEABLE,
    files_of: FilesOf = inputs_of,
) -> Path:
    """The directory of a run whose settings.json will hold `record`. Nothing is written here.

    out         directory named by the user, or "": then an unused directory runs/DEFAULT_NAME
    changeable  settings that may differ from those of the run to resume
    files_of    the inputs of a record as they are compared with those of the run to resume
    raises      UserError if `out` holds another run (without resume: any run), or other files;
                under torchrun, also if another process has other settings or inputs
    """
    compared = json.dumps([record.get(part) for part in COMPARED], sort_keys=True)
    distributed.check_equal(
        hashlib.sha256(compared.encode("utf-8")).hexdigest(),
        "settings, options or input files than process 0; expected the same command and equal "
        "files on every machine",
    )

    def chosen() -> str:
        return str(_choose(out, default_name, record, resume, changeable, files_of))

    return Path(distributed.from_first(chosen))


def write_record(out: Path, record: RunRecord) -> None:
    """Write settings.json: with it, `out` holds this run."""
    if distributed.size() > 1:
        record = {**record, "processes": distributed.size()}
    write_json(out / SETTINGS_FILE, record)


def read_record(file: Path) -> RunRecord:
    """The record in a settings.json; UserError that names the first key that no run writes."""
    found = read_json(file)
    if found.get("format") != FORMAT or not isinstance(found.get("command"), str):
        raise UserError(
            f"{file}: is no settings.json of this version ({FORMAT}); expected that of a run"
        )
    _check_part(file, "impl", found.get("impl"), str, "text")
    for part in ("settings", "options"):
        values: Any = found.get(part, {} if part == "options" else None)
        _check_part(file, part, values, dict, "an object")
        for name, entry in values.items():
            if not (isinstance(entry, dict) and "value" in entry and "source" in entry):
                raise _wrong(file, f"{part}.{name}", entry, "an object with value and source")
            _check_part(file, f"{part}.{name}.source", entry["source"], str, "text")
    for part in ("inputs", "versions"):
        _check_part(file, part, found.get(part), dict, "an object")
        for name, text in found[part].items():
            _check_part(file, f"{part}.{name}", text, str, "text")
    return cast(RunRecord, found)


def _check_part(file: Path, key: str, value: object, kind: type, words: str) -> None:
    """UserError unless the value at a key of settings.json is of this kind."""
    if not isinstance(value, kind):
        raise _wrong(file, key, value, words)


def _wrong(file: Path, key: str, value: object, words: str) -> UserError:
    """The error of a value in settings.json; words: what is expected."""
    return UserError(
        f"{file}: {one_line(key, 100)} is {shown(value)}; expected {words}, as a run writes it; "
        f"{PUT_BACK}"
    )


def _choose(
    out: str,
    default_name: str,
    record: RunRecord,
    resume: bool,
    changeable: set[str],
    files_of: FilesOf,
) -> Path:
    """`choose` in the process that reads the directory."""
    if resume and not out:
        raise UserError("--resume needs --out, the directory of the run to resume")
    path = Path(out) if out else unused_directory(default_name)
    holds_run = (path / SETTINGS_FILE).exists()
    if holds_run and not resume:
        raise UserError(
            f"--out {path}: holds another run; choose another directory, or add --resume to "
            "continue that run"
        )
    if holds_run:
        _check_same_run(path, record, changeable, files_of)
        return path
    if holds_files(path):
        raise UserError(f"--out {path}: holds files but no run; choose another directory")
    check_empty(path, "--out")
    if resume:
        raise UserError(
            f"--out {path}: there is no run to resume; start one with the same command without "
            "--resume"
        )
    return path


def _check_same_run(path: Path, record: RunRecord, changeable: set[str], files_of: FilesOf) -> None:
    """UserError unless the run in `path` can be resumed as `record` describes it."""
    before = read_record(path / SETTINGS_FILE)
    if before["command"] != record["command"]:
        raise UserError(f"--out {path}: holds no run of {record['command']}; start a new run")
    same_files = files_of(before) == files_of(record)
    may_differ = changeable | OF_INPUTS if same_files else changeable
    for name, old, new in _changes(before, record):
        if name in may_differ:
            continue
        was = f"was run with {name} = {one_line(repr(old))}"
        if old is MISSING:
            was = f"its {SETTINGS_FILE} has no {name}"
        raise UserError(
            f"--out {path}: {was}, now it is {one_line(repr(new))}; resume with the settings of "
            "its start, or choose another directory"
        )
    if not same_files:
        changed = sorted(
            key
            for key in before["inputs"] | record["inputs"]
            if before["inputs"].get(key) != record["inputs"].get(key)
        )
        raise UserError(
            f"--out {path}: its inputs have changed since ({one_line(', '.join(changed[:3]))}); "
            "start a new run"
        )


def _changes(before: RunRecord, after: RunRecord) -> Iterator[tuple[str, object, object]]:
    """(name, value before, value after) of every setting, option and impl that differs.

    The value before is MISSING if the run has none.
    """
    for old_values, new_values in (
        (before["settings"], after["settings"]),
        (before.get("options", {}), after.get("options", {})),
    ):
        for name, entry in new_values.items():
            old = ADDED_LATER.get(name, MISSING)
            if name in old_values:
                old = old_values[name]["value"]
            if old != entry["value"]:
                yield name, old, entry["value"]
    # The setting --impl auto can select another implementation than before.
    if before["impl"] != after["impl"]:
        yield "impl", before["impl"], after["impl"]
