"""The only door to the compiled kernel: every check, the operators with their gradients, and which implementation runs.

torch.ops.clear_ref.token_stats    (student, teacher, labels, skip_ignored, entropy, native) -> table [N_STATS, n]
torch.ops.clear_ref.token_dlogits  (student, teacher, labels, table, upstream, skip_ignored, native) -> gradient [n, V]

Both implementations pass through the same operators and checks. They have fake kernels and a registered gradient, so
torch.compile takes them whole. What a table holds: csrc/token_terms.h, and formulas.py for its rows.
"""

import importlib
import importlib.util
import os
import warnings
from functools import cache

import torch

from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.data.batches import IGNORE

from . import formulas
from .formulas import N_STATS

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
IMPLEMENTATIONS = ("auto", "native", "torch")
VARIABLE = "CLEAR_REF_IMPL"  # what "auto" means in this process
INSTRUCTION_SET = None  # index into instruction_sets(); None: the last, which is the fastest


def _load():
    """(the compiled module or None, what is wrong with it or None)."""
    name = f"{__package__}._token_terms"
    if importlib.util.find_spec(name) is None:
        return None, None
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        return None, (
            f"{name} is installed but does not load ({error}); expected a kernel built for this Python and system: "
            "install clear_ref again, or with CLEAR_REF_NATIVE=off"
        )
    if found.N_STATS != N_STATS:
        return (
            None,
            f"{name} has tables of {found.N_STATS} rows; expected {N_STATS}: install clear_ref again",
        )
    return found, None


_MODULE, _BROKEN = _load()  # once, at import: torch.compile cannot trace an import
_CUDA_TARGETS = _MODULE.cuda_targets if _MODULE else ""


def extension():
    """The compiled module, or None where the package was installed without it; UserError where it is there but broken."""
    if _BROKEN:
        raise UserError(_BROKEN)
    return _MODULE


def built() -> bool:
    """Whether the compiled kernel is here."""
    return extension() is not None


def instruction_sets() -> list[str]:
    """The CPU kernels that this processor can run, the fastest last; empty without the compiled kernel."""
    return extension().instruction_sets() if built() else []


def description() -> dict:
    """What is built: {built, instruction_set, cuda: the compute capabilities compiled for}."""
    sets = instruction_sets()
    return {
        "built": built(),
        "instruction_set": sets[-1 if INSTRUCTION_SET is None else INSTRUCTION_SET]
        if sets
        else None,
        "cuda": _CUDA_TARGETS.split(",") if _CUDA_TARGETS else [],
    }


def implementation(impl="auto", device="cpu", dtype=torch.float32) -> str:
    """ "native" or "torch": what `impl` comes down to on a device (a name or torch.device) for logits of a dtype.

    auto   native where it is built and knows device and dtype (float64 is torch's alone); the environment's CLEAR_REF_IMPL
           can say torch, or native: then a missing kernel is an error
    raises UserError for an unknown name, or native where it is not built; ShapeError where it does not know device or dtype
    """
    device, asked = torch.device(device), impl
    if impl == "auto":
        impl = os.environ.get(VARIABLE, "auto")
    if impl not in IMPLEMENTATIONS:
        raise UserError(
            f"{'impl' if asked == impl else VARIABLE} is {impl!r}; expected auto, torch or native"
        )
    if impl == "torch":
        return "torch"
    if not built():
        if impl == "native":
            raise UserError(
                "impl is 'native', but clear_ref was installed without the compiled kernel; use impl='auto' or "
                "'torch', or install it where there is a C++ compiler (from a clone: pip install -e .)"
            )
        return "torch"
    if dtype not in FLOATS[:3]:
        if asked == "native":
            raise ShapeError(
                f"student_logits has dtype {dtype}; expected bfloat16, float16 or float32 for impl='native': "
                "use impl='torch'"
            )
        return "torch"
    if device.type == "cpu" or device.type == "cuda" and _CUDA_TARGETS:
        return "native"
    if asked == "native":
        raise ShapeError(
            f"student_logits is on {device}; expected a device the kernel was built for: use impl='torch'"
        )
    if device.type == "cuda":
        _warn_without_cuda()
    return "torch"


@cache
def _warn_without_cuda():
    warnings.warn(
        "the compiled kernel has no CUDA part: token terms on the GPU run in plain PyTorch; install where nvcc is "
        "found",
        stacklevel=3,
    )


def check(student, labels, teacher) -> None:
    """ShapeError for tensors that do not go together: shape, dtype, layout, device. Reads no value."""
    if student.ndim != 2 or student.shape[1] == 0:
        raise ShapeError(
            f"student_logits has shape {list(student.shape)}; expected [n, V], V > 0: flatten the rows"
        )
    if labels.ndim != 1 or labels.shape[0] != student.shape[0]:
        raise ShapeError(
            f"labels has shape {list(labels.shape)}; expected [{student.shape[0]}], one per row of logits"
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
    for name, tensor in (("student_logits", student), ("teacher_logits", teacher)):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise ShapeError(
                f"{name} has dtype {tensor.dtype}; expected bfloat16, float16, float32 or float64"
            )
    for name, tensor in (
        ("student_logits", student),
        ("labels", labels),
        ("teacher_logits", teacher),
    ):
        if tensor is not None and tensor.layout != torch.strided:
            raise ShapeError(
                f"{name} has layout {tensor.layout}; expected torch.strided: convert with .to_dense()"
            )
        if tensor is not None and tensor.device != student.device:
            raise ShapeError(
                f"{name} is on {tensor.device}; expected {student.device} as student_logits: move it"
            )


def check_labels(labels, vocabulary: int) -> None:
    """LabelError naming the first row whose label is neither in [0, vocabulary) nor IGNORE. Waits for a GPU."""
    if labels.device.type == "cpu" and built():
        labels = labels.resolve_neg().contiguous()
        row = extension().first_bad_label(labels.data_ptr(), len(labels), vocabulary, IGNORE)
    else:
        wrong = ((labels != IGNORE) & ((labels < 0) | (labels >= vocabulary))).nonzero()
        row = int(wrong[0]) if len(wrong) else -1
    if row >= 0:
        raise LabelError(
            f"labels[{row}] is {int(labels[row])}; "
            f"expected an id in [0, {vocabulary}), or {IGNORE} to ignore the row"
        )


def _check_operands(student, labels, teacher, native, **scalars):
    """What the operators add to `check` for whoever calls them by hand: one dtype, whole tables, memory behind every tensor."""
    check(student, labels, teacher)
    if teacher is not None and teacher.dtype != student.dtype:
        raise ShapeError(
            f"teacher_logits has dtype {teacher.dtype}; expected {student.dtype} as student_logits"
        )
    wanted = formulas.accumulation_dtype(student)
    for name, tensor in scalars.items():
        same = (
            tensor.dtype == wanted
            and tensor.layout == torch.strided
            and tensor.device == student.device
        )
        if not same or tuple(tensor.shape) != (N_STATS, student.shape[0]):
            raise ShapeError(
                f"{name} is {list(tensor.shape)} of {tensor.dtype}, {tensor.layout}, on {tensor.device}; expected "
                f"{[N_STATS, student.shape[0]]} of {wanted}, {torch.strided}, on {student.device}"
            )
    if native:
        implementation("native", student.device, student.dtype)


def check_memory(**tensors) -> None:
    """ShapeError for a tensor whose storage is smaller than its shape says, as after storage.resize_(0)."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.numel():
            last = tensor.storage_offset() + sum(
                (size - 1) * step for size, step in zip(tensor.shape, tensor.stride())
            )
            held = tensor.untyped_storage().nbytes()
            if (last + 1) * tensor.element_size() > held:
                raise ShapeError(
                    f"{name} needs {(last + 1) * tensor.element_size()} bytes, but its storage holds {held}; "
                    "expected a tensor with its data in memory"
                )


_LIBRARY = torch.library.Library("clear_ref", "DEF")
_INPUTS = "Tensor student, Tensor? teacher, Tensor labels"
_LIBRARY.define(f"token_stats({_INPUTS}, bool skip_ignored, bool entropy, bool native) -> Tensor")
_LIBRARY.define(
    f"token_dlogits({_INPUTS}, Tensor table, Tensor upstream, bool skip_ignored, bool native) -> Tensor"
)


@torch.library.impl(_LIBRARY, "token_stats", "CompositeExplicitAutograd")
def _stats(student, teacher, labels, skip_ignored, entropy, native):
    _check_operands(student, labels, teacher, native)
    check_memory(student_logits=student, teacher_logits=teacher, labels=labels)
    if student.device.type == "cpu":
        check_labels(labels, student.shape[1])
    if not native:
        return formulas.stats(student, teacher, labels, skip_ignored, entropy)
    table = torch.empty(N_STATS, len(labels), dtype=torch.float32, device=student.device)
    if len(labels):
        problem, kept = _problem(student, teacher, labels, skip_ignored)
        if student.device.type == "cpu":
            extension().cpu_stats(
                problem, entropy, table.data_ptr(), _kernel(), torch.get_num_threads()
            )
        else:
            with torch.cuda.device(student.device):
                index, stream = (
                    student.device.index,
                    torch.cuda.current_stream(student.device).cuda_stream,
                )
                workspace = torch.empty(
                    extension().cuda_workspace(problem, index),
                    dtype=torch.float32,
                    device=student.device,
                )
                extension().cuda_stats(
                    problem, entropy, table.data_ptr(), workspace.data_ptr(), index, stream
                )
        del kept
    return table


@torch.library.impl(_LIBRARY, "token_dlogits", "CompositeExplicitAutograd")
def _dlogits(student, teacher, labels, table, upstream, skip_ignored, native):
    _check_operands(student, labels, teacher, native, table=table, upstream=upstream)
    check_memory(
        student_logits=student,
        teacher_logits=teacher,
        labels=labels,
        table=table,
        upstream=upstream,
    )
    if not native:
        return formulas.dlogits(student, teacher, labels, table, upstream, skip_ignored)
    gradient = torch.empty(student.shape, dtype=student.dtype, device=student.device)
    if len(labels):
        problem, kept = _problem(student, teacher, labels, skip_ignored)
        table, upstream = table.resolve_neg().contiguous(), upstream.resolve_neg().contiguous()
        addresses = table.data_ptr(), upstream.data_ptr(), gradient.data_ptr()
        if student.device.type == "cpu":
            extension().cpu_dlogits(problem, *addresses, _kernel(), torch.get_num_threads())
        else:
            with torch.cuda.device(student.device):
                stream = torch.cuda.current_stream(student.device).cuda_stream
                extension().cuda_dlogits(problem, *addresses, student.device.index, stream)
        del kept
    return gradient


def _kernel() -> int:
    return len(instruction_sets()) - 1 if INSTRUCTION_SET is None else INSTRUCTION_SET


def _problem(student, teacher, labels, skip_ignored):
    """The kernel's view of the tensors, and the tensors it points into, to be kept until it has been called."""
    student, teacher, labels = (
        _rows(student),
        None if teacher is None else _rows(teacher),
        labels.resolve_neg().contiguous(),
    )
    types = {
        torch.float32: extension().FLOAT32,
        torch.bfloat16: extension().BFLOAT16,
        torch.float16: extension().FLOAT16,
    }
    problem = extension().Problem(
        student.data_ptr(),
        student.stride(0),
        0 if teacher is None else teacher.data_ptr(),
        0 if teacher is None else teacher.stride(0),
        labels.data_ptr(),
        *student.shape,
        IGNORE,
        types[student.dtype],
        skip_ignored,
    )
    return problem, (student, teacher, labels)


def _rows(logits):
    logits = logits.resolve_neg()
    return logits if logits.stride(1) == 1 or logits.shape[1] == 1 else logits.contiguous()


@torch.library.register_fake("clear_ref::token_stats", lib=_LIBRARY)
def _(student, teacher, labels, skip_ignored, entropy, native):
    _check_operands(student, labels, teacher, native=False)
    return student.new_empty(
        (N_STATS, student.shape[0]), dtype=formulas.accumulation_dtype(student)
    )


@torch.library.register_fake("clear_ref::token_dlogits", lib=_LIBRARY)
def _(student, teacher, labels, table, upstream, skip_ignored, native):
    _check_operands(student, labels, teacher, native=False, table=table, upstream=upstream)
    return torch.empty(student.shape, dtype=student.dtype, device=student.device)


def _save(ctx, inputs, output):
    student, teacher, labels, ctx.skip_ignored, _, ctx.native = inputs
    ctx.save_for_backward(student, teacher, labels, output)


def _backward(ctx, upstream):
    if torch.is_grad_enabled():  # only under create_graph
        raise RuntimeError(
            "token_terms is differentiable once; found create_graph=True, expected False"
        )
    student, teacher, labels, table = ctx.saved_tensors
    gradient = torch.ops.clear_ref.token_dlogits(
        student, teacher, labels, table, upstream, ctx.skip_ignored, ctx.native
    )
    return gradient, None, None, None, None, None


torch.library.register_autograd(
    "clear_ref::token_stats", _backward, setup_context=_save, lib=_LIBRARY
)
