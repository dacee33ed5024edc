"""Training state on disk: one safetensors file and state.json, which names it.

state.json has the SHA-256 of its own values together with the tensors' file, so that neither can be
changed alone: a resumed run would count other steps, with another learning rate, and nobody would
see it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json, sha256, write_json
from clear_ref.model.weights import fill, read_tensors
from clear_ref.model.write_weights import write_tensors

STATE = "state.json"
EXPECTED = {
    "stage": str,
    "step": int,
    "n_steps": int,
    "epoch": int,
    "tensors": str,
    "sha256": str,
}


class State(TypedDict):
    """state.json: the stage, its steps and epochs that are done, and the file of its tensors."""

    stage: str
    step: int
    n_steps: int
    epoch: int
    tensors: str
    sha256: str


def save(
    directory: PathName,
    *,
    stage: str,
    step: int,
    n_steps: int,
    epoch: int,
    tensors: dict[str, torch.Tensor],
) -> None:
    """Write the tensors, then state.json, which names their file; then remove older files.

    So state.json names a complete file at every moment.
    """
    directory = Path(directory)
    name = f"state-{stage}-{step:06d}.safetensors"
    write_tensors(directory / name, tensors)
    state: State = {
        "stage": stage,
        "step": step,
        "n_steps": n_steps,
        "epoch": epoch,
        "tensors": name,
        "sha256": "",
    }
    state["sha256"] = digest(state, directory / name)
    write_json(directory / STATE, state)
    for older in directory.glob("state-*.safetensors"):
        if older.name != name:
            older.unlink()


def digest(state: Mapping[str, Any], file: Path) -> str:
    """SHA-256 of the values of a state (but for sha256) and of its tensors' file."""
    values = "".join(f"{key}={state[key]}\n" for key in EXPECTED if key != "sha256")
    return hashlib.sha256(f"{values}{sha256(file)}\n".encode()).hexdigest()


def read_state(directory: PathName) -> State | None:
    """state.json, or None if there is none; UserError if it is not that of a checkpoint."""
    path = Path(directory) / STATE
    if not path.exists():
        return None
    state = read_json(path)
    complete = all(type(state.get(key)) is kind for key, kind in EXPECTED.items())
    if not complete or not is_plain_name(state["tensors"]):
        raise UserError(
            f"{path}: is not the state of a checkpoint; expected {', '.join(EXPECTED)}, with the "
            "plain name of its tensors: start a new run"
        )
    if not 0 <= state["step"] <= state["n_steps"] or state["epoch"] < 0:
        raise UserError(
            f"{path}: is at step {state['step']} of {state['n_steps']}, epoch {state['epoch']}; "
            "expected a step of the training: start a new run"
        )
    return cast(State, state)


def is_plain_name(name: str) -> bool:
    """True for a name that a file of a directory can have, on one line."""
    return Path(name).name == name and name.isprintable() and len(name) < 256


def step_of(directory: PathName, stage: str) -> int:
    """The step from which a resumed stage continues; 0 without a checkpoint of this stage."""
    state = read_state(directory)
    return state["step"] if state is not None and state["stage"] == stage else 0


def restore(directory: PathName, tensors: dict[str, torch.Tensor]) -> None:
    """Copy the checkpoint's tensors into these.

    raises  UserError if they are not the same set, or not those that state.json was written with;
            then nothing has been copied
    """
    state = read_state(directory)
    if state is None:
        raise UserError(
            f"{Path(directory) / STATE}: no such file; there is no checkpoint to resume from"
        )
    path = Path(directory) / state["tensors"]
    stored = read_tensors(path)
    if digest(state, path) != state["sha256"]:
        raise UserError(
            f"{path}: state.json was written with other values or another file (SHA-256); one of "
            "the two was changed: start a new run"
        )
    fill(tensors, stored, path)


def check_plan(directory: PathName, state: State, n_steps: int, epoch_ends: list[int]) -> None:
    """UserError unless a state is one that a training with these steps can have.

    epoch_ends  how many steps are made at the end of each epoch
    """
    epochs_done = sum(end <= state["step"] for end in epoch_ends)
    if state["n_steps"] != n_steps or state["epoch"] != epochs_done:
        raise UserError(
            f"{Path(directory) / STATE}: is at step {state['step']} of {state['n_steps']} after "
            f"epoch {state['epoch']}; expected a step of this run, which has {n_steps} steps, with "
            f"the end of an epoch at {', '.join(map(str, epoch_ends[:12]))}: start a new run"
        )


def read_into(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy a file's tensors into these, in all processes; the first one reads the file."""
    if distributed.is_first():
        fill(tensors, read_tensors(path), path)
    distributed.copy_from_first(tensors.values())
