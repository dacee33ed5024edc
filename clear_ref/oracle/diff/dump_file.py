"""A dump: the tensors of someone else's step in one safetensors file, read and checked.

metadata   format "clear_ref.dump/1" MUST be there. method, semantics, options (a JSON object) MUST be there for the loss to be
           compared; records, {batch: [{"question", "answer", "image": path or null}]}, MAY be, for ids and labels to be
tensors    any subset of BATCH/NAME, BATCH one of the method's (forget, retain, idk, random1, ...), and of term/NAME, loss:
  input_ids, attention_mask, labels  int64 [B, T]; labels aligned with input_ids, -100 ignored; attention_mask: none is all real
  pixel_values, image_grid_thw       as the model takes them
  features [n, D] (or [N, P, D])     of the pictures after the projector, in order
  embeddings [B, T, D]               what enters the first decoder layer
  hidden [B, T, D]                   after the last norm; layer_hidden, teacher_layer_hidden: of the layer that rmu reads
  logits, teacher_logits [B, T, V]
  nll, teacher_nll, kl_teacher_student, kl_student_teacher, entropy  [B, T] or [B, T - 1]: of the row of logits at each position
  gradient [B, T, V]                 d loss / d logits (rmu: [B, T, D], d loss / d layer_hidden)
  term/NAME, loss                    scalars
Floats are float64, float32, bfloat16 or float16, and finite; no tensor is empty.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.files import one_line
from clear_ref.methods import table

FORMAT = "clear_ref.dump/1"
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
NAMES = (*IDS, "pixel_values", "image_grid_thw", "features", *GRIDS, *COLUMNS)
BATCH = re.compile(r"forget|retain|idk|random[1-9]\d*")
INTEGERS = (*IDS, "image_grid_thw")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
FLOAT_NAMES = "floats: float64, float32, bfloat16 or float16"
RANKS = {
    "features": ((2, 3), "[n, D] or [N, P, D]"),
    "image_grid_thw": ((2,), "[N, 3]"),
    "pixel_values": ((2, 4), "[N, 3, H, W] or [patches, width]"),
}


@dataclass(frozen=True)
class Dump:
    """batches {name: {tensor name: tensor}}, terms {name: float}, loss; method "" where none is named."""

    path: str
    method: str
    semantics: str
    options: object
    records: dict
    batches: dict[str, dict[str, torch.Tensor]]
    terms: dict[str, torch.Tensor]
    loss: torch.Tensor | None


def read(path, method: str = "", semantics: str = "") -> Dump:
    """The dump in a file; method and semantics, where given, instead of its own.

    raises  UserError for a file that is no dump, an unknown name, a tensor of another kind or not finite; ShapeError
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such file; expected a dump (diff --helper prints what writes one)"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            about, tensors = (
                file.metadata() or {},
                {name: file.get_tensor(name) for name in file.keys()},
            )
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({one_line(error)}); write it again"
        ) from None
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path}: metadata format is {about.get('format')!r}; expected {FORMAT!r} (diff --helper writes it)"
        )
    method, semantics = (
        method or about.get("method", ""),
        semantics or about.get("semantics") or table.DEFAULT_SEMANTICS,
    )
    given, records = (_object(path, about, key) for key in ("options", "records"))
    options = table.make_options(method, given, semantics) if method else None
    known = list(table.needs(method, semantics, options)) if method else None
    batches, terms, loss = {}, {}, None
    for name, tensor in sorted(tensors.items()):
        batch, _, part = name.rpartition("/")
        if name == "loss" or batch == "term":
            if tensor.numel() != 1:
                raise ShapeError(
                    f"{path}: {name} has shape {list(tensor.shape)}; expected one number"
                )
            if tensor.dtype not in FLOATS:
                raise UserError(f"{path}: {name} is {tensor.dtype}; expected {FLOAT_NAMES}")
            _finite(path, name, tensor)
            terms, loss = (terms, tensor) if name == "loss" else (terms | {part: tensor}, loss)
            continue
        if part not in NAMES or not BATCH.fullmatch(batch):
            raise UserError(
                f"{path}: there is no tensor {one_line(name, 60)!r} in a dump; expected loss, term/NAME or "
                f"BATCH/NAME, BATCH forget, retain, idk or random1.., NAME one of {', '.join(NAMES)}"
            )
        if known is not None and batch not in known:
            raise UserError(
                f"{path}: holds batch {batch!r}; {method} ({semantics}) has {', '.join(known)}"
            )
        if tensor.dtype not in (WHOLE if part in INTEGERS else FLOATS):
            raise UserError(
                f"{path}: {name} is {tensor.dtype}; expected {'int64' if part in INTEGERS else FLOAT_NAMES}"
            )
        if part not in INTEGERS:
            _finite(path, name, tensor)
        batches.setdefault(batch, {})[part] = tensor.long() if part in INTEGERS else tensor
    for batch, found in batches.items():
        _shapes(path, batch, found)
    if not batches:
        raise UserError(f"{path}: holds no batch; expected tensors such as forget/logits")
    return Dump(str(path), method, semantics, options, records, batches, terms, loss)


def _object(path, about, key) -> dict:
    try:
        found = json.loads(about.get(key) or "{}")
    except ValueError as error:
        raise UserError(
            f"{path}: metadata {key} is no JSON ({one_line(error)}); expected an object"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: metadata {key} is {one_line(found, 60)}; expected a JSON object")
    return found


def _finite(path, name, tensor) -> None:
    """UserError naming the first NaN or infinity."""
    bad = (~tensor.isfinite()).nonzero()
    if len(bad):
        what = str(float(tensor[tuple(bad[0])])).replace("nan", "NaN")
        raise UserError(
            f"{path}: {name} is {what} at {bad[0].tolist()}, and {len(bad)} times in all not finite; expected "
            "finite numbers, write them from a step without overflow"
        )


def _shapes(path, batch, found) -> None:
    """ShapeError for the first tensor that does not go with the others of its batch."""
    for name, tensor in found.items():
        if not tensor.numel():
            raise ShapeError(
                f"{path}: {batch}/{name} has shape {list(tensor.shape)}; expected at least 1 along every axis"
            )
        if name in RANKS and tensor.ndim not in RANKS[name][0]:
            raise ShapeError(
                f"{path}: {batch}/{name} has shape {list(tensor.shape)}; expected {RANKS[name][1]}"
            )
    grids = [name for name in (*IDS, *GRIDS) if name in found]
    if not grids:
        raise UserError(
            f"{path}: batch {batch} has none of {', '.join((*IDS, *GRIDS))}; its shape is unknown, add one"
        )
    for name in grids:
        if found[name].ndim != (2 if name in IDS else 3):
            raise ShapeError(
                f"{path}: {batch}/{name} has shape {list(found[name].shape)}; "
                f"expected {'[B, T]' if name in IDS else '[B, T, .]'}"
            )
    B, T = found[grids[0]].shape[:2]
    for name in grids:
        if found[name].shape[:2] != (B, T):
            raise ShapeError(
                f"{path}: {batch}/{name} has shape {list(found[name].shape)}; expected {[B, T]} first, as "
                f"{batch}/{grids[0]}"
            )
    for name in COLUMNS:
        if name in found and found[name].shape not in ((B, T), (B, T - 1)):
            raise ShapeError(
                f"{path}: {batch}/{name} has shape {list(found[name].shape)}; expected {[B, T]} or {[B, T - 1]}"
            )
    for name in ("logits", "layer_hidden"):
        other = f"teacher_{name}"
        if name in found and other in found and found[name].shape != found[other].shape:
            raise ShapeError(
                f"{path}: {batch}/{other} has shape {list(found[other].shape)}; "
                f"expected {list(found[name].shape)} as {name}"
            )
    student = found.get("logits", found.get("layer_hidden"))
    if "gradient" in found and student is not None and found["gradient"].shape != student.shape:
        raise ShapeError(
            f"{path}: {batch}/gradient has shape {list(found['gradient'].shape)}; expected {list(student.shape)}"
        )
    mask = found.get("attention_mask")
    if mask is not None and not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(
            f"{path}: {batch}/attention_mask holds other numbers than 0 and 1; expected 1 real, 0 padding"
        )
