"""Per-token loss terms, from which every logit-based method is built.

One row of logits z [V] of the student gives p = softmax(z), and
    nll = -log p[label],  entropy = -sum p log p.
With a row of the teacher's logits, q its softmax:
    kl_teacher_student = KL(q || p) = sum q (log q - log p)
    kl_student_teacher = KL(p || q) = sum p (log p - log q)
Predictions, which have no gradient:
    arg_max = the id of the largest logit,  log_p_squared = sum p (log p)^2

Forward and backward are torch operators (operators.py) with two implementations of one contract:
compiled (csrc/) and plain PyTorch (formulas.py). Between the two passes only the inputs and O(n)
scalars are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from clear_ref.common.errors import UserError
from clear_ref.data.batches import IGNORE

from . import (
    operand_checks,
    operators,  # noqa: F401 (the import registers torch.ops.clear_ref)
)
from .implementation import choose_implementation
from .stats_table import (
    ARG_MAX,
    COLUMNS,
    ENTROPY,
    KL_STUDENT_TEACHER,
    KL_TEACHER_STUDENT,
    LOG_P_SQUARED,
    LSE,
    N_STATS,
    N_STATS_AND_PREDICTIONS,
    NLL,
    TEACHER_ENTROPY,
    TEACHER_NLL,
)

__all__ = ["IGNORE", "TokenTerms", "token_terms"]


@dataclass(frozen=True)
class TokenTerms:
    """Columns [n] in nats, fp32 (float64 when the logits are).

    arg_max is int64: the id of the largest logit, the lowest of equal ones; -1 for a row without a
    distribution (all -inf, +inf or NaN) or that is not read.
    log_p_squared is the second moment of log p under p. The standard deviation of log p, by which
    Min-K%++ divides, is sqrt(log_p_squared - entropy^2).
    None: the teacher's columns without a teacher, the entropies and predictions where they are not
    computed.
    """

    nll: torch.Tensor
    lse: torch.Tensor
    entropy: torch.Tensor | None = None
    teacher_nll: torch.Tensor | None = None
    teacher_entropy: torch.Tensor | None = None
    kl_teacher_student: torch.Tensor | None = None
    kl_student_teacher: torch.Tensor | None = None
    arg_max: torch.Tensor | None = None
    log_p_squared: torch.Tensor | None = None


def token_terms(
    student_logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor | None = None,
    impl: str = "auto",
    entropy: bool = True,
    skip_ignored: bool = False,
    check_labels: bool = False,
    predictions: bool = False,
    planned: Mapping[str, torch.Tensor] | None = None,
) -> TokenTerms:
    """TokenTerms of each row; differentiable once, in student_logits only.

    student_logits  [n, V]  bf16, fp16 or fp32 (accumulated in fp32) or float64 (stays float64)
    labels          [n]     int64, id in [0, V) or IGNORE
    teacher_logits  [n, V]  may differ from the student's in dtype; gets no gradient
    impl            auto (implementation.py) | native (the compiled kernel; not for float64) | torch
    entropy         False: the entropies are not computed, and None
    skip_ignored    True: rows whose label is IGNORE are not read; all their terms and gradients
                    are 0
    check_labels    True: a label out of range is an error on a GPU too; the check waits for the
                    GPU. False: on a GPU such a row's nll is NaN. On the CPU labels are always
                    checked
    predictions     True: arg_max and log_p_squared are computed from the same reading of the
                    logits, and the entropies too. V is at most 2^24
    planned         {column: [n]}, the upstream gradient that is expected of each column; others: 0.
                    The compiled kernel then computes the gradient with the columns, row by row, and
                    it is kept until the backward pass. There any other upstream gradient is right
                    too, and costs a second reading. In fp32 no bit changes; logits of 16 bits:
                    csrc/token_terms.h. None, and in plain PyTorch: the gradient is computed in the
                    backward pass
    contracts  IGNORE: both nll are 0 without gradient, entropy and KL are still computed.
               A row whose upstream gradients are all 0 gets a gradient row of exact zeros, even if
               it holds NaN.
               -inf in one column of both tensors: contributes nothing. Only in the student's:
               kl_teacher_student is +inf. Only in the teacher's: kl_student_teacher is +inf. At the
               label: nll is +inf. Gradients stay finite except that of kl_student_teacher when it
               is +inf.
               A row that is all -inf, or holds +inf or NaN: its outputs and its gradient row are
               NaN, no other row's.
               KL rounded below 0 is 0. n = 0: empty columns.
    raises     ShapeError on shape, dtype or device; LabelError naming row and id; RuntimeError
               under create_graph
    equals     F.cross_entropy(reduction="none"), F.kl_div(log_target=True).sum(-1) of log_softmax
    """
    operand_checks.check_tensors(student_logits, labels, teacher_logits)
    if not torch.compiler.is_compiling():  # in compiled code the operator checks the memory
        operands = {
            "student_logits": student_logits,
            "teacher_logits": teacher_logits,
            "labels": labels,
        }
        operand_checks.check_transforms(**operands)
        operand_checks.check_memory(**operands)
    teacher = None if teacher_logits is None else teacher_logits.detach()
    if teacher is not None and teacher.dtype != student_logits.dtype:
        dtypes = (teacher.dtype, student_logits.dtype)
        wider = torch.float64 if torch.float64 in dtypes else torch.float32
        student_logits = student_logits.to(wider)
        teacher = teacher.to(wider)
    if predictions:
        operand_checks.check_vocabulary(student_logits.shape[1])
    entropy = entropy or predictions
    chosen = choose_implementation(impl, student_logits.device, student_logits.dtype, predictions)
    if check_labels:
        operand_checks.check_labels(labels, student_logits.shape[1])
    if planned and predictions:
        raise UserError(
            "planned and predictions are both given; expected one: predictions have no gradient"
        )
    if planned and chosen == "native" and student_logits.requires_grad and torch.is_grad_enabled():
        upstream = upstream_table(planned, labels, torch.float32)
        table = _OnePass.apply(student_logits, teacher, labels, upstream, skip_ignored, entropy)
        return columns_of(table, teacher is not None, entropy)
    table = torch.ops.clear_ref.token_stats(
        student_logits, teacher, labels, skip_ignored, entropy, chosen == "native", predictions
    )
    terms = columns_of(table, teacher is not None, entropy)
    if terms.arg_max is not None and skip_ignored:
        terms = replace(terms, arg_max=terms.arg_max.masked_fill(labels == IGNORE, -1))
    return terms


def upstream_table(
    planned: Mapping[str, torch.Tensor], labels: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """[N_STATS, n] upstream gradient of the table's rows, given that of the columns by name."""
    upstream = torch.zeros(N_STATS, len(labels), dtype=dtype, device=labels.device)
    for name, values in planned.items():
        upstream[COLUMNS[name]] = values
    upstream[NLL].masked_fill_(labels == IGNORE, 0)
    return upstream


class _OnePass(torch.autograd.Function):
    """The table [N_STATS, n]; the gradient of the student's logits is computed with it.

    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        teacher: torch.Tensor | None,
        labels: torch.Tensor,
        planned: torch.Tensor,
        skip_ignored: bool,
        entropy: bool,
    ) -> torch.Tensor:
        """The table; planned [N_STATS, n]."""
        table, gradient = torch.ops.clear_ref.token_stats_and_dlogits(
            student, teacher, labels, planned, skip_ignored, entropy, True
        )
        ctx.save_for_backward(student, teacher, labels, table, planned, gradient)
        ctx.skip_ignored = skip_ignored
        return table

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient [n, V] of the student's logits."""
        if torch.is_grad_enabled():  # only under create_graph
            raise RuntimeError(
                "token_terms is differentiable once; found create_graph=True, expected False"
            )
        student, teacher, labels, table, planned, gradient = ctx.saved_tensors
        upstream = upstream.clone()
        upstream[NLL].masked_fill_(labels == IGNORE, 0)
        own = list(COLUMNS.values())
        if not torch.equal(upstream[own], planned[own]):
            gradient = torch.ops.clear_ref.token_dlogits(
                student, teacher, labels, table, upstream, ctx.skip_ignored, True
            )
        return gradient, None, None, None, None, None


def columns_of(table: torch.Tensor, teacher: bool, entropy: bool) -> TokenTerms:
    """TokenTerms of a table [N_STATS, n], or with predictions [N_STATS_AND_PREDICTIONS, n].

    teacher, entropy  whether it has their rows
    """
    columns = {"nll": table[NLL], "lse": table[LSE]}
    if entropy:
        columns["entropy"] = table[ENTROPY]
    if teacher:
        columns["teacher_nll"] = table[TEACHER_NLL].detach()
        columns["kl_teacher_student"] = table[KL_TEACHER_STUDENT]
        columns["kl_student_teacher"] = table[KL_STUDENT_TEACHER]
        if entropy:
            columns["teacher_entropy"] = table[TEACHER_ENTROPY].detach()
    if len(table) == N_STATS_AND_PREDICTIONS:
        columns["arg_max"] = table[ARG_MAX].detach().nan_to_num(-1).long()
        columns["log_p_squared"] = table[LOG_P_SQUARED].detach()
    return TokenTerms(**columns)
