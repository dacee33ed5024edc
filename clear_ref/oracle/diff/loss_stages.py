"""The stages of a dump from the logits on: token terms, named terms, loss and gradient."""

from dataclasses import dataclass

import numpy as np
import torch

from clear_ref.data.batches import IGNORE
from clear_ref.losses.terms import token_terms
from clear_ref.methods import table
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.inputs import control_vectors
from clear_ref.oracle.reference.rows import KINDS

from .comparison import Comparison
from .dump_file import Dump
from .dump_tensors import COLUMNS, Tensors

Arrays = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class LossReference:
    """What the numpy reference gives on the dump's batches.

    answer  loss, terms and gradients
    arrays  the batches that it was computed from, as the reference takes them
    size    the size of the numbers that are rounded in the loss
    """

    answer: LossResult
    arrays: Arrays
    size: float


def compare_columns(comparison: Comparison, name: str) -> None:
    """Compare the dump's token terms with those of its logits.

    nll       at answer rows
    the rest  at answer rows, and at the other real rows where the dump's number is not 0
    """
    tensors = comparison.dump.batches[name]
    if "logits" not in tensors:
        comparison.skip(name, COLUMNS, "needs logits")
        return
    real = comparison.real_positions(name)
    following = next_labels(tensors, real)
    answer = following != IGNORE
    student = tensors["logits"].double().flatten(0, 1)
    teacher = None
    if "teacher_logits" in tensors:
        teacher = tensors["teacher_logits"].double().flatten(0, 1)
    size = max(1.0, float(student.abs().max()))
    terms = token_terms(student, following.flatten(), teacher)
    for column in COLUMNS:
        if column not in tensors:
            continue
        ours = getattr(terms, column)
        if ours is None:
            comparison.skip(name, (column,), "needs teacher_logits")
            continue
        is_nll = column.endswith("nll")
        if is_nll and "labels" not in tensors:
            comparison.skip(name, (column,), "needs labels")
            continue
        theirs = tensors[column]
        n_rows = theirs.shape[1]
        places = answer[:, :n_rows]
        if not is_nll:
            places = real[:, :n_rows] & (places | (theirs != 0))
        comparison.compare(column, name, theirs, ours.view(real.shape)[:, :n_rows], places, size)


def next_labels(tensors: Tensors, real: torch.Tensor) -> torch.Tensor:
    """[B, T]: the label that each row predicts, or IGNORE."""
    following = torch.full(real.shape, IGNORE)
    if "labels" in tensors:
        following[:, :-1] = tensors["labels"][:, 1:]
    return following


def compare_loss(comparison: Comparison) -> LossReference | None:
    """Compare terms, loss and gradient with the numpy reference on the dump's own batches.

    returns  the reference's answer; None if there was nothing to compare or to compute it from
    """
    dump = comparison.dump
    stages = loss_stages(dump)
    if not stages:
        return None
    missing = missing_for_loss(dump)
    if missing:
        comparison.skipped.append(f"{', '.join(stages)} ({missing})")
        return None
    arrays = reference_arrays(comparison)
    answer = formulas.reference_loss(dump.method, dump.semantics, vars(dump.options), arrays)
    size = answer.scale + largest(arrays) * answer.weight
    for name, term in dump.terms.items():
        if name in answer.terms:
            compare_scalar(comparison, "terms", name, term, answer.terms[name], size)
        else:
            known = ", ".join(answer.terms)
            comparison.skipped.append(f"term {name} ({dump.method} ({dump.semantics}) has {known})")
    if dump.loss is not None:
        compare_scalar(comparison, "loss", "", dump.loss, answer.loss, size)
    for name, tensors in dump.batches.items():
        if "gradient" in tensors:
            ours = torch.from_numpy(answer.gradients[name])
            every_position = torch.ones(ours.shape[:2], dtype=torch.bool)
            comparison.compare(
                "gradient",
                name,
                tensors["gradient"],
                ours,
                every_position,
                gradient_size(arrays, answer),
            )
    return LossReference(answer, arrays, size)


def loss_stages(dump: Dump) -> list[str]:
    """Those of terms, loss and gradient that the dump has."""
    present = {
        "terms": bool(dump.terms),
        "loss": dump.loss is not None,
        "gradient": any("gradient" in tensors for tensors in dump.batches.values()),
    }
    return [stage for stage, is_present in present.items() if is_present]


def compare_scalar(
    comparison: Comparison, stage: str, name: str, theirs: torch.Tensor, ours: float, size: float
) -> None:
    """Compare two numbers."""
    ours_tensor = torch.tensor([ours], dtype=torch.float64)
    one_place = torch.ones(1, dtype=torch.bool)
    comparison.compare(stage, name, theirs.reshape(1), ours_tensor, one_place, size)


def missing_for_loss(dump: Dump) -> str:
    """What is missing to compute the loss, in words; "" if nothing is."""
    if not dump.method:
        return "needs a method: --method, or in the metadata"
    for name, need in table.needs(dump.method, dump.semantics, dump.options).items():
        student = "layer_hidden" if need.hidden else "logits"
        keys = ["labels", student]
        if need.teacher:
            keys.append(f"teacher_{student}")
        for key in keys:
            if key not in dump.batches.get(name, {}):
                return f"needs {name}/{key}"
    return ""


def reference_arrays(comparison: Comparison) -> Arrays:
    """The dump's batches as arrays for oracle/reference, in float64."""
    dump = comparison.dump
    arrays = {}
    for name, need in table.needs(dump.method, dump.semantics, dump.options).items():
        tensors = dump.batches[name]
        real = comparison.real_positions(name)
        arrays[name] = {
            "labels": tensors["labels"].numpy(),
            "attention_mask": real.long().numpy(),
            "kinds": kinds_of(comparison, tensors, real),
        }
        if "input_ids" in tensors:
            arrays[name]["input_ids"] = tensors["input_ids"].numpy()
        key_in_dump = "layer_hidden" if need.hidden else "logits"
        key = "hidden" if need.hidden else "logits"
        for whose in ("", "teacher_"):
            if whose + key_in_dump in tensors:
                arrays[name][whose + key] = tensors[whose + key_in_dump].double().numpy()
    if dump.method == "rmu":
        B, _, D = arrays["forget"]["hidden"].shape
        arrays["forget"]["control"] = control_vectors(dump.semantics, vars(dump.options), B, D)
    return arrays


def kinds_of(comparison: Comparison, tensors: Tensors, real: torch.Tensor) -> np.ndarray:
    """[B, T]: the number in KINDS of each position's kind; labels mark the answer."""
    kinds = np.full(real.shape, KINDS.index("prompt"))
    image = None if comparison.vlm is None else comparison.vlm.model.image_token_id
    if image is not None and "input_ids" in tensors:
        kinds[(tensors["input_ids"] == image).numpy()] = KINDS.index("image")
    kinds[(tensors["labels"] != IGNORE).numpy()] = KINDS.index("answer")
    kinds[~real.numpy()] = KINDS.index("padding")
    return kinds


def largest(arrays: Arrays) -> float:
    """The largest absolute logit or hidden state."""
    return max(
        float(np.abs(array).max())
        for batch in arrays.values()
        for key, array in batch.items()
        if key.endswith(("logits", "hidden"))
    )


def gradient_size(arrays: Arrays, answer: LossResult) -> float:
    """The size of the numbers that are rounded in a gradient.

    These are its entries, and the weight of each row times the largest logit.
    """
    largest_entry = max(float(np.abs(array).max()) for array in answer.gradients.values())
    return largest_entry + largest(arrays) * answer.weight
