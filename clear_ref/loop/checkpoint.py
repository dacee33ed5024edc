"""Training state on disk: one safetensors file and the JSON that names it, replaced together."""

from pathlib import Path

import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json, write_json
from clear_ref.model.weights import fill, read_tensors, write_tensors

STATE = "state.json"


def save(directory, progress: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors, then the JSON that points at them; what the JSON pointed at before goes last."""
    directory = Path(directory)
    name = f"state-{progress['stage']}-{progress['step']:06d}.safetensors"
    write_tensors(directory / name, tensors)
    write_json(directory / STATE, {**progress, "tensors": name})
    for old in directory.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def progress(directory) -> dict | None:
    """What the checkpoint says of how far it is, or None if there is none; UserError where it does not say it."""
    path = Path(directory) / STATE
    if not path.exists():
        return None
    state = read_json(path)
    kinds = {"stage": str, "step": int, "tensors": str}
    if (
        any(type(state.get(key)) is not kind for key, kind in kinds.items())
        or Path(state["tensors"]).name != state["tensors"]
    ):
        raise UserError(
            f"{path}: is no checkpoint's state; expected stage, step and the plain name of its tensors: start a "
            "new run"
        )
    return state


def restore(directory, tensors: dict[str, torch.Tensor]) -> None:
    """Copy the checkpoint's tensors into these; UserError if they are not the same set."""
    state = progress(directory)
    if state is None:
        raise UserError(
            f"{Path(directory) / STATE}: no such file; there is no checkpoint to resume from"
        )
    path = Path(directory) / state["tensors"]
    fill(tensors, read_tensors(path), path)
