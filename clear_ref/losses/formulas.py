"""The table of per-token terms and its gradient in plain PyTorch, any float dtype: the formulas as they are read.

The interface is the compiled kernel's (csrc/token_terms.h), which it is tested against and replaces where that cannot run.
"""

import torch

from ..data.batches import IGNORE

CHUNK_ELEMENTS = 1 << 20  # logits worked on at once: the temporaries stay at a few times this many numbers

# Rows of the table that `stats` returns and whose upstream gradients `dlogits` takes. An lse is kept in two parts,
# lse + lse_low: the low part is what rounding lost, and without it p is wrong by 8e-6 at logits of scale 30. The last two
# rows are the same for numbers whose sums have such digits in the compiled kernel alone: 0 here.
N_STATS = 12
(LSE, NLL, TEACHER_LSE, TEACHER_NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY, TEACHER_ENTROPY,
 LSE_LOW, TEACHER_LSE_LOW, KL_STUDENT_TEACHER_LOW, ENTROPY_LOW) = range(N_STATS)


def accumulation_dtype(*tensors) -> torch.dtype:
    """fp32, or float64 as soon as one tensor is float64."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


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

        x, e, total, log_total = _relative(z, out, LSE, LSE_LOW)
        out[NLL] = nll(x, log_total)
        if entropy:
            out[ENTROPY] = log_total - _weighted(e, x) / total
        if teacher is not None:
            u, f, total_t, log_total_t = _relative(teacher[rows].to(dtype), out, TEACHER_LSE, TEACHER_LSE_LOW)
            out[TEACHER_NLL] = nll(u, log_total_t)
            gap, shift = u - x, log_total - log_total_t
            out[KL_TEACHER_STUDENT] = _not_negative(_weighted(f, gap) / total_t + shift)
            out[KL_STUDENT_TEACHER] = _not_negative(-_weighted(e, gap) / total - shift)
            if entropy:
                out[TEACHER_ENTROPY] = log_total_t - _weighted(f, u) / total_t
        table[:, rows] = out
    return table


def dlogits(student, teacher, labels, table, upstream, skip_ignored=False) -> torch.Tensor:
    """[n, V] contiguous gradient in the student's dtype, from `stats`' table and the gradient [N_STATS, n] of its rows.

    With upstream c (nll), a (kl_teacher_student), b (kl_student_teacher), h (entropy), l (lse) of one row:
        dz = p (alpha + (b - h) log p - b log q) - a q - c onehot(label),
        alpha = c + a + l - b kl_student_teacher - h entropy
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
    alpha = (c + a + l - b * torch.where(b == 0, zero, table[KL_STUDENT_TEACHER])
             - h * torch.where(h == 0, zero, table[ENTROPY]))
    read = (c != 0) | (a != 0) | (b != 0) | (h != 0) | (l != 0)
    if skip_ignored:
        read &= labels != IGNORE
    read = read.nonzero().squeeze(1)
    gradient = torch.zeros(student.shape, dtype=student.dtype, device=student.device)
    for chunk in _chunks(len(read), student.shape[1]):
        rows = read[chunk]
        c_, a_, b_, h_, alpha_ = (column[rows].unsqueeze(1) for column in (c, a, b, h, alpha))
        log_p = _log_p(student[rows], table, rows, LSE, LSE_LOW)
        p = log_p.exp()
        factor = (b_ - h_) * log_p
        factor += alpha_
        if bool(((a_ != 0) | (b_ != 0)).any()):
            log_q = _log_p(teacher[rows], table, rows, TEACHER_LSE, TEACHER_LSE_LOW)
            factor -= (b_ * log_q).masked_fill_(b_ == 0, 0)
            dz = (factor * p).masked_fill_(p == 0, 0)
            dz -= (log_q.exp_() * a_).masked_fill_(a_ == 0, 0)
        else:
            dz = factor.mul_(p).masked_fill_(p == 0, 0)
        label = labels[rows].unsqueeze(1)
        known = (label >= 0) & (label < student.shape[1])
        dz.scatter_add_(1, label.masked_fill(~known, 0), -c_)
        dz.masked_fill_((alpha_ != alpha_) | (~known & (c_ != 0)), torch.nan)  # not only in the columns where p > 0
        gradient[rows] = dz.to(student.dtype)
    return gradient


def _chunks(n, vocabulary):
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _relative(z, out, lse, lse_low):
    """x = z - max, e^x, sum e^x, log of it; writes the two parts of the log-sum-exp (Knuth's two-sum) into `out`."""
    largest = z.amax(1, keepdim=True)
    x = z - largest
    e = x.exp()
    total = _row_sum(e)
    log_total = total.log()
    largest = largest.squeeze(1)
    high = largest + log_total
    back = high - largest
    out[lse], out[lse_low] = high, (largest - (high - back)) + (log_total - back)
    return x, e, total, log_total


def _weighted(weight, value):
    """sum_v weight * value with 0 * anything = 0: a column without probability contributes nothing."""
    return _row_sum((weight * value).masked_fill_(weight == 0, 0))


def _row_sum(values):
    """values.sum(1), the same bits on any number of threads: torch cuts a lone row's sum into a part per thread."""
    return values.sum(1) if len(values) > 1 else values.expand(2, -1).sum(1)[:1]


def _not_negative(kl):
    return torch.where(kl < 0, torch.zeros_like(kl), kl)  # NaN < 0 is false: NaN stays


def _log_p(z, table, rows, lse, lse_low):
    log_p = z.to(table.dtype) - table[lse, rows].unsqueeze(1)
    log_p -= table[lse_low, rows].unsqueeze(1)
    return log_p
