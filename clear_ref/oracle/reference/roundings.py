"""How far rounding may move a loss and its gradient, in unit roundoffs u, derived to first order.

u is half the distance between 1 and the next number: 2^-53 in float64, 2^-24 in float32, 2^-8 in
bfloat16. An implementation is right if it is off by no more than these sizes times u:

1. Inputs are exact. log p = z - lse(z) is off by e = |lse| + |log p| + 2: lse and the difference
   are rounded at their own sizes, exp and the sum in lse by one relative u each. Logits that are
   divided by a temperature are rounded before: |z| + max |z| more. p = exp(log p) is off by p e.
2. A column is a function of log p and log q, so it is off by sum |d column / d log p| e + the
   same of log q + the sizes of the products that are summed. Its gradient is treated alike.
3. On its way to the loss, a column is added up and multiplied by a coefficient: two roundings at
   its own size, |column|. Before a softplus it takes part in a difference, times beta: two more.
4. The softplus is rounded at 1 + its value (log(1 + exp x) rounds 1 + exp x). Adding n terms rounds
   n - 1 times at the sum of the terms' sizes.
5. The gradient of a row is the sum of w g over its columns, w = d loss / d column: off by
   |w| (error of g + 2 |g|) + |error of w| |g|. w is constant, except behind a softplus f(x), where
   it changes by f''(x) times the error of x (points 2 and 3), and in w(x) x with a constant factor
   w(x), where it changes by w'(x) times the error of x; the value changes by x w'(x) times it, too.

So errors grow with the logits and with the number of tokens in a sum only where they really do. The
loss and the gradient of one column at a row of ordinary logits are off by some ten u.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rows import IGNORE, CaseRows, Distribution, Row
from .sums import Column, Sum
from .token_columns import lowered_teacher, own_target

Errors = tuple[float, np.ndarray]  # of a column's value, and of its gradient


@dataclass(frozen=True)
class Roundings:
    """What a rounding of each operation may change, in unit roundoffs.

    gradients  {batch: the same shape as d loss / d student tensor}
    added      the same: the size of what is added up, where several columns add to a gradient.
               Autograd adds in the dtype of the inputs
    """

    loss: float
    gradients: dict[str, np.ndarray]
    added: dict[str, np.ndarray]


def of_loss(
    sheet: Any, loss: Sum, additions: float, gradients: Mapping[str, np.ndarray]
) -> Roundings:
    """The Roundings of a loss.

    sheet      the Sheet that made it; additions: the size of what adding its terms rounds
    gradients  d loss / d student tensor of each batch; their shapes are read
    """
    with np.errstate(all="ignore"):
        errors = {key: _errors(sheet, *key) for key in loss.weights}
        sizes = {key: abs(sheet.cell(*key).value) for key in loss.weights}
        moved = dict.fromkeys(loss.weights, 0.0)  # errors of the weights
        total = additions + 2 * loss.rounded
        for bend in loss.bends:
            if not bend.curvature:
                continue
            before = 0.0
            for key, weight in bend.inner.items():
                before += abs(weight) * (errors[key][0] + 4 * sizes[key])
            total += bend.unseen * before
            for key, weight in bend.inner.items():
                moved[key] += abs(bend.curvature * weight) * before
        behind_bend = _keys_of(loss)
        found = {name: np.zeros_like(gradient) for name, gradient in gradients.items()}
        added = {name: np.zeros_like(gradient) for name, gradient in gradients.items()}
        n_columns = Counter((row.batch, row.b, row.t) for row, _ in loss.weights)
        for key, weight in loss.weights.items():
            n_roundings = 4 if key in behind_bend else 2
            total += abs(weight) * (errors[key][0] + n_roundings * sizes[key])
            row, column = key
            slope = np.abs(sheet.student_gradient(row, column))
            found[row.batch][row.b, row.t] += (
                abs(weight) * (errors[key][1] + 2 * slope) + moved[key] * slope
            )
            if n_columns[row.batch, row.b, row.t] > 1:
                added[row.batch][row.b, row.t] += abs(weight) * slope
    return Roundings(float(total), found, added)


def _keys_of(loss: Sum) -> set[tuple[Row, Column]]:
    keys: set[tuple[Row, Column]] = set()
    for bend in loss.bends:
        if bend.curvature:
            keys.update(bend.inner)
    return keys


def _errors(sheet: CaseRows, row: Row, column: Column) -> Errors:
    name, *parameters = (column,) if isinstance(column, str) else column
    if name in ERRORS:
        return ERRORS[name](sheet, row, *parameters)
    return _of_logits(sheet, row, column)


def _of_logits(sheet: Any, row: Row, column: Column) -> Errors:
    """Of a column of another project that is computed from logits without a softmax.

    Each logit is rounded at its size, and the column's terms are a few times at theirs.
    """
    cell = sheet.cell(row, column)
    slope = np.abs(cell.student_gradient)
    logits = np.abs(sheet.at(row).z).max() + np.abs(sheet.at(row, "teacher_").z).max()
    value = 4 * (abs(cell.value) + float((slope * logits).sum()) + 1)
    return value, 4 * slope * (1 + logits)


def _log_errors(one: Distribution, temperature: float) -> np.ndarray:
    """e of point 1, for each vocabulary entry."""
    error = np.abs(one.z - one.log_p) + np.abs(one.log_p) + 2
    if temperature != 1:
        error = error + np.abs(one.z) + np.abs(one.z).max()
    return error


def _both(
    rows: CaseRows, row: Row, temperature: float = 1.0
) -> tuple[Distribution, np.ndarray, Distribution, np.ndarray]:
    """(student, its e, teacher, its e)."""
    student = rows.at(row, "", temperature)
    teacher = rows.at(row, "teacher_", temperature)
    return student, _log_errors(student, temperature), teacher, _log_errors(teacher, temperature)


def _nll(rows: CaseRows, row: Row) -> Errors:
    if row.label == IGNORE:
        return 0.0, np.zeros(1)
    student = rows.at(row)
    error = _log_errors(student, 1.0)
    return float(error[row.label]), student.p * error


def _teacher_nll(rows: CaseRows, row: Row) -> Errors:
    if row.label == IGNORE:
        return 0.0, np.zeros(1)
    return float(_log_errors(rows.at(row, "teacher_"), 1.0)[row.label]), np.zeros(1)


def _entropy(rows: CaseRows, row: Row) -> Errors:
    student = rows.at(row)
    error = _log_errors(student, 1.0)
    log_p = np.abs(student.log_p)
    value = float((student.p * ((log_p + 1) * error + 2 * log_p)).sum())
    h = float((student.p * log_p).sum())
    return value, student.p * ((log_p + h) * (error + 1) + error + value)


def _teacher_entropy(rows: CaseRows, row: Row) -> Errors:
    teacher = rows.at(row, "teacher_")
    log_q = np.abs(teacher.log_p)
    return float((teacher.p * (log_q + 1) * (_log_errors(teacher, 1.0) + 2)).sum()), np.zeros(1)


def _kl_teacher_student(rows: CaseRows, row: Row, temperature: float = 1.0) -> Errors:
    student, e, teacher, e_teacher = _both(rows, row, temperature)
    difference = np.abs(teacher.log_p - student.log_p)
    value = (teacher.p * (e + e_teacher + difference * (e_teacher + 2))).sum()
    gradient = (student.p * (e + 1) + teacher.p * (e_teacher + 1)) / temperature
    return float(value), gradient


def _kl_student_teacher(rows: CaseRows, row: Row, temperature: float = 1.0) -> Errors:
    student, e, teacher, e_teacher = _both(rows, row, temperature)
    difference = student.log_p - teacher.log_p
    value = (student.p * (e + e_teacher + np.abs(difference) * (e + 2))).sum()
    kl = (student.p * difference).sum()
    inner = np.abs(difference - kl) * (e + 2) + e + e_teacher + np.abs(difference) + value
    return float(value), student.p * inner / temperature


def _cross_entropy(rows: CaseRows, row: Row, temperature: float = 1.0) -> Errors:
    student, e, teacher, e_teacher = _both(rows, row, temperature)
    value = (teacher.p * (e + np.abs(student.log_p) * (e_teacher + 2))).sum()
    gradient = (student.p * (e + 1) + teacher.p * (e_teacher + 1)) / temperature
    return float(value), gradient


def _lowered_cross_entropy(rows: CaseRows, row: Row, lowering: float) -> Errors:
    """As _cross_entropy; the teacher's logits are rounded once more where one is lowered."""
    target = lowered_teacher(rows, row, lowering)
    return _with_target(rows.at(row), target, _log_errors(target, 1.0) + np.abs(target.z))


def _own_cross_entropy(rows: CaseRows, row: Row) -> Errors:
    """As _cross_entropy; the label's entry of the target is exactly 0."""
    target = own_target(rows, row)
    finite = np.where(np.isfinite(target.z), _log_errors(target, 1.0), 0.0)
    return _with_target(rows.at(row), target, finite)


def _with_target(student: Distribution, target: Distribution, error: np.ndarray) -> Errors:
    """Of -sum t log p; error: of log t."""
    e = _log_errors(student, 1.0)
    value = (target.p * (e + np.abs(student.log_p) * (error + 2))).sum()
    return float(value), student.p * (e + 1) + target.p * (error + 1)


def _ratio(rows: CaseRows, row: Row, beta: float, floor: float = 0.0) -> Errors:
    student, e, teacher, e_teacher = _both(rows, row)
    a = (student.p / (teacher.p + floor)) ** beta
    share = np.where(np.isfinite(a), a / (1 + a), 1.0)
    log_error = beta * (e + e_teacher + 3)
    n = len(a)
    value = (share * log_error + 1 + 2 * np.log1p(a)).sum() / n
    c = beta * share / n
    c_error = c * ((1 - share) * log_error + 3)
    gradient = c_error + student.p * (c_error.sum() + (e + 2) * c.sum())
    return float(value), gradient


def _log_ratio(rows: CaseRows, row: Row, beta: float) -> Errors:
    student, e, teacher, e_teacher = _both(rows, row)
    x = student.log_p - teacher.log_p
    x_error = e + e_teacher + np.abs(x)
    n = len(x)
    c = beta * np.abs(x) ** (beta - 1) / np.abs(1 + np.sign(x) * np.abs(x) ** beta) / n
    relative = np.abs(beta - 1) / np.maximum(np.abs(x), 1e-30) + n * c
    c_error = c * (3 + relative * x_error)
    value = (c * x_error).sum() + 1
    return float(value), c_error + student.p * (c_error.sum() + (e + 2) * c.sum())


def _distance_to_control(rows: CaseRows, row: Row, c: float) -> Errors:
    control = c * rows.batches[row.batch]["control"][0]
    return _distance(rows.at(row).z - control, 2 * np.abs(control))


def _distance_to_teacher(rows: CaseRows, row: Row) -> Errors:
    return _distance(rows.at(row).z - rows.at(row, "teacher_").z, 0.0)


def _mean_to_controls(rows: CaseRows, row: Row, c: float) -> Errors:
    batch = rows.batches[row.batch]
    controls = c * batch["control"]
    inner = 2 * np.abs(batch["hidden"][row.b]).mean(0) + 2 * np.abs(controls).mean(0)
    parts = [
        _distance(batch["hidden"][row.b].mean(0) - control, inner + 2 * np.abs(control))
        for control in controls
    ]
    values = [value for value, _ in parts]
    return sum(values) / len(parts), np.mean([gradient for _, gradient in parts], axis=0)


def _distance(difference: np.ndarray, error: np.ndarray | float) -> Errors:
    """Of |difference|^2; error: of the difference's parts, before the subtraction."""
    size = np.abs(difference)
    own = error + size
    return float((2 * size * own + 2 * size * size).sum()), 2 * (own + size)


ERRORS: dict[str, Callable[..., Errors]] = {
    "nll": _nll,
    "teacher_nll": _teacher_nll,
    "entropy": _entropy,
    "teacher_entropy": _teacher_entropy,
    "kl_teacher_student": _kl_teacher_student,
    "kl_student_teacher": _kl_student_teacher,
    "cross_entropy": _cross_entropy,
    "lowered_cross_entropy": _lowered_cross_entropy,
    "own_cross_entropy": _own_cross_entropy,
    "ratio": _ratio,
    "log_ratio": _log_ratio,
    "distance_to_control": _distance_to_control,
    "distance_to_teacher": _distance_to_teacher,
    "mean_to_controls": _mean_to_controls,
}
