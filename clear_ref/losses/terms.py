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

from dataclasses import dataclass, replace

import torch

from clear_ref.data.batches import IGNORE

from . import (
    operand_checks,
    operators,  # noqa: F401 (the import registers torch.ops.clear_ref)
)
from .implementation import choose_implementation
from .stats_table import (
    ARG_MAX,
    ENTROPY,
    KL_STUDENT_TEACHER,
    KL_TEACHER_STUDENT,
    LOG_P_SQUARED,
    LSE,
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
    table = torch.ops.clear_ref.token_stats(
        student_logits, teacher, labels, skip_ignored, entropy, chosen == "native", predictions
    )
    terms = columns_of(table, teacher is not None, entropy)
    if terms.arg_max is not None and skip_ignored:
        terms = replace(terms, arg_max=terms.arg_max.masked_fill(labels == IGNORE, -1))
    return terms


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
