"""The index of a checkpoint: state-STAGE-STEP.json, which names its tensor files with their hashes.

It has the SHA-256 of its own values, and these contain the hash of each file, so that nothing can
be changed alone: a resumed run would count other steps, with another learning rate, and nobody
would see it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json, sha256

FORMAT = "clear_ref.checkpoint/2"
OLDER = "state.json"  # the index of a checkpoint of 2026-11-28 and before
Ranges = dict[str, list[list[int]]]


class State(TypedDict):
    """The values of an index.

    stage, step  the stage, and how many of its n_steps steps are done; epoch: of its epochs
    trace_bytes  length of trace.jsonl after this step; None: unknown
    files        {name of a tensor file in the same directory: its SHA-256}
    ranges       {tensor: [first row, row after the last] in each of the files} of tensors that are
                 shared out over the files; every other tensor is whole in the first file
    """

    format: str
    stage: str
    step: int
    n_steps: int
    epoch: int
    trace_bytes: int | None
    files: dict[str, str]
    ranges: Ranges
    sha256: str


KINDS = {
    "format": (str,),
    "stage": (str,),
    "step": (int,),
    "n_steps": (int,),
    "epoch": (int,),
    "trace_bytes": (int, type(None)),
    "files": (dict,),
    "ranges": (dict,),
    "sha256": (str,),
}
OLDER_KINDS = {
    key: (str if key in ("stage", "tensors", "sha256") else int,)
    for key in ("stage", "step", "n_steps", "epoch", "tensors", "sha256")
}


def index_name(stage: str, step: int) -> str:
    """The file name of an index."""
    return f"state-{stage}-{step:06d}.json"


def digest(state: State) -> str:
    """SHA-256 of the values of an index but for sha256."""
    values = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()


def index_names(directory: Path, stage: str) -> list[str]:
    """The names of a stage's indexes in a directory, that of the newest one first."""
    found = {}
    for path in directory.glob("state-*.json"):
        match = re.fullmatch(rf"state-{re.escape(stage)}-(\d+)\.json", path.name)
        if match:
            found[path.name] = int(match[1][:18])
    names = sorted(found, key=lambda name: found[name], reverse=True)
    return [*names, OLDER] if (directory / OLDER).exists() else names


def read_index(directory: Path, name: str) -> State:
    """The values in an index; UserError if it is none, or was changed."""
    path = directory / name
    values = read_json(path)
    if name == OLDER:
        return _of_older_build(directory, values)
    if not _fits(values, KINDS) or not _are_files(values["files"]) or not _are_ranges(values):
        raise UserError(
            f"{path}: is not the state of a checkpoint; expected {', '.join(KINDS)}, with the "
            "plain names of its tensor files"
        )
    state = cast(State, values)
    if digest(state) != state["sha256"] or index_name(state["stage"], state["step"]) != name:
        raise UserError(f"{path}: was changed after it was written (SHA-256)")
    return state


def _fits(values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> bool:
    return all(key in values and type(values[key]) in kinds[key] for key in kinds)


def is_plain_name(name: object) -> bool:
    """True for a name that a file of a directory can have, on one line."""
    return (
        isinstance(name, str) and Path(name).name == name and name.isprintable() and len(name) < 256
    )


def _are_files(files: dict[str, Any]) -> bool:
    named = all(is_plain_name(name) and isinstance(files[name], str) for name in files)
    return bool(files) and named


def _are_ranges(values: Mapping[str, Any]) -> bool:
    """Whether each range begins where the one before ends, one range for each file."""
    for ranges in values["ranges"].values():
        if not isinstance(ranges, list) or len(ranges) != len(values["files"]):
            return False
        end = 0
        for each in ranges:
            good = isinstance(each, list) and len(each) == 2 and type(each[1]) is int
            if not good or each[0] != end or each[1] < end:
                return False
            end = each[1]
    return True


def _of_older_build(directory: Path, values: dict[str, Any]) -> State:
    """The State of a state.json; its hash is of its values and of its one tensor file."""
    path = directory / OLDER
    if not _fits(values, OLDER_KINDS) or not is_plain_name(values["tensors"]):
        raise UserError(
            f"{path}: is not the state of a checkpoint; expected {', '.join(OLDER_KINDS)}, with "
            "the plain name of its tensors"
        )
    file = directory / values["tensors"]
    if not file.is_file():
        raise UserError(f"{file}: no such file, and {OLDER} names it")
    of_file = sha256(file)
    text = "".join(f"{key}={values[key]}\n" for key in OLDER_KINDS if key != "sha256")
    if hashlib.sha256(f"{text}{of_file}\n".encode()).hexdigest() != values["sha256"]:
        raise UserError(f"{path}: was written with other values or another file (SHA-256)")
    return {
        "format": FORMAT,
        "stage": values["stage"],
        "step": values["step"],
        "n_steps": values["n_steps"],
        "epoch": values["epoch"],
        "trace_bytes": None,
        "files": {values["tensors"]: of_file},
        "ranges": {},
        "sha256": "",
    }


def check_step(path: Path, state: State, n_steps: int, epoch_ends: list[int]) -> None:
    """UserError unless a state is one that a training with these steps can have.

    epoch_ends  how many steps are made at the end of each epoch
    """
    epochs_done = sum(end <= state["step"] for end in epoch_ends)
    possible = 0 <= state["step"] <= n_steps and state["n_steps"] == n_steps
    if not possible or state["epoch"] != epochs_done:
        raise UserError(
            f"{path}: is at step {state['step']} of {state['n_steps']} after epoch "
            f"{state['epoch']}; expected a step of this run, which has {n_steps} steps, with the "
            f"end of an epoch at {', '.join(map(str, epoch_ends[:12]))}"
        )
