"""The dump of one step of a face network: what its loss read, and the loss; as a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.files import one_line
from clear_ref.model.weights import read_header
from clear_ref.oracle.diff.dump_tensors import (
    EXPECTED_FLOATS,
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    check_finite,
    check_scalar,
)

from .reference import Given

BATCHES = ("retain", "forget", "pool")
VECTORS = ("embeddings", "targets")  # [B, D]
NUMBERS = ("labels", "random", "forget")  # [B]
WEIGHTS = ("weight", "base_weight")  # [K, D]
PARAMETER, GRADIENT, LOSS, DONE = "parameter/", "gradient/", "loss", "done"
NAMES_IN_WORDS = (
    f"{LOSS}, {DONE}, {', '.join(WEIGHTS)}, {PARAMETER}NAME, {GRADIENT}BATCH, {GRADIENT}weight or "
    f"BATCH/NAME, BATCH {', '.join(BATCHES)}, NAME {', '.join((*VECTORS, *NUMBERS))}"
)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dump:
    """One step.

    given      its inputs: pool is made of forget and retain, or these of it
    loss       what the other implementation returned
    gradients  {leaf: its gradient} of those in the file
    dtype      float64 if the embeddings are, else float32: how exact the loss can be
    """

    given: Given
    loss: float
    gradients: Arrays
    dtype: str


def read(path: str | Path) -> Dump:
    """The Dump of a safetensors file.

    raises  UserError or ShapeError that names the file and the tensor: no whole safetensors file, a
            name that no dump has, a dtype, a shape or a value that cannot be; no loss
    """
    path = Path(path)
    read_header(path)
    tensors = load_file(path)
    arrays = {name: array_of(path, name, tensors[name]) for name in sorted(tensors)}
    if LOSS not in arrays:
        raise UserError(f"{path}: has no tensor {LOSS!r}; expected the loss of the step")
    batches: dict[str, Arrays] = {}
    for name, array in arrays.items():
        batch, _, own = name.partition("/")
        if batch in BATCHES:
            batches.setdefault(batch, {})[own] = array
    for name, batch_arrays in batches.items():
        check_batch(path, name, batch_arrays)
    check_widths(path, batches)
    missing = np.zeros((0, 0))
    given = Given(
        with_pool(batches),
        arrays.get(WEIGHTS[0], missing),
        arrays.get(WEIGHTS[1], missing),
        tuple(array for name, array in arrays.items() if name.startswith(PARAMETER)),
        done_of(path, arrays),
    )
    check_classes(path, given)
    gradients = {
        name.removeprefix(GRADIENT): array
        for name, array in arrays.items()
        if name.startswith(GRADIENT)
    }
    floats = [tensor.dtype for name, tensor in tensors.items() if name.endswith(VECTORS[0])]
    exact = bool(floats) and all(dtype == torch.float64 for dtype in floats)
    return Dump(given, float(arrays[LOSS]), gradients, "float64" if exact else "float32")


def array_of(path: Path, name: str, tensor: torch.Tensor) -> np.ndarray:
    """The tensor in float64, int64 or bool, as its name asks for."""
    batch, _, own = name.partition("/")
    if name in (LOSS, DONE):
        check_scalar(path, name, tensor)
        return tensor.double().reshape(()).numpy()
    if batch in BATCHES and own in NUMBERS:
        if tensor.dtype not in INTEGER_DTYPES or tensor.ndim != 1:
            raise ShapeError(
                f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; expected int64 [B]"
            )
        return (tensor.bool() if own == "forget" else tensor.long()).numpy()
    is_gradient = name.startswith(GRADIENT) and own in (*BATCHES, WEIGHTS[0])
    is_vector = batch in BATCHES and own in VECTORS or name in WEIGHTS or is_gradient
    if not is_vector and not name.startswith(PARAMETER):
        raise UserError(
            f"{path}: there is no tensor {one_line(repr(name), 60)} in a dump; expected "
            f"{NAMES_IN_WORDS}"
        )
    if tensor.dtype not in FLOAT_DTYPES or (is_vector and tensor.ndim != 2):
        shape = " [B, D] or [K, D]" if is_vector else ""
        raise ShapeError(
            f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; expected {EXPECTED_FLOATS}"
            f"{shape}"
        )
    check_finite(path, name, tensor)
    return tensor.double().numpy()


def done_of(path: Path, arrays: Arrays) -> float | None:
    """The share of the epochs that are over; None if the dump does not say."""
    if DONE not in arrays:
        return None
    done = float(arrays[DONE])
    if not 0 <= done <= 1:
        raise UserError(f"{path}: {DONE} is {done}; expected a share of 0 to 1")
    return done


def check_batch(path: Path, name: str, arrays: Arrays) -> None:
    """UserError unless a batch has embeddings, and the same pictures in every array."""
    if "embeddings" not in arrays or not len(arrays["embeddings"]):
        raise UserError(f"{path}: has no picture in {name}/embeddings; expected [B, D]")
    shape = arrays["embeddings"].shape
    for own, array in arrays.items():
        expected = shape if own in VECTORS else shape[:1]
        if array.shape != expected:
            raise ShapeError(
                f"{path}: {name}/{own} is {list(array.shape)}; expected {list(expected)}, as "
                f"{name}/embeddings"
            )
    if name == "pool" and "forget" not in arrays:
        raise UserError(
            f"{path}: has no pool/forget; expected [B], true for the pictures of the forget set"
        )


def check_widths(path: Path, batches: dict[str, Arrays]) -> None:
    """ShapeError unless every batch has embeddings of the same width."""
    shapes = {name: arrays["embeddings"].shape for name, arrays in batches.items()}
    first = next(iter(shapes), "")
    for name, shape in shapes.items():
        if shape[1] != shapes[first][1]:
            raise ShapeError(
                f"{path}: {name}/embeddings is {list(shape)}; expected [B, {shapes[first][1]}], as "
                f"{first}/embeddings"
            )


def check_classes(path: Path, given: Given) -> None:
    """ShapeError or UserError unless weights and classes fit the batches."""
    for name, batch in given.batches.items():
        width = batch["embeddings"].shape[1]
        for own, weight in zip(WEIGHTS, (given.weight, given.base_weight), strict=True):
            like = given.weight.shape if given.weight.size else weight.shape
            if weight.size and (weight.shape[1] != width or weight.shape != like):
                raise ShapeError(
                    f"{path}: {own} is {list(weight.shape)}; expected [K, {width}], one row for "
                    f"each person, as the embeddings of {name}"
                )
        for own in ("labels", "random"):
            outside = [k for k in batch.get(own, ()) if not 0 <= k < len(given.weight)]
            if given.weight.size and outside:
                raise UserError(
                    f"{path}: {name}/{own} has the class {outside[0]}; expected one of "
                    f"{len(given.weight)}, the rows of weight"
                )


def with_pool(batches: dict[str, Arrays]) -> dict[str, Arrays]:
    """The batches, with pool made of forget and retain, or forget and retain of pool."""
    found = dict(batches)
    if "pool" in found:
        among = found["pool"]["forget"]
        for name, chosen in (("forget", among), ("retain", ~among)):
            if name not in found and chosen.any():
                found[name] = {key: array[chosen] for key, array in found["pool"].items()}
    elif "forget" in found and "retain" in found:
        pair = found["forget"], found["retain"]
        shared = [key for key in pair[0] if key in pair[1] and key != "forget"]
        found["pool"] = {key: np.concatenate([each[key] for each in pair]) for key in shared}
        sizes = [len(each["embeddings"]) for each in pair]
        found["pool"]["forget"] = np.arange(sum(sizes)) < sizes[0]
    return found
