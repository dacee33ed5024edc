"""The columns of the reference: one number for each row, with its gradient in closed form.

Every loss of the reference is made of these columns. Each function takes (rows, row, parameters...)
and returns a Cell, in nats, float64. p, q: the student's and the teacher's softmax; log_p, log_q
their logarithms; e_y: a vector with 1 at the label. A docstring gives the value, then, after the
colon, the gradient in the student's logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .exact import add, log, log1p, power
from .rows import IGNORE, CaseRows, Distribution, Row


class Cell(NamedTuple):
    """The value of one column at one row, and its gradients; 0.0 means a gradient of zeros."""

    value: float
    student_gradient: np.ndarray | float
    teacher_gradient: np.ndarray | float


def _both(
    rows: CaseRows, row: Row, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """log_p, p, log_q, q."""
    student = rows.at(row, "", temperature)
    teacher = rows.at(row, "teacher_", temperature)
    return student.log_p, student.p, teacher.log_p, teacher.p


def _one_hot(row: Row, like: np.ndarray) -> np.ndarray:
    hot = np.zeros_like(like)
    hot[row.label] = 1.0
    return hot


def nll(rows: CaseRows, row: Row) -> Cell:
    """-log p[label], 0 without a label: p - e_y."""
    if row.label == IGNORE:
        return Cell(0.0, 0.0, 0.0)
    student = rows.at(row)
    return Cell(-student.log_p[row.label], student.p - _one_hot(row, student.p), 0.0)


def teacher_nll(rows: CaseRows, row: Row) -> Cell:
    """-log q[label], 0 without a label."""
    if row.label == IGNORE:
        return Cell(0.0, 0.0, 0.0)
    teacher = rows.at(row, "teacher_")
    return Cell(-teacher.log_p[row.label], 0.0, teacher.p - _one_hot(row, teacher.p))


def entropy(rows: CaseRows, row: Row) -> Cell:
    """-sum p log p: -p (log p + entropy)."""
    student = rows.at(row)
    h = -add(student.p * student.log_p)
    return Cell(h, -student.p * (student.log_p + h), 0.0)


def teacher_entropy(rows: CaseRows, row: Row) -> Cell:
    """-sum q log q."""
    teacher = rows.at(row, "teacher_")
    h = -add(teacher.p * teacher.log_p)
    return Cell(h, 0.0, -teacher.p * (teacher.log_p + h))


def kl_teacher_student(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """sum q (log q - log p), both of logits / temperature: (p - q) / temperature."""
    log_p, p, log_q, q = _both(rows, row, temperature)
    value = add(q * (log_q - log_p))
    return Cell(value, (p - q) / temperature, q * (log_q - log_p - value) / temperature)


def kl_student_teacher(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """sum p (log p - log q), of logits / temperature: p (log p - log q - value) / temperature."""
    log_p, p, log_q, q = _both(rows, row, temperature)
    value = add(p * (log_p - log_q))
    return Cell(value, p * (log_p - log_q - value) / temperature, (q - p) / temperature)


def cross_entropy(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """-sum q log p: (p - q) / temperature, the gradient of kl_teacher_student."""
    log_p, p, _, q = _both(rows, row, temperature)
    value = -add(q * log_p)
    return Cell(value, (p - q) / temperature, -q * (log_p + value) / temperature)


def lowered_teacher(rows: CaseRows, row: Row, lowering: float) -> Distribution:
    """The teacher's distribution with the label's logit lowered.

    Without a label entry V + IGNORE is lowered, if there is one: IGNORE used as an index.
    """
    z = rows.at(row, "teacher_").z.copy()
    column = row.label if row.label != IGNORE else len(z) + IGNORE
    if column >= 0:
        z[column] -= lowering
    return rows.distribution(z)


def lowered_cross_entropy(rows: CaseRows, row: Row, lowering: float) -> Cell:
    """-sum t log p, t the teacher with the label's logit lowered: p - t."""
    student = rows.at(row)
    target = lowered_teacher(rows, row, lowering).p
    value = -add(target * student.log_p)
    return Cell(value, student.p - target, -target * (student.log_p + value))


def own_target(rows: CaseRows, row: Row) -> Distribution:
    """The student's distribution without the label, a constant."""
    z = rows.constants.at(row).z.copy()
    z[row.label] = -np.inf
    return rows.distribution(z)


def own_cross_entropy(rows: CaseRows, row: Row) -> Cell:
    """-sum t log p, t the student without the label, a constant: p - t."""
    student = rows.at(row)
    target = own_target(rows, row).p
    return Cell(-add(target * student.log_p), student.p - target, 0.0)


def ratio(rows: CaseRows, row: Row, beta: float, floor: float = 0.0) -> Cell:
    """mean_v log(1 + a_v), a = (p / (q + floor))^beta: c - p sum c, c = beta a / (1 + a) / V."""
    _, p, _, q = _both(rows, row)
    with np.errstate(all="ignore"):  # q may be 0, and a infinite
        a = power(p / (q + floor), beta)
        c = beta * a / (1 + a) / len(a)
        d = c * q / (q + floor)
        return Cell(add(log1p(a)) / len(a), c - p * add(c), q * add(d) - d)


def log_ratio(rows: CaseRows, row: Row, beta: float) -> Cell:
    """mean_v log(1 + x_v^beta), x = log p - log q: c - p sum c.

    c = beta x^(beta - 1) / (1 + x^beta) / V. The value is NaN where x < -1.
    """
    log_p, p, log_q, q = _both(rows, row)
    x = log_p - log_q
    with np.errstate(invalid="ignore", divide="ignore"):
        raised = power(x, beta)
        c = beta * power(x, beta - 1) / (1 + raised) / len(x)
    return Cell(add(log(1 + raised)) / len(x), c - p * add(c), q * add(c) - c)


def distance_to_control(rows: CaseRows, row: Row, c: float) -> Cell:
    """|h - c u|^2, u the batch's one control vector: 2 (h - c u)."""
    difference = rows.at(row).z - c * rows.batches[row.batch]["control"][0]
    return Cell(add(difference * difference), 2 * difference, 0.0)


def distance_to_teacher(rows: CaseRows, row: Row) -> Cell:
    """|h - h_teacher|^2: 2 (h - h_teacher)."""
    difference = rows.at(row).z - rows.at(row, "teacher_").z
    return Cell(add(difference * difference), 2 * difference, -2 * difference)


def mean_to_controls(rows: CaseRows, row: Row, c: float) -> Cell:
    """mean_j |m - c v_j|^2: 2 (m - c mean_j v_j), the same at each row of a sequence.

    m is the mean of all T positions of the row's sequence, v_j are the control vectors. The mean of
    this column over the sequence's T rows has the stated gradient / T in each row.
    """
    batch = rows.batches[row.batch]
    differences = batch["hidden"][row.b].mean(0) - c * batch["control"]
    return Cell(add(differences * differences) / len(differences), 2 * differences.mean(0), 0.0)


def to_bf16(x: ArrayLike) -> np.ndarray:
    """x rounded to bfloat16 (to nearest, ties to even), as float64."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


COLUMNS: dict[str, Callable[..., Cell]] = {
    "nll": nll,
    "teacher_nll": teacher_nll,
    "entropy": entropy,
    "teacher_entropy": teacher_entropy,
    "kl_teacher_student": kl_teacher_student,
    "kl_student_teacher": kl_student_teacher,
    "cross_entropy": cross_entropy,
    "lowered_cross_entropy": lowered_cross_entropy,
    "own_cross_entropy": own_cross_entropy,
    "ratio": ratio,
    "log_ratio": log_ratio,
    "distance_to_control": distance_to_control,
    "distance_to_teacher": distance_to_teacher,
    "mean_to_controls": mean_to_controls,
}
