"""Checks of the tensors that the token terms get: shape, dtype, layout, device, labels, memory."""

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from clear_ref.common.errors import LabelError, ShapeError
from clear_ref.data.batches import IGNORE

from . import native
from .formulas import N_STATS, accumulation_dtype
from .implementation import NATIVE_DTYPES, choose_implementation

DTYPES = (*NATIVE_DTYPES, torch.float64)
LARGEST_VOCABULARY = 2**24  # fp32 has every integer up to it


def check_tensors(student: Tensor, labels: Tensor, teacher: Tensor | None) -> None:
    """ShapeError unless types, shapes, dtypes, layouts and devices agree. Reads no value."""
    tensors = {"student_logits": student, "labels": labels}
    if teacher is not None:
        tensors["teacher_logits"] = teacher
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ShapeError(f"{name} is of type {type(tensor).__name__}; expected a torch.Tensor")
    _check_shapes(student, labels, teacher)
    for name, tensor in tensors.items():
        if name != "labels" and tensor.dtype not in DTYPES:
            raise ShapeError(
                f"{name} has dtype {tensor.dtype}; expected bfloat16, float16, float32 or float64"
            )
        if tensor.layout != torch.strided:
            raise ShapeError(
                f"{name} has layout {tensor.layout}; "
                "expected torch.strided: convert with .to_dense()"
            )
        if tensor.device != student.device:
            raise ShapeError(
                f"{name} is on {tensor.device}; "
                f"expected {student.device} as student_logits: move it"
            )


def _check_shapes(student: Tensor, labels: Tensor, teacher: Tensor | None) -> None:
    if student.ndim != 2 or student.shape[1] == 0:
        raise ShapeError(
            f"student_logits has shape {list(student.shape)}; "
            "expected [n, V], V > 0: flatten the rows"
        )
    if labels.ndim != 1 or labels.shape[0] != student.shape[0]:
        raise ShapeError(
            f"labels has shape {list(labels.shape)}; "
            f"expected [{student.shape[0]}], one per row of logits"
        )
    if labels.dtype != torch.int64:
        raise ShapeError(
            f"labels has dtype {labels.dtype}; expected torch.int64: convert with .long()"
        )
    if teacher is not None and (teacher.ndim != 2 or tuple(teacher.shape) != tuple(student.shape)):
        raise ShapeError(
            f"teacher_logits has shape {list(teacher.shape)}; "
            f"expected {list(student.shape)} as student_logits"
        )


def check_vocabulary(vocabulary: int) -> None:
    """ShapeError if an id may be too large for predictions, which are computed in fp32."""
    if vocabulary > LARGEST_VOCABULARY:
        raise ShapeError(
            f"student_logits has {vocabulary} columns; expected at most {LARGEST_VOCABULARY} where "
            "predictions are asked for"
        )


def check_transforms(**tensors: Tensor | None) -> None:
    """ShapeError for a tensor inside a transform, or made where no gradient can be.

    Of torch.func's transforms (grad, vmap, jvp, jacrev, ...) and of forward-mode derivatives the
    operators know nothing, and the second would be lost in silence.
    """
    needs_gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors.values()
    )
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if (
            is_functorch_wrapped_tensor(tensor)
            or forward_ad.unpack_dual(tensor).tangent is not None
        ):
            raise ShapeError(
                f"{name} is inside torch.func (grad, vmap, jvp) or a forward-mode derivative; "
                "expected a plain tensor: token_terms is differentiable with backward() and "
                "torch.autograd.grad, and takes many sequences as rows [n, V]"
            )
        if needs_gradient and tensor.is_inference():
            raise ShapeError(
                f"{name} was made under torch.inference_mode, and a gradient is asked for; "
                f"expected a tensor made under torch.no_grad, or {name}.clone()"
            )


def check_labels(labels: Tensor, vocabulary: int) -> None:
    """LabelError naming the first row whose label is neither in [0, vocabulary) nor IGNORE.

    On a GPU this waits until the GPU has finished its work.
    """
    if labels.device.type == "cpu" and native.built():
        labels = labels.resolve_neg().contiguous()
        row = native.kernel().first_bad_label(labels.data_ptr(), len(labels), vocabulary, IGNORE)
    else:
        wrong = ((labels != IGNORE) & ((labels < 0) | (labels >= vocabulary))).nonzero()
        row = int(wrong[0]) if len(wrong) else -1
    if row >= 0:
        raise LabelError(
            f"labels[{row}] is {int(labels[row])}; "
            f"expected an id in [0, {vocabulary}), or {IGNORE} to ignore the row"
        )


def check_operands(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    native_kernel: bool,
    **tables: Tensor,
) -> None:
    """What the torch operators check beyond check_tensors, for callers of the operators.

    Student and teacher have one dtype; each table is [N_STATS, n] in the accumulation dtype; the
    native kernel is built and supports device and dtype where it is asked for.
    """
    check_tensors(student, labels, teacher)
    if teacher is not None and teacher.dtype != student.dtype:
        raise ShapeError(
            f"teacher_logits has dtype {teacher.dtype}; expected {student.dtype} as student_logits"
        )
    shape, dtype = (N_STATS, student.shape[0]), accumulation_dtype(student)
    for name, table in tables.items():
        if (
            tuple(table.shape) != shape
            or table.dtype != dtype
            or table.layout != torch.strided
            or table.device != student.device
        ):
            raise ShapeError(
                f"{name} is {list(table.shape)} of {table.dtype}, {table.layout}, "
                f"on {table.device}; expected {list(shape)} of {dtype}, {torch.strided}, "
                f"on {student.device}"
            )
    if native_kernel:
        choose_implementation("native", student.device, student.dtype)


def check_memory(**tensors: Tensor | None) -> None:
    """ShapeError for a tensor whose storage is smaller than its shape says.

    A tensor is in this state after storage.resize_(0), for example.
    """
    for name, tensor in tensors.items():
        if tensor is None or not tensor.numel():
            continue
        last = tensor.storage_offset() + sum(
            (size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
        )
        needed = (last + 1) * tensor.element_size()
        available = tensor.untyped_storage().nbytes()
        if needed > available:
            raise ShapeError(
                f"{name} needs {needed} bytes, but its storage holds {available}; "
                "expected a tensor with its data in memory"
            )
