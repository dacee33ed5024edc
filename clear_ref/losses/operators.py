"""The torch operators of the token terms, for both implementations.

torch.ops.clear_ref.token_stats(student, teacher, labels, skip_ignored, entropy, native,
                                predictions=False)
    -> table [N_STATS, n]; its rows are described in stats_table.py and csrc/token_terms.h. With
       predictions it has two more, no gradient, and entropy must be True
torch.ops.clear_ref.token_dlogits(student, teacher, labels, table, upstream, skip_ignored, native)
    -> gradient [n, V] of the student's logits
torch.ops.clear_ref.token_stats_and_dlogits(student, teacher, labels, upstream, skip_ignored,
                                            entropy, native)
    -> (table, gradient) for an upstream gradient that is known beforehand; no gradient of its own

Both implementations use the same operators and checks. The operators have fake kernels and a
registered gradient, so torch.compile does not break its graph at them.
"""

from typing import Any

import torch
from torch import Tensor

from clear_ref.data.batches import IGNORE

from . import formulas
from .formulas import N_STATS, N_STATS_AND_PREDICTIONS
from .native import HAS_ONE_PASS, instruction_set_index, kernel
from .operand_checks import check_labels, check_memory, check_operands

_LIBRARY = torch.library.Library("clear_ref", "DEF")
_INPUTS = "Tensor student, Tensor? teacher, Tensor labels"
_LIBRARY.define(
    f"token_stats({_INPUTS}, bool skip_ignored, bool entropy, bool native, bool predictions=False)"
    " -> Tensor"
)
_LIBRARY.define(
    f"token_dlogits({_INPUTS}, Tensor table, Tensor upstream, bool skip_ignored, bool native)"
    " -> Tensor"
)
_LIBRARY.define(
    f"token_stats_and_dlogits({_INPUTS}, Tensor upstream, bool skip_ignored, bool entropy,"
    " bool native) -> (Tensor, Tensor)"
)


@torch.library.impl(_LIBRARY, "token_stats", "CompositeExplicitAutograd")
def _stats(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    skip_ignored: bool,
    entropy: bool,
    native: bool,
    predictions: bool = False,
) -> Tensor:
    check_operands(student, labels, teacher, native)
    check_memory(student_logits=student, teacher_logits=teacher, labels=labels)
    if student.device.type == "cpu":
        check_labels(labels, student.shape[1])
    if not native:
        return formulas.stats(student, teacher, labels, skip_ignored, entropy, predictions)
    n_rows = N_STATS_AND_PREDICTIONS if predictions else N_STATS
    table = torch.empty(n_rows, len(labels), dtype=torch.float32, device=student.device)
    if len(labels) == 0:
        return table
    problem, operands = _problem(student, teacher, labels, skip_ignored)
    wanted = _wanted(entropy, predictions)
    _call("stats", problem, student.device, (wanted, table.data_ptr()), workspace=True)
    del operands  # not earlier: the kernel reads their memory
    return table


@torch.library.impl(_LIBRARY, "token_dlogits", "CompositeExplicitAutograd")
def _dlogits(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    table: Tensor,
    upstream: Tensor,
    skip_ignored: bool,
    native: bool,
) -> Tensor:
    check_operands(student, labels, teacher, native, table=table, upstream=upstream)
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
    if len(labels) == 0:
        return gradient
    problem, operands = _problem(student, teacher, labels, skip_ignored)
    table = table.resolve_neg().contiguous()
    upstream = upstream.resolve_neg().contiguous()
    addresses = (table.data_ptr(), upstream.data_ptr(), gradient.data_ptr())
    _call("dlogits", problem, student.device, addresses)
    del operands  # not earlier: the kernel reads their memory
    return gradient


@torch.library.impl(_LIBRARY, "token_stats_and_dlogits", "CompositeExplicitAutograd")
def _stats_and_dlogits(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    upstream: Tensor,
    skip_ignored: bool,
    entropy: bool,
    native: bool,
) -> tuple[Tensor, Tensor]:
    if not native or not HAS_ONE_PASS:
        table = torch.ops.clear_ref.token_stats(
            student, teacher, labels, skip_ignored, entropy, native
        )
        gradient = torch.ops.clear_ref.token_dlogits(
            student, teacher, labels, table, upstream, skip_ignored, native
        )
        return table, gradient
    check_operands(student, labels, teacher, native, upstream=upstream)
    check_memory(student_logits=student, teacher_logits=teacher, labels=labels, upstream=upstream)
    if student.device.type == "cpu":
        check_labels(labels, student.shape[1])
    table = torch.empty(N_STATS, len(labels), dtype=torch.float32, device=student.device)
    gradient = torch.empty(student.shape, dtype=student.dtype, device=student.device)
    if len(labels) == 0:
        return table, gradient
    problem, operands = _problem(student, teacher, labels, skip_ignored)
    upstream = upstream.resolve_neg().contiguous()
    before = (int(entropy), table.data_ptr())
    after = (upstream.data_ptr(), gradient.data_ptr())
    _call("stats_and_dlogits", problem, student.device, before, after, workspace=True)
    del operands  # not earlier: the kernel reads their memory
    return table, gradient


def _call(
    name: str,
    problem: Any,
    device: torch.device,
    before: tuple[int, ...],
    after: tuple[int, ...] = (),
    workspace: bool = False,
) -> None:
    """Call the compiled module's function of that name for a device.

    before, after  its arguments, in front of and behind the workspace
    workspace      whether it has one on a GPU
    """
    if device.type == "cpu":
        compute = getattr(kernel(), f"cpu_{name}")
        compute(problem, *before, *after, instruction_set_index(), torch.get_num_threads())
        return
    with torch.cuda.device(device):
        if workspace:
            size = kernel().cuda_workspace(problem, device.index)
            memory = torch.empty(size, dtype=torch.float32, device=device)
            before = (*before, memory.data_ptr())
        stream = torch.cuda.current_stream(device).cuda_stream
        getattr(kernel(), f"cuda_{name}")(problem, *before, *after, device.index, stream)


def _problem(
    student: Tensor, teacher: Tensor | None, labels: Tensor, skip_ignored: bool
) -> tuple[Any, tuple[Tensor | None, ...]]:
    """(the compiled module's Problem, the tensors whose memory it points to).

    The tensors must be kept until the kernel has been called.
    """
    student = _contiguous_rows(student)
    teacher = None if teacher is None else _contiguous_rows(teacher)
    labels = labels.resolve_neg().contiguous()
    dtypes = {
        torch.float32: kernel().FLOAT32,
        torch.bfloat16: kernel().BFLOAT16,
        torch.float16: kernel().FLOAT16,
    }
    problem = kernel().Problem(
        student.data_ptr(),
        student.stride(0),
        0 if teacher is None else teacher.data_ptr(),
        0 if teacher is None else teacher.stride(0),
        labels.data_ptr(),
        *student.shape,
        IGNORE,
        dtypes[student.dtype],
        skip_ignored,
    )
    return problem, (student, teacher, labels)


def _wanted(entropy: bool, predictions: bool) -> int:
    """The compiled module's number for the columns that are computed (Wanted in token_terms.h)."""
    return kernel().WITH_PREDICTIONS if predictions else int(entropy)


def _contiguous_rows(logits: Tensor) -> Tensor:
    logits = logits.resolve_neg()
    return logits if logits.stride(1) == 1 or logits.shape[1] == 1 else logits.contiguous()


@torch.library.register_fake("clear_ref::token_stats", lib=_LIBRARY)
def _fake_stats(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    skip_ignored: bool,
    entropy: bool,
    native: bool,
    predictions: bool = False,
) -> Tensor:
    check_operands(student, labels, teacher, native_kernel=False)
    n_rows = N_STATS_AND_PREDICTIONS if predictions else N_STATS
    return student.new_empty((n_rows, student.shape[0]), dtype=formulas.accumulation_dtype(student))


@torch.library.register_fake("clear_ref::token_dlogits", lib=_LIBRARY)
def _fake_dlogits(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    table: Tensor,
    upstream: Tensor,
    skip_ignored: bool,
    native: bool,
) -> Tensor:
    check_operands(student, labels, teacher, native_kernel=False, table=table, upstream=upstream)
    return torch.empty(student.shape, dtype=student.dtype, device=student.device)


@torch.library.register_fake("clear_ref::token_stats_and_dlogits", lib=_LIBRARY)
def _fake_stats_and_dlogits(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    upstream: Tensor,
    skip_ignored: bool,
    entropy: bool,
    native: bool,
) -> tuple[Tensor, Tensor]:
    check_operands(student, labels, teacher, native_kernel=False, upstream=upstream)
    table = torch.empty_like(upstream, memory_format=torch.contiguous_format)
    return table, torch.empty(student.shape, dtype=student.dtype, device=student.device)


# `ctx` is torch's context of the autograd function, a class that torch does not export.
def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    student, teacher, labels, skip_ignored, _, native, _ = inputs
    ctx.skip_ignored = skip_ignored
    ctx.native = native
    ctx.save_for_backward(student, teacher, labels, output)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # only under create_graph
        raise RuntimeError(
            "token_terms is differentiable once; found create_graph=True, expected False"
        )
    student, teacher, labels, table = ctx.saved_tensors
    table, upstream = table[:N_STATS], upstream[:N_STATS]  # without the predictions
    gradient = torch.ops.clear_ref.token_dlogits(
        student, teacher, labels, table, upstream, ctx.skip_ignored, ctx.native
    )
    return gradient, None, None, None, None, None, None


torch.library.register_autograd(
    "clear_ref::token_stats", _backward, setup_context=_save, lib=_LIBRARY
)
