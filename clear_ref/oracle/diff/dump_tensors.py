"""The tensors of a dump: their names, dtypes and shapes, and the checks of each."""

import re
from pathlib import Path

import torch

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.files import one_line

IDS = ("input_ids", "attention_mask", "labels")
COLUMNS = ("nll", "teacher_nll", "kl_teacher_student", "kl_student_teacher", "entropy")
GRIDS = (
    "embeddings",
    "hidden",
    "layer_hidden",
    "teacher_layer_hidden",
    "logits",
    "teacher_logits",
    "gradient",
)
PICTURES = ("pixel_values", "image_grid_thw", "features")
NAMES = (*IDS, "position_ids", *PICTURES, *GRIDS, *COLUMNS)
BATCH = re.compile(r"forget|retain|idk|random[1-9]\d*")
INTEGER_TENSORS = (*IDS, "position_ids", "image_grid_thw")
FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGER_DTYPES = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
EXPECTED_FLOATS = "floats: float64, float32, bfloat16 or float16"
# {tensor name: (allowed numbers of axes, the shape in words)}
PICTURE_SHAPES = {
    "features": ((2, 3), "[n, D] or [N, P, D]"),
    "image_grid_thw": ((2,), "[N, 3]"),
    "pixel_values": ((2, 4), "[N, 3, H, W] or [patches, width]"),
}

Tensors = dict[str, torch.Tensor]


def check_scalar(path: str | Path, name: str, tensor: torch.Tensor) -> None:
    """ShapeError or UserError unless the tensor is one finite float."""
    if tensor.numel() != 1:
        raise ShapeError(f"{path}: {name} has shape {list(tensor.shape)}; expected one number")
    if tensor.dtype not in FLOAT_DTYPES:
        raise UserError(f"{path}: {name} is {tensor.dtype}; expected {EXPECTED_FLOATS}")
    check_finite(path, name, tensor)


def check_name(path: str | Path, name: str) -> None:
    """UserError unless the name is BATCH/NAME with a known batch and a known tensor name."""
    batch, _, tensor_name = name.rpartition("/")
    if tensor_name not in NAMES or not BATCH.fullmatch(batch):
        raise UserError(
            f"{path}: there is no tensor {one_line(name, 60)!r} in a dump; "
            "expected loss, term/NAME or BATCH/NAME, BATCH forget, retain, idk or random1.., "
            f"NAME one of {', '.join(NAMES)}"
        )


def check_values(path: str | Path, name: str, tensor: torch.Tensor) -> None:
    """UserError unless the tensor has the dtype that its name asks for, and is finite."""
    if name.rpartition("/")[2] in INTEGER_TENSORS:
        if tensor.dtype not in INTEGER_DTYPES:
            raise UserError(f"{path}: {name} is {tensor.dtype}; expected int64")
        return
    if tensor.dtype not in FLOAT_DTYPES:
        raise UserError(f"{path}: {name} is {tensor.dtype}; expected {EXPECTED_FLOATS}")
    check_finite(path, name, tensor)


def check_finite(path: str | Path, name: str, tensor: torch.Tensor) -> None:
    """UserError that names the place of the first NaN or infinity."""
    places = (~tensor.isfinite()).nonzero()
    if len(places):
        first = str(float(tensor[tuple(places[0])])).replace("nan", "NaN")
        raise UserError(
            f"{path}: {name} is {first} at {places[0].tolist()}, and {len(places)} times in all "
            "not finite; expected finite numbers, write them from a step without overflow"
        )


def check_shapes(path: str | Path, batch: str, tensors: Tensors) -> None:
    """ShapeError or UserError unless the shapes of a batch's tensors agree."""
    for name, tensor in tensors.items():
        expected = _expected_by_itself(name, tensor)
        if expected:
            raise _shape_error(path, batch, name, tensor, expected)
    _check_grids(path, batch, tensors)
    _check_pairs(path, batch, tensors)
    mask = tensors.get("attention_mask")
    if mask is not None and not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(
            f"{path}: {batch}/attention_mask holds other numbers than 0 and 1; "
            "expected 1 real, 0 padding"
        )


def _expected_by_itself(name: str, tensor: torch.Tensor) -> str:
    """What a tensor's shape should be, in words; "" if nothing is wrong with it by itself."""
    if not tensor.numel():
        return "at least 1 along every axis"
    if name in PICTURE_SHAPES:
        n_axes, words = PICTURE_SHAPES[name]
        return "" if tensor.ndim in n_axes else words
    return ""


def _check_grids(path: str | Path, batch: str, tensors: Tensors) -> None:
    """The first two axes of every tensor by position are the same B and T."""
    grids = [name for name in (*IDS, *GRIDS) if name in tensors]
    if not grids:
        raise UserError(
            f"{path}: batch {batch} has none of {', '.join((*IDS, *GRIDS))}; "
            "its shape is unknown, add one"
        )
    for name in grids:
        n_axes, words = (2, "[B, T]") if name in IDS else (3, "[B, T, .]")
        if tensors[name].ndim != n_axes:
            raise _shape_error(path, batch, name, tensors[name], words)
    B, T = tensors[grids[0]].shape[:2]
    for name in grids:
        if tensors[name].shape[:2] != (B, T):
            expected = f"{[B, T]} first, as {batch}/{grids[0]}"
            if tensors[name].shape[:2] == (B, T - 1):
                expected += "; one position is cut off, as a loss that shifts does: write it before"
            raise _shape_error(path, batch, name, tensors[name], expected)
    for name in COLUMNS:
        if name in tensors and tensors[name].shape not in ((B, T), (B, T - 1)):
            raise _shape_error(path, batch, name, tensors[name], f"{[B, T]} or {[B, T - 1]}")
    positions = tensors.get("position_ids")
    if positions is not None and not _are_positions(positions, B, T):
        words = f"{[B, T]}, or [3, {B}, {T}] of the axes time, height, width"
        raise _shape_error(path, batch, "position_ids", positions, words)


def _are_positions(tensor: torch.Tensor, B: int, T: int) -> bool:
    """Whether positions have shape [B, T], [3, B, T] or [4, B, T]; B may be 1 for all rows.

    4 axes are transformers' text positions before the three axes.
    """
    n_axes = tensor.shape[0] if tensor.ndim == 3 else 3
    return n_axes in (3, 4) and tensor.shape[-2:] in ((B, T), (1, T))


def _check_pairs(path: str | Path, batch: str, tensors: Tensors) -> None:
    """The teacher's tensors and the gradient have the shape of the student's tensor."""
    for name in ("logits", "layer_hidden"):
        teacher = f"teacher_{name}"
        if name not in tensors or teacher not in tensors:
            continue
        if tensors[name].shape != tensors[teacher].shape:
            expected = f"{list(tensors[name].shape)} as {name}"
            raise _shape_error(path, batch, teacher, tensors[teacher], expected)
    student = tensors.get("logits", tensors.get("layer_hidden"))
    gradient = tensors.get("gradient")
    if gradient is not None and student is not None and gradient.shape != student.shape:
        raise _shape_error(path, batch, "gradient", gradient, f"{list(student.shape)}")


def _shape_error(
    path: str | Path, batch: str, name: str, tensor: torch.Tensor, expected: str
) -> ShapeError:
    return ShapeError(f"{path}: {batch}/{name} has shape {list(tensor.shape)}; expected {expected}")
