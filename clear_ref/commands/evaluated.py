"""Logs of base and gold models that are evaluated once and used again by later runs.

runs/.evaluated/KEY/ (hidden, so that runs/* names runs alone) holds key.json, which says what was
evaluated and how, and one file for each task. KEY is the hash of what key.json holds: the files of
the model and of the data, the settings that change a log, the source of the code that computes it,
versions and hardware. Every log is kept with its own hash: a broken one is said and computed again.
Files are renamed into their place when they are whole, so several processes can use the directory;
one at a time writes. What a killed process left is removed by the next run that looks there.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from clear_ref.bench.process import hardware
from clear_ref.common import distributed, run_directory
from clear_ref.common.errors import Notice, RunFailed, UserError
from clear_ref.common.files import read_json, write_json
from clear_ref.common.run_lock import InUse, locked
from clear_ref.data.paraphrases import FILE
from clear_ref.evaluation.log_format import Log, Logs
from clear_ref.evaluation.tasks import Task
from clear_ref.losses.native import description
from clear_ref.model.vlm import VLM

from .input_roles import data_hashes, model_hashes
from .model_logs import FINISHED_GROUPS, evaluate_model, load_model
from .resolve import Inputs, hashes_of_paraphrases, input_hashes

FORMAT = "clear_ref.evaluated/1"
KEY_FILE = "key.json"
KEY_DIGITS = 16  # hexadecimal; key.json is compared in full
PACKAGE = Path(__file__).parents[1]
# The rooms whose code computes a log (relearning.py, for --robustness alone, also trains).
ROOMS = ("common", "data", "model", "losses", "evaluation")


def evaluated(
    inputs: Inputs, models: Mapping[str, Path], out: Path, fresh: bool = False
) -> dict[str, Logs]:
    """{name: logs} of model directories without adapters: kept ones, else evaluated and kept.

    models  {name in progress lines: directory}
    out     the run directory, for finished groups of an evaluation that is stopped
    fresh   evaluate also what is kept
    """
    known = reused(inputs, models, fresh)
    return {
        name: completed(inputs, directory, name, out, known[name])
        for name, directory in models.items()
    }


def base_and_gold(inputs: Inputs) -> dict[str, Path]:
    """{name: directory} of the base model and of the gold model, if there is one."""
    models = {"base": inputs.model}
    if inputs.gold:
        models["gold"] = inputs.gold
    return models


def reused(inputs: Inputs, models: Mapping[str, Path], fresh: bool = False) -> dict[str, Logs]:
    """{name: its kept logs}; {} for a model of which none is kept, and for all with `fresh`.

    One notice names the models of which all logs are kept, and the directories. Another one names
    a model whose directory is broken.
    """
    found: dict[str, Logs] = {name: {} for name in models}
    if fresh:
        return found
    places = {}
    for name, directory in models.items():
        folder, of = place_of(inputs, directory)
        if distributed.is_first():
            _tidy(folder)
        try:
            found[name] = distributed.from_first(partial(_read, folder, of, inputs.tasks))
        except UserError as error:
            _notice(f"{error}; {name} is evaluated again")
        if len(found[name]) == len(inputs.tasks):
            places[name] = str(folder)
        elif found[name]:
            _notice(
                f"{name}: logs of {len(found[name])} of {len(inputs.tasks)} tasks are taken from "
                f"{folder}, the others are computed"
            )
    if places:
        _notice(
            f"{' and '.join(places)}: not evaluated again, the logs are in "
            f"{' and '.join(places.values())} (same model, data, settings and code; --fresh "
            "evaluates again)"
        )
    return found


def completed(
    inputs: Inputs, directory: Path, name: str, out: Path, known: Logs, vlm: VLM | None = None
) -> Logs:
    """The logs of all tasks: those of `known`; the others are evaluated and kept.

    vlm  the model of the directory, if it is loaded already
    """
    missing = [task for task in inputs.tasks if task.name not in known]
    if not missing:
        return known
    groups = out / FINISHED_GROUPS / name
    # Groups that were finished before may be of other code or another machine.
    resumed = groups.is_dir() and any(groups.iterdir())
    if vlm is None:
        vlm = load_model(inputs, directory)
    logs = known | evaluate_model(inputs, vlm, name, out, missing)
    if distributed.is_first() and not resumed:
        _keep(inputs, directory, missing, logs)
    return {task.name: logs[task.name] for task in inputs.tasks}


def place_of(inputs: Inputs, directory: Path) -> tuple[Path, dict[str, Any]]:
    """(directory, content of key.json) of a model's logs under these inputs.

    --tasks is not part of it: the log of a task does not depend on the other tasks.
    """
    machine = hardware(str(inputs.device))
    of = {
        "format": FORMAT,
        "model": model_hashes(inputs.hashes, directory),
        "data": data_hashes(inputs.hashes),
        "settings": asdict(inputs.evaluation)
        | {
            "template": inputs.template,
            "dtype": inputs.dtype,
            "device": inputs.device.type,
            "impl": inputs.impl,
        },
        "code": code_hash(),
        "kernel": description(),
        "versions": run_directory.versions(),
        "hardware": [machine["cpu"], machine["torch_instruction_set"], machine.get("gpu", "")],
    }
    return run_directory.EVALUATED / _digest(of)[:KEY_DIGITS], of


@cache
def code_hash() -> str:
    """SHA-256 of the source and of the compiled kernel of the code that computes a log."""
    files = [
        path
        for room in ROOMS
        for path in sorted((PACKAGE / room).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    ]
    return run_directory.hash_of_all(PACKAGE, files)


def _read(folder: Path, of: dict[str, Any], tasks: tuple[Task, ...]) -> Logs:
    """The kept logs of the tasks, those that are there; UserError for a broken file."""
    files = {task: folder / _file_name(task) for task in tasks}
    present = {task: path for task, path in files.items() if path.exists()}
    if present and read_json(folder / KEY_FILE) != of:
        raise UserError(f"{folder / KEY_FILE}: does not belong to {folder.name}")
    found: Logs = {}
    for task, path in present.items():
        kept = read_json(path)
        if kept.get("task") != asdict(task) or kept.get("sha256") != _digest(kept.get("log")):
            raise UserError(f"{path}: is not the log that was written there")
        found[task.name] = cast(Log, kept["log"])
    return found


def _keep(inputs: Inputs, directory: Path, tasks: list[Task], logs: Logs) -> None:
    """Write logs for later runs, unless the files of model or data have changed meanwhile.

    Where they cannot be written, a notice says so: the run itself does not need them.
    """
    folder, of = place_of(inputs, directory)
    now = input_hashes(inputs.data, directory)
    if FILE in of["data"]:
        now |= hashes_of_paraphrases(inputs.data)
    if (model_hashes(now, directory), data_hashes(now)) != (of["model"], of["data"]):
        _notice(f"{directory}: model or data changed while it was evaluated; its logs are not kept")
        return
    try:
        with locked(folder):
            write_json(folder / KEY_FILE, of)
            for task in tasks:
                log = logs[task.name]
                kept = {"task": asdict(task), "sha256": _digest(log), "log": log}
                write_json(folder / _file_name(task), kept)
    except InUse:  # another process keeps logs of this model now, from the same code and files
        return
    except (UserError, RunFailed) as error:
        _notice(f"the next run evaluates {directory} again: {error}")
    except OSError as error:
        said = f"{folder}: cannot be written ({error.strerror})"
        _notice(f"the next run evaluates {directory} again: {said}")


def _tidy(folder: Path) -> None:
    """Remove what a killed process left in a directory, unless another one writes there now."""
    if any(folder.glob(".*")):
        with suppress(UserError, OSError), locked(folder):
            pass


def _file_name(task: Task) -> str:
    """NAME-CONFIG-TOKENS.json: splits and lengths of the generated text have their own files."""
    return f"{task.name}-{task.config.replace('/', '+')}-{task.max_new_tokens}.json"


def _digest(value: object) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8")).hexdigest()


def _notice(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=3)
