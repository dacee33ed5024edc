"""Rows of logits for the tests of the token terms, and their columns by another route."""

import torch
import torch.nn.functional as F

from clear_ref.losses.terms import IGNORE

COLUMNS = ("nll", "entropy", "teacher_nll", "kl_teacher_student", "kl_student_teacher")


def rows(n, vocabulary, scale=3.0, seed=0, dtype=torch.float64):
    """Student, teacher, labels (first and last ignored), upstream [n, 4] with a zero row."""
    g = torch.Generator().manual_seed(seed)
    student, teacher = (
        scale * torch.randn(n, vocabulary, generator=g, dtype=torch.float64) for _ in range(2)
    )
    labels = torch.randint(0, vocabulary, (n,), generator=g)
    labels[0] = labels[-1] = IGNORE
    upstream = torch.randn(n, 4, generator=g, dtype=torch.float64)
    upstream[n // 2] = 0
    return student.to(dtype), teacher.to(dtype), labels, upstream


def by_torch(student, labels, teacher):
    """The five columns by log_softmax, cross_entropy and kl_div, in float64."""
    ls, lt = F.log_softmax(student.double(), -1), F.log_softmax(teacher.double(), -1)
    return (
        F.cross_entropy(student.double(), labels, ignore_index=IGNORE, reduction="none"),
        -(ls.exp() * ls).sum(-1),
        F.cross_entropy(teacher.double(), labels, ignore_index=IGNORE, reduction="none"),
        F.kl_div(ls, lt, log_target=True, reduction="none").sum(-1),
        F.kl_div(lt, ls, log_target=True, reduction="none").sum(-1),
    )


def weighted(columns, upstream):
    """Scalar with a known upstream gradient: nll, entropy and both KL weighted row by row."""
    nll, entropy, _, kl_ts, kl_st = columns
    pairs = zip((nll, entropy, kl_ts, kl_st), upstream.T, strict=True)
    return sum((column * weight.to(column.dtype)).sum() for column, weight in pairs)
