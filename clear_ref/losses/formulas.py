"""Reference implementation of the token terms in plain PyTorch, for any float dtype.

The compiled kernel (csrc/token_terms.h) computes the same table and the same gradient. It is tested
against this file; where the kernel cannot run, this file replaces it.
"""

import torch
from torch import Tensor

from clear_ref.data.batches import IGNORE

from .stats_table import (
    ARG_MAX,
    DROP,
    DROP_LOW,
    ENTROPY,
    GAP,
    GAP_LOW,
    KL_STUDENT_TEACHER,
    KL_TEACHER_STUDENT,
    LOG_P_SQUARED,
    LSE,
    LSE_LOW,
    N_STATS,
    N_STATS_AND_PREDICTIONS,
    NLL,
    TEACHER_AT_TOP,
    TEACHER_ENTROPY,
    TEACHER_LSE,
    TEACHER_LSE_LOW,
    TEACHER_NLL,
    TOP,
)

# Number of logits computed at a time; temporary tensors need a few times this many numbers.
CHUNK_ELEMENTS = 1 << 20


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """fp32, or float64 if one of the tensors is float64."""
    is_float64 = [tensor is not None and tensor.dtype == torch.float64 for tensor in tensors]
    return torch.float64 if any(is_float64) else torch.float32


def stats(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    skip_ignored: bool = False,
    entropy: bool = True,
    predictions: bool = False,
) -> Tensor:
    """[N_STATS, n] table of row scalars, each row named by a constant above.

    fp32, float64 when the logits are. The teacher's rows are 0 without a teacher, entropies are 0
    unless asked for, and with skip_ignored all of an ignored row is 0. For predictions,
    two more rows of the table, the entropies must be asked for.

    Sums are computed relative to both row maxima, x = z - max z and u = t - max t, so that an
    offset common to all logits of a row has no effect:
        KL(q||p) = sum e^u (u - x) / S_t - ln S_t + ln S_s,   entropy = ln S_s - sum e^x x / S_s
    """
    n, vocabulary = student.shape
    n_columns = N_STATS_AND_PREDICTIONS if predictions else N_STATS
    table = torch.zeros(n_columns, n, dtype=accumulation_dtype(student), device=student.device)
    read = (labels != IGNORE).nonzero().squeeze(1) if skip_ignored else None
    for chunk in _chunks(n if read is None else len(read), vocabulary):
        rows = chunk if read is None else read[chunk]
        table[:, rows] = _stats_of_rows(student, teacher, labels, rows, entropy, predictions)
    return table


def _stats_of_rows(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    rows: slice | Tensor,
    entropy: bool,
    predictions: bool,
) -> Tensor:
    """[rows of the table, number of rows]: the table of some rows."""
    dtype = accumulation_dtype(student)
    z = student[rows].to(dtype)
    label = labels[rows]
    n_columns = N_STATS_AND_PREDICTIONS if predictions else N_STATS
    out = torch.zeros(n_columns, len(z), dtype=dtype, device=student.device)
    largest, top_column = z.max(1, keepdim=True)
    x, e, total, log_total = _relative(z, largest, out, LSE, LSE_LOW)
    out[NLL] = _nll(x, log_total, label)
    out[TOP] = largest.squeeze(1)
    if entropy:
        drop = _weighted(e, x) / total
        out[ENTROPY] = log_total - drop
        _store_in_two_parts(out, DROP, DROP_LOW, drop)
    if predictions:
        out[LOG_P_SQUARED] = _weighted(e, (x - log_total.unsqueeze(1)).square_()) / total
        column = top_column.squeeze(1).to(dtype)
        out[ARG_MAX] = column.masked_fill(total.isnan(), torch.nan)
    if teacher is None:
        return out
    t = teacher[rows].to(dtype)
    largest_t = t.amax(1, keepdim=True)
    at_top = t.gather(1, top_column)
    at_top = torch.where(at_top.isfinite(), at_top, 0)
    u, f, total_t, log_total_t = _relative(t, largest_t, out, TEACHER_LSE, TEACHER_LSE_LOW)
    out[TEACHER_NLL] = _nll(u, log_total_t, label)
    out[TEACHER_AT_TOP] = at_top.squeeze(1)
    offset = log_total - log_total_t
    gap = _weighted(e, x - (t - at_top)) / total
    out[KL_TEACHER_STUDENT] = _not_negative(_weighted(f, u - x) / total_t + offset)
    out[KL_STUDENT_TEACHER] = _not_negative(
        gap - (at_top.double() - largest_t.double()).squeeze(1) - offset
    )
    _store_in_two_parts(out, GAP, GAP_LOW, gap)
    if entropy:
        out[TEACHER_ENTROPY] = log_total_t - _weighted(f, u) / total_t
    return out


def dlogits(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    table: Tensor,
    upstream: Tensor,
    skip_ignored: bool = False,
) -> Tensor:
    """[n, V] contiguous gradient in the student's dtype.

    table     what `stats` returned
    upstream  [N_STATS, n]: the gradient of the table's rows
    With upstream c (nll), a (kl_teacher_student), b (kl_student_teacher), h (entropy), s (lse) of
    one row:
        dz = p (c + a + s + b ((z - top) - (t - teacher_at_top) - gap) - h ((z - top) - drop))
             - a q - c onehot(label)
    Rows whose upstream is all 0 are not read and get exact zeros. Rounded once, when it is stored.
    combines  d nll = p - onehot,  d kl_teacher_student = p - q,  d entropy = -p (log p + entropy),
              d lse = p,  d kl_student_teacher = p (log p - log q - kl_student_teacher)
    """
    zero = torch.zeros((), dtype=table.dtype, device=table.device)
    c = torch.where(labels == IGNORE, zero, upstream[NLL])
    a = upstream[KL_TEACHER_STUDENT]
    b = upstream[KL_STUDENT_TEACHER]
    h = upstream[ENTROPY]
    s = upstream[LSE]
    if teacher is None:
        a = torch.zeros_like(a)
        b = torch.zeros_like(b)
    # 0 * inf is NaN: where an upstream is 0 its factor is left out, not multiplied.
    alpha = c + a + s
    # NaN in the rows whose whole gradient is NaN.
    validity = (
        alpha
        + torch.where(b == 0, zero, table[KL_STUDENT_TEACHER])
        + torch.where(h == 0, zero, table[ENTROPY])
    )
    is_read = (c != 0) | (a != 0) | (b != 0) | (h != 0) | (s != 0)
    if skip_ignored:
        is_read &= labels != IGNORE
    read = is_read.nonzero().squeeze(1)
    gradient = torch.zeros(student.shape, dtype=student.dtype, device=student.device)
    for chunk in _chunks(len(read), student.shape[1]):
        rows = read[chunk]
        weights = [column[rows].unsqueeze(1) for column in (c, a, b, h, alpha, validity)]
        dz = _dlogits_of_rows(student, teacher, labels, table, rows, weights)
        gradient[rows] = dz.to(student.dtype)
    return gradient


def _dlogits_of_rows(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    table: Tensor,
    rows: Tensor,
    weights: list[Tensor],
) -> Tensor:
    """[number of rows, V]: the gradient of some rows in the accumulation dtype."""
    c, a, b, h, alpha, validity = weights
    top, at_top, gap, gap_low, drop, drop_low = (
        table[row, rows].unsqueeze(1) for row in range(TOP, N_STATS)
    )
    z = student[rows].to(table.dtype)
    p = _log_p(z, table, rows, LSE, LSE_LOW).exp_()
    x = z - top
    factor = ((x - drop) - drop_low).mul_(-h)
    factor += alpha
    if teacher is not None and bool(((a != 0) | (b != 0)).any()):
        t = teacher[rows].to(table.dtype)
        x -= t - at_top
        x -= gap
        x -= gap_low
        factor += x.mul_(b).masked_fill_(b == 0, 0)
        dz = (factor * p).masked_fill_(p == 0, 0)
        q = _log_p(t, table, rows, TEACHER_LSE, TEACHER_LSE_LOW).exp_()
        dz -= (q * a).masked_fill_(a == 0, 0)
    else:
        dz = factor.mul_(p).masked_fill_(p == 0, 0)
    label = labels[rows].unsqueeze(1)
    known = (label >= 0) & (label < student.shape[1])
    dz.scatter_add_(1, label.masked_fill(~known, 0), -c)
    # In the whole row, not only in the columns where p > 0.
    dz.masked_fill_((validity != validity) | (~known & (c != 0)), torch.nan)
    return dz


def _chunks(n: int, vocabulary: int) -> list[slice]:
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _nll(x: Tensor, log_total: Tensor, label: Tensor) -> Tensor:
    """log_total - x[label] by row; 0 where the label is IGNORE, NaN where it is out of range."""
    known = (label >= 0) & (label < x.shape[1])
    column = label.masked_fill(~known, 0).unsqueeze(1)
    nll = log_total - x.gather(1, column).squeeze(1)
    return nll.masked_fill(~known, torch.nan).masked_fill(label == IGNORE, 0)


def _relative(
    z: Tensor, largest: Tensor, out: Tensor, lse: int, lse_low: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x = z - largest, e^x, sum e^x, log of the sum); stores lse and lse_low in `out`."""
    x = z - largest
    e = x.exp()
    total = _row_sum(e)
    log_total = total.log()
    largest = largest.squeeze(1).double()
    high = (largest + log_total).to(out.dtype)
    out[lse] = high
    # Computed from the maximum, not from lse: at 3e38 a float64 that holds the sum of both has no
    # bits left for the log.
    out[lse_low] = (largest - high) + log_total
    return x, e, total, log_total


def _store_in_two_parts(out: Tensor, high: int, low: int, value: Tensor) -> None:
    out[high] = value
    out[low] = (value - out[high]).nan_to_num(0)  # an infinite value has no low part


def _weighted(weight: Tensor, value: Tensor) -> Tensor:
    """sum_v weight * value, where 0 * anything is 0: no contribution without probability."""
    return _row_sum((weight * value).masked_fill_(weight == 0, 0))


def _row_sum(values: Tensor) -> Tensor:
    """values.sum(1) in float64, with the same bits on any number of threads.

    torch divides the sum of a single row among the threads: a single row is summed as two equal
    rows.
    """
    if len(values) > 1:
        return values.sum(1).double()
    return values.expand(2, -1).sum(1)[:1].double()


def _not_negative(kl: Tensor) -> Tensor:
    return torch.where(kl < 0, torch.zeros_like(kl), kl)  # NaN < 0 is false: NaN stays


def _log_p(z: Tensor, table: Tensor, rows: Tensor, lse: int, lse_low: int) -> Tensor:
    log_p = z.to(table.dtype) - table[lse, rows].unsqueeze(1)
    log_p -= table[lse_low, rows].unsqueeze(1)
    return log_p
