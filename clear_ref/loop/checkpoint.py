"""Training state on disk: one safetensors file and state.json, which names it."""

from pathlib import Path
from typing import TypedDict, cast

import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json, write_json
from clear_ref.model.weights import fill, read_tensors
from clear_ref.model.write_weights import write_tensors

STATE = "state.json"
EXPECTED = {"stage": str, "step": int, "epoch": int, "tensors": str}


class State(TypedDict):
    """state.json: the stage, its steps and epochs that are done, and the file of its tensors."""

    stage: str
    step: int
    n_steps: int
    epoch: int
    tensors: str


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
    }
    write_json(directory / STATE, state)
    for older in directory.glob("state-*.safetensors"):
        if older.name != name:
            older.unlink()


def read_state(directory: PathName) -> State | None:
    """state.json, or None if there is none; UserError if it is not that of a checkpoint."""
    path = Path(directory) / STATE
    if not path.exists():
        return None
    state = read_json(path)
    complete = all(type(state.get(key)) is kind for key, kind in EXPECTED.items())
    if not complete or Path(state["tensors"]).name != state["tensors"]:
        raise UserError(
            f"{path}: is not the state of a checkpoint; expected stage, step, epoch and the plain "
            "name of its tensors: start a new run"
        )
    return cast(State, state)


def restore(directory: PathName, tensors: dict[str, torch.Tensor]) -> None:
    """Copy the checkpoint's tensors into these; UserError if they are not the same set."""
    state = read_state(directory)
    if state is None:
        raise UserError(
            f"{Path(directory) / STATE}: no such file; there is no checkpoint to resume from"
        )
    path = Path(directory) / state["tensors"]
    fill(tensors, read_tensors(path), path)
