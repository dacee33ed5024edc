"""The table of per-token terms and its gradient in plain PyTorch, any float dtype: the formulas as they are read.

The interface is the compiled kernel's (csrc/token_terms.h), which it is tested against and replaces where that cannot run.
"""

import torch

from clear_ref.data.batches import IGNORE

CHUNK_ELEMENTS = (
    1 << 20
)  # logits worked on at once: the temporaries stay at a few times this many numbers

# Rows of the table that `stats` returns and whose upstream gradients `dlogits` takes. An lse is kept in two parts,
# lse + lse_low: the low part is what rounding lost, and without it p is wrong by 8e-6 at logits of scale 30. What the gradients
# of kl_student_teacher and entropy are made of is kept relative to the student's largest column (TOP, and the teacher's logit
# there): GAP = mean of (z - t) - (top - teacher_at_top), DROP = mean of z - top under p, in two parts too. A sure student's
# gradient is proportional to them, and small; as a difference of log-probabilities and KL it would have no digits left.
N_STATS = 16
(
    LSE,
    NLL,
    TEACHER_LSE,
    TEACHER_NLL,
    KL_TEACHER_STUDENT,
    KL_STUDENT_TEACHER,
    ENTROPY,
    TEACHER_ENTROPY,
    LSE_LOW,
    TEACHER_LSE_LOW,
    TOP,
    TEACHER_AT_TOP,
    GAP,
    GAP_LOW,
    DROP,
    DROP_LOW,
) = range(N_STATS)


def accumulation_dtype(*tensors) -> torch.dtype:
    """fp32, or float64 as soon as one tensor is float64."""
    return (
        torch.float64
        if any(t is not None and t.dtype == torch.float64 for t in tensors)
        else torch.float32
    )


def stats(student, teacher, labels, skip_ignored=False, entropy=True) -> torch.Tensor:
    """[N_STATS, n] table of row scalars, each row named by a constant above; fp32, float64 when the logits are.

    The teacher's are 0 without a teacher, entropies unless wanted, and all of an ignored row with skip_ignored.

    Sums run relative to both row maxima, x = z - max z and u = t - max t, so that an offset common to a row's logits
    never enters: KL(q||p) = sum e^u (u - x) / S_t - ln S_t + ln S_s,  entropy = ln S_s - sum e^x x / S_s.
    """
    n, vocabulary = student.shape
    dtype = accumulation_dtype(student)
    table = torch.zeros(N_STATS, n, dtype=dtype, device=student.device)
    read = (labels != IGNORE).nonzero().squeeze(1) if skip_ignored else None
    for chunk in _chunks(n if read is None else len(read), vocabulary):
        rows = chunk if read is None else read[chunk]
        z, label = student[rows].to(dtype), labels[rows]
        out = torch.zeros(N_STATS, len(z), dtype=dtype, device=student.device)
        ignored, known = label == IGNORE, (label >= 0) & (label < vocabulary)
        column = label.masked_fill(~known, 0).unsqueeze(1)

        def nll(x, log_total):
            found = log_total - x.gather(1, column).squeeze(1)
            return found.masked_fill(~known, torch.nan).masked_fill(ignored, 0)

        largest, at = z.max(1, keepdim=True)
        x, e, total, log_total = _relative(z, largest, out, LSE, LSE_LOW)
        out[NLL], out[TOP] = nll(x, log_total), largest.squeeze(1)
        if entropy:
            drop = _weighted(e, x) / total
            out[ENTROPY] = log_total - drop
            _split(out, DROP, DROP_LOW, drop)
        if teacher is not None:
            t = teacher[rows].to(dtype)
            largest_t, there = t.amax(1, keepdim=True), t.gather(1, at)
            there = torch.where(there.isfinite(), there, 0)
            u, f, total_t, log_total_t = _relative(t, largest_t, out, TEACHER_LSE, TEACHER_LSE_LOW)
            out[TEACHER_NLL], out[TEACHER_AT_TOP] = nll(u, log_total_t), there.squeeze(1)
            shift, gap = log_total - log_total_t, _weighted(e, x - (t - there)) / total
            out[KL_TEACHER_STUDENT] = _not_negative(_weighted(f, u - x) / total_t + shift)
            out[KL_STUDENT_TEACHER] = _not_negative(
                gap - (there.double() - largest_t.double()).squeeze(1) - shift
            )
            _split(out, GAP, GAP_LOW, gap)
            if entropy:
                out[TEACHER_ENTROPY] = log_total_t - _weighted(f, u) / total_t
        table[:, rows] = out
    return table


def dlogits(student, teacher, labels, table, upstream, skip_ignored=False) -> torch.Tensor:
    """[n, V] contiguous gradient in the student's dtype, from `stats`' table and the gradient [N_STATS, n] of its rows.

    With upstream c (nll), a (kl_teacher_student), b (kl_student_teacher), h (entropy), l (lse) of one row:
        dz = p (c + a + l + b ((z - top) - (t - teacher_at_top) - gap) - h ((z - top) - drop)) - a q - c onehot(label)
    Rows whose upstream is all 0 are not read and get exact zeros. Rounded once, at the store.
    folds   d nll = p - onehot,  d kl_teacher_student = p - q,  d entropy = -p (log p + entropy),  d lse = p,
            d kl_student_teacher = p (log p - log q - kl_student_teacher)
    """
    zero = torch.zeros((), dtype=table.dtype, device=table.device)
    l, a, b, h = (upstream[row] for row in (LSE, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY))
    c = torch.where(labels == IGNORE, zero, upstream[NLL])
    if teacher is None:
        a, b = torch.zeros_like(a), torch.zeros_like(b)
    # 0 * inf is NaN: a factor is dropped, not multiplied away, where its upstream is 0.
    alpha = c + a + l
    found = (
        alpha
        + torch.where(b == 0, zero, table[KL_STUDENT_TEACHER])
        + torch.where(h == 0, zero, table[ENTROPY])
    )
    read = (c != 0) | (a != 0) | (b != 0) | (h != 0) | (l != 0)
    if skip_ignored:
        read &= labels != IGNORE
    read = read.nonzero().squeeze(1)
    gradient = torch.zeros(student.shape, dtype=student.dtype, device=student.device)
    for chunk in _chunks(len(read), student.shape[1]):
        rows = read[chunk]
        c_, a_, b_, h_, alpha_, found_ = (
            column[rows].unsqueeze(1) for column in (c, a, b, h, alpha, found)
        )
        top, there, gap, gap_low, drop, drop_low = (
            table[row, rows].unsqueeze(1) for row in range(TOP, N_STATS)
        )
        z = student[rows].to(table.dtype)
        p = _log_p(z, table, rows, LSE, LSE_LOW).exp_()
        x = z - top
        factor = ((x - drop) - drop_low).mul_(-h_)
        factor += alpha_
        if bool(((a_ != 0) | (b_ != 0)).any()):
            t = teacher[rows].to(table.dtype)
            x -= t - there
            x -= gap
            x -= gap_low
            factor += (x.mul_(b_)).masked_fill_(b_ == 0, 0)
            dz = (factor * p).masked_fill_(p == 0, 0)
            dz -= (_log_p(t, table, rows, TEACHER_LSE, TEACHER_LSE_LOW).exp_() * a_).masked_fill_(
                a_ == 0, 0
            )
        else:
            dz = factor.mul_(p).masked_fill_(p == 0, 0)
        label = labels[rows].unsqueeze(1)
        known = (label >= 0) & (label < student.shape[1])
        dz.scatter_add_(1, label.masked_fill(~known, 0), -c_)
        dz.masked_fill_(
            (found_ != found_) | (~known & (c_ != 0)), torch.nan
        )  # not only in the columns where p > 0
        gradient[rows] = dz.to(student.dtype)
    return gradient


def _chunks(n, vocabulary):
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _relative(z, largest, out, lse, lse_low):
    """x = z - largest, e^x, sum e^x, log of it; writes the two parts of the log-sum-exp into `out`."""
    x = z - largest
    e = x.exp()
    total = _row_sum(e)
    log_total = total.log()
    largest = largest.squeeze(1).double()
    high = (largest + log_total).to(out.dtype)
    out[lse] = high
    # From the maximum and not from lse: a float64 that holds both has no bits left for the log at 3e38.
    out[lse_low] = (largest - high) + log_total
    return x, e, total, log_total


def _split(out, high, low, value):
    out[high] = value
    out[low] = (value - out[high]).nan_to_num(0)  # an infinite value has none


def _weighted(weight, value):
    """sum_v weight * value with 0 * anything = 0: a column without probability contributes nothing."""
    return _row_sum((weight * value).masked_fill_(weight == 0, 0))


def _row_sum(values):
    """values.sum(1) for float64 work, the same bits on any number of threads: torch cuts a lone row's sum into a part each."""
    return (values.sum(1) if len(values) > 1 else values.expand(2, -1).sum(1)[:1]).double()


def _not_negative(kl):
    return torch.where(kl < 0, torch.zeros_like(kl), kl)  # NaN < 0 is false: NaN stays


def _log_p(z, table, rows, lse, lse_low):
    log_p = z.to(table.dtype) - table[lse, rows].unsqueeze(1)
    log_p -= table[lse_low, rows].unsqueeze(1)
    return log_p
