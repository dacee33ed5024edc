"""Per-token terms of a student (and a teacher) on rows of logits: the waist through which every logit method passes.

One row of logits z [V] gives  p = softmax(z),  nll = -log p[label],  entropy = -sum p log p,  and with a teacher q:
kl_teacher_student = KL(q || p) = sum q (log q - log p),  kl_student_teacher = KL(p || q) = sum p (log p - log q).

Forward (`stats`) and backward (`dlogits`) are two plain functions with the interface of the fused kernel, so that a
native implementation replaces them one for one. Only the inputs and O(n) scalars are kept between the two.
"""

from dataclasses import dataclass

import torch

from ..data.batches import IGNORE
from ..errors import LabelError, ShapeError, UserError

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
CHUNK_ELEMENTS = 1 << 20  # logits worked on at once: the temporaries stay at a few times this many numbers

# Rows of the table that `stats` returns and whose upstream gradients `dlogits` takes. An lse is kept in two parts,
# lse + lse_low: the low part is what rounding lost, and without it p is wrong by 8e-6 at logits of scale 30.
N_STATS = 9
(LSE, NLL, TEACHER_LSE, TEACHER_NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY,
 LSE_LOW, TEACHER_LSE_LOW) = range(N_STATS)


@dataclass(frozen=True)
class TokenTerms:
    """Columns [n] in nats, fp32 (float64 when the logits are). The teacher's three are None without a teacher."""
    nll: torch.Tensor
    entropy: torch.Tensor
    teacher_nll: torch.Tensor | None = None
    kl_teacher_student: torch.Tensor | None = None
    kl_student_teacher: torch.Tensor | None = None


def token_terms(student_logits, labels, teacher_logits=None, impl="auto") -> TokenTerms:
    """TokenTerms of each row; differentiable once, in student_logits only.

    student_logits  [n, V]  bf16, fp16 or fp32 (accumulated in fp32) or float64 (stays float64)
    labels          [n]     int64, id in [0, V) or IGNORE
    teacher_logits  [n, V]  may differ from the student's in dtype; gets no gradient
    impl            auto | torch (native: not in this build)
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
    implementation(impl)
    _check(student_logits, labels, teacher_logits)
    teacher = None if teacher_logits is None else teacher_logits.detach()
    table = _TokenTable.apply(student_logits, teacher, labels)
    if teacher is None:
        return TokenTerms(nll=table[NLL], entropy=table[ENTROPY])
    return TokenTerms(nll=table[NLL], entropy=table[ENTROPY], teacher_nll=table[TEACHER_NLL].detach(),
                      kl_teacher_student=table[KL_TEACHER_STUDENT], kl_student_teacher=table[KL_STUDENT_TEACHER])


class _TokenTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, labels):
        table = stats(student, teacher, labels)
        ctx.save_for_backward(student, teacher, labels, table)
        return table

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled():  # only under create_graph; once_differentiable lets constant upstreams through
            raise RuntimeError("token_terms is differentiable once; found create_graph=True, expected False")
        student, teacher, labels, table = ctx.saved_tensors
        return dlogits(student, teacher, labels, table, upstream), None, None


def implementation(impl="auto") -> str:
    """The implementation that `impl` comes down to: "torch". UserError for one that is unknown or not in this build."""
    if impl not in ("auto", "torch", "native"):
        raise UserError(f"impl is {impl!r}; expected auto, torch or native")
    if impl == "native":
        raise UserError("impl is 'native', but this build has no native extension; use impl='auto' or 'torch'")
    return "torch"


def accumulation_dtype(*tensors) -> torch.dtype:
    """fp32, or float64 as soon as one tensor is float64."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def stats(student, teacher, labels) -> torch.Tensor:
    """[N_STATS, n] table of row scalars, each row named by a constant above; the teacher's are 0 without a teacher.

    Sums run relative to both row maxima, x = z - max z and u = t - max t, so that an offset common to a row's logits
    never enters: KL(q||p) = sum e^u (u - x) / S_t - ln S_t + ln S_s,  entropy = ln S_s - sum e^x x / S_s.
    """
    n, vocabulary = student.shape
    table = torch.zeros(N_STATS, n, dtype=accumulation_dtype(student, teacher), device=student.device)
    for rows in _chunks(n, vocabulary):
        out = table[:, rows]
        ignored = labels[rows] == IGNORE
        label = labels[rows].masked_fill(ignored, 0).unsqueeze(1)
        x, e, total, log_total = _relative(student[rows].to(table.dtype), out, LSE, LSE_LOW)
        out[NLL] = (log_total - x.gather(1, label).squeeze(1)).masked_fill(ignored, 0)
        out[ENTROPY] = log_total - _weighted(e, x) / total
        if teacher is None:
            continue
        u, f, total_t, log_total_t = _relative(teacher[rows].to(table.dtype), out, TEACHER_LSE, TEACHER_LSE_LOW)
        out[TEACHER_NLL] = (log_total_t - u.gather(1, label).squeeze(1)).masked_fill(ignored, 0)
        gap, shift = u - x, log_total - log_total_t
        out[KL_TEACHER_STUDENT] = _not_negative(_weighted(f, gap) / total_t + shift)
        out[KL_STUDENT_TEACHER] = _not_negative(-_weighted(e, gap) / total - shift)
    return table


def dlogits(student, teacher, labels, table, upstream) -> torch.Tensor:
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
    # 0 * inf is NaN: a factor is dropped, not multiplied away, where its upstream is 0.
    alpha = (c + a + l - b * torch.where(b == 0, zero, table[KL_STUDENT_TEACHER])
             - h * torch.where(h == 0, zero, table[ENTROPY]))
    read = ((c != 0) | (a != 0) | (b != 0) | (h != 0) | (l != 0)).nonzero().squeeze(1)
    gradient = torch.zeros(student.shape, dtype=student.dtype, device=student.device)
    for chunk in _chunks(len(read), student.shape[1]):
        rows = read[chunk]
        c_, a_, b_, h_, alpha_ = (column[rows].unsqueeze(1) for column in (c, a, b, h, alpha))
        log_p = _log_p(student[rows], table, rows, LSE, LSE_LOW)
        p = log_p.exp()
        factor = (b_ - h_) * log_p
        factor += alpha_
        if teacher is not None and bool(((a_ != 0) | (b_ != 0)).any()):
            log_q = _log_p(teacher[rows], table, rows, TEACHER_LSE, TEACHER_LSE_LOW)
            factor -= (b_ * log_q).masked_fill_(b_ == 0, 0)
            dz = (factor * p).masked_fill_(p == 0, 0)
            dz -= (log_q.exp_() * a_).masked_fill_(a_ == 0, 0)
        else:
            dz = factor.mul_(p).masked_fill_(p == 0, 0)
        label = labels[rows].unsqueeze(1)
        dz.scatter_add_(1, label.masked_fill(label == IGNORE, 0), -c_)
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


def _check(student, labels, teacher):
    if student.ndim != 2 or student.shape[1] == 0:
        raise ShapeError(f"student_logits has shape {list(student.shape)}; expected [n, V], V > 0: flatten the rows")
    if labels.shape != student.shape[:1]:
        raise ShapeError(f"labels has shape {list(labels.shape)}; expected [{len(student)}], one per row of logits")
    if labels.dtype != torch.int64:
        raise ShapeError(f"labels has dtype {labels.dtype}; expected torch.int64: convert with .long()")
    if teacher is not None and teacher.shape != student.shape:
        raise ShapeError(f"teacher_logits has shape {list(teacher.shape)}; "
                         f"expected {list(student.shape)} as student_logits")
    for name, tensor in (("student_logits", student), ("teacher_logits", teacher)):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise ShapeError(f"{name} has dtype {tensor.dtype}; expected bfloat16, float16, float32 or float64")
    for name, tensor in (("labels", labels), ("teacher_logits", teacher)):
        if tensor is not None and tensor.device != student.device:
            raise ShapeError(f"{name} is on {tensor.device}; expected {student.device} as student_logits: move it")
    wrong = ((labels != IGNORE) & ((labels < 0) | (labels >= student.shape[1]))).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise LabelError(f"labels[{row}] is {int(labels[row])}; "
                         f"expected an id in [0, {student.shape[1]}), or {IGNORE} to ignore the row")
