"""Per-token terms of a student (and a teacher) on rows of logits: the waist through which every logit method passes.

One row of logits z [V] gives  p = softmax(z),  nll = -log p[label],  entropy = -sum p log p,  and with a teacher q:
kl_teacher_student = KL(q || p) = sum q (log q - log p),  kl_student_teacher = KL(p || q) = sum p (log p - log q).

Forward and backward are operators with two implementations of one contract, compiled (native.py, csrc/) and plain PyTorch
(formulas.py). Only the inputs and O(n) scalars are kept between the two.
"""

from dataclasses import dataclass

import torch

from clear_ref.data.batches import IGNORE

from . import native
from .formulas import (
    ENTROPY,
    KL_STUDENT_TEACHER,
    KL_TEACHER_STUDENT,
    LSE,
    NLL,
    TEACHER_ENTROPY,
    TEACHER_NLL,
)

__all__ = ["IGNORE", "TokenTerms", "token_terms"]


@dataclass(frozen=True)
class TokenTerms:
    """Columns [n] in nats, fp32 (float64 when the logits are). None: the teacher's without a teacher, entropies not wanted."""

    nll: torch.Tensor
    lse: torch.Tensor
    entropy: torch.Tensor | None = None
    teacher_nll: torch.Tensor | None = None
    teacher_entropy: torch.Tensor | None = None
    kl_teacher_student: torch.Tensor | None = None
    kl_student_teacher: torch.Tensor | None = None


def token_terms(
    student_logits,
    labels,
    teacher_logits=None,
    impl="auto",
    entropy=True,
    skip_ignored=False,
    check_labels=False,
) -> TokenTerms:
    """TokenTerms of each row; differentiable once, in student_logits only.

    student_logits  [n, V]  bf16, fp16 or fp32 (accumulated in fp32) or float64 (stays float64)
    labels          [n]     int64, id in [0, V) or IGNORE
    teacher_logits  [n, V]  may differ from the student's in dtype; gets no gradient
    impl            auto | native (the compiled kernel; not for float64) | torch
    entropy         False: the entropies are not computed, and None
    skip_ignored    True: rows whose label is IGNORE are not read; all their terms and gradients are 0
    check_labels    True: on a GPU too, refuse a label out of range, which waits for the GPU. Without it such a row's nll is
                    NaN there. On the CPU labels are always checked
    contracts  IGNORE: both nll are 0 without gradient, entropy and KL are still computed.
               A row whose upstream gradients are all 0 gets a gradient row of exact zeros, even if it holds NaN.
               -inf in one column of both tensors: contributes nothing. Only the student: kl_teacher_student is +inf.
               Only the teacher: kl_student_teacher is +inf. At the label: nll is +inf. Gradients stay finite except
               that of kl_student_teacher when it is +inf.
               A row that is all -inf, or holds +inf or NaN: its outputs and its gradient row are NaN, no other row's.
               KL rounded below 0 is 0. n = 0: empty columns.
    raises     ShapeError on shape, dtype or device; LabelError naming row and id; RuntimeError under create_graph
    equals     F.cross_entropy(reduction="none"), F.kl_div(log_target=True).sum(-1) of log_softmax
    """
    native.check(student_logits, labels, teacher_logits)
    if not torch.compiler.is_compiling():  # in compiled code the operator checks its memory itself
        native.check_memory(
            student_logits=student_logits, teacher_logits=teacher_logits, labels=labels
        )
    teacher = None if teacher_logits is None else teacher_logits.detach()
    if teacher is not None and teacher.dtype != student_logits.dtype:
        wider = (
            torch.float64
            if torch.float64 in (teacher.dtype, student_logits.dtype)
            else torch.float32
        )
        student_logits, teacher = student_logits.to(wider), teacher.to(wider)
    chosen = native.implementation(impl, student_logits.device, student_logits.dtype)
    if check_labels:
        native.check_labels(labels, student_logits.shape[1])
    table = torch.ops.clear_ref.token_stats(
        student_logits, teacher, labels, skip_ignored, entropy, chosen == "native"
    )
    found = {"nll": table[NLL], "lse": table[LSE]}
    if entropy:
        found["entropy"] = table[ENTROPY]
    if teacher is not None:
        found |= {
            "teacher_nll": table[TEACHER_NLL].detach(),
            "kl_teacher_student": table[KL_TEACHER_STUDENT],
            "kl_student_teacher": table[KL_STUDENT_TEACHER],
        }
        if entropy:
            found["teacher_entropy"] = table[TEACHER_ENTROPY].detach()
    return TokenTerms(**found)
