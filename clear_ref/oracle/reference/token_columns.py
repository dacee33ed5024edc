"""One number a row has, with its gradient in closed form: what every loss of the oracle is made of.

Each function takes (sheet, row, parameters...) and returns (value, gradient in the student's row, gradient in the teacher's row),
in nats, float64. p, q: the student's and the teacher's softmax; log_p, log_q their logarithms; e_y: 1 at the label.
"""

from dataclasses import dataclass

import numpy as np

from .exact import add, log, log1p, power

IGNORE = -100


@dataclass(frozen=True)
class Distribution:
    """A row of logits z, the logarithm of its softmax, and the softmax. Of hidden states z alone means something."""

    z: np.ndarray
    log_p: np.ndarray
    p: np.ndarray


def _both(sheet, row, temperature=1.0):
    student, teacher = sheet.at(row, "", temperature), sheet.at(row, "teacher_", temperature)
    return student.log_p, student.p, teacher.log_p, teacher.p


def _one_hot(row, like):
    hot = np.zeros_like(like)
    hot[row.label] = 1.0
    return hot


def nll(sheet, row):
    """-log p[label], 0 without a label: p - e_y."""
    if row.label == IGNORE:
        return 0.0, 0.0, 0.0
    student = sheet.at(row)
    return -student.log_p[row.label], student.p - _one_hot(row, student.p), 0.0


def teacher_nll(sheet, row):
    """-log q[label], 0 without a label."""
    if row.label == IGNORE:
        return 0.0, 0.0, 0.0
    teacher = sheet.at(row, "teacher_")
    return -teacher.log_p[row.label], 0.0, teacher.p - _one_hot(row, teacher.p)


def entropy(sheet, row):
    """-sum p log p: -p (log p + entropy)."""
    student = sheet.at(row)
    h = -add(student.p * student.log_p)
    return h, -student.p * (student.log_p + h), 0.0


def teacher_entropy(sheet, row):
    """-sum q log q."""
    teacher = sheet.at(row, "teacher_")
    h = -add(teacher.p * teacher.log_p)
    return h, 0.0, -teacher.p * (teacher.log_p + h)


def kl_teacher_student(sheet, row, temperature=1.0):
    """sum q (log q - log p), both of logits / temperature: (p - q) / temperature."""
    log_p, p, log_q, q = _both(sheet, row, temperature)
    value = add(q * (log_q - log_p))
    return value, (p - q) / temperature, q * (log_q - log_p - value) / temperature


def kl_student_teacher(sheet, row, temperature=1.0):
    """sum p (log p - log q), both of logits / temperature: p (log p - log q - value) / temperature."""
    log_p, p, log_q, q = _both(sheet, row, temperature)
    value = add(p * (log_p - log_q))
    return value, p * (log_p - log_q - value) / temperature, (q - p) / temperature


def cross_entropy(sheet, row, temperature=1.0):
    """-sum q log p: (p - q) / temperature, the gradient of kl_teacher_student."""
    log_p, p, _, q = _both(sheet, row, temperature)
    value = -add(q * log_p)
    return value, (p - q) / temperature, -q * (log_p + value) / temperature


def ratio(sheet, row, beta, floor=0.0):
    """mean_v log(1 + a_v), a = (p / (q + floor))^beta: c - p sum c, c = beta a / (1 + a) / V."""
    _, p, _, q = _both(sheet, row)
    a = power(p / (q + floor), beta)
    c = beta * a / (1 + a) / len(a)
    d = c * q / (q + floor)
    return add(log1p(a)) / len(a), c - p * add(c), q * add(d) - d


def log_ratio(sheet, row, beta):
    """mean_v log(1 + x_v^beta), x = log p - log q: c - p sum c, c = beta x^(beta - 1) / (1 + x^beta) / V. NaN where x < -1."""
    log_p, p, log_q, q = _both(sheet, row)
    x = log_p - log_q
    with np.errstate(invalid="ignore", divide="ignore"):
        raised = power(x, beta)
        c = beta * power(x, beta - 1) / (1 + raised) / len(x)
    return add(log(1 + raised)) / len(x), c - p * add(c), q * add(c) - c


def distance_to_control(sheet, row, c):
    """|h - c u|^2, u the batch's one control vector: 2 (h - c u)."""
    away = sheet.at(row).z - c * sheet.batches[row.batch]["control"][0]
    return add(away * away), 2 * away, 0.0


def distance_to_teacher(sheet, row):
    """|h - h_teacher|^2: 2 (h - h_teacher)."""
    away = sheet.at(row).z - sheet.at(row, "teacher_").z
    return add(away * away), 2 * away, -2 * away


def mean_to_controls(sheet, row, c):
    """mean_j |m - c v_j|^2, m the mean of all positions of the row's sequence, v_j every control vector: the same number at each
    of its rows, whose mean over them has the gradient 2 (m - c mean_j v_j) / T in each."""
    away = (
        sheet.batches[row.batch]["hidden"][row.b].mean(0) - c * sheet.batches[row.batch]["control"]
    )
    return add(away * away) / len(away), 2 * away.mean(0), 0.0


def to_bf16(x) -> np.ndarray:
    """x rounded to bfloat16 (to nearest, ties to even), as float64."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return (
        ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000))
        .view(np.float32)
        .astype(np.float64)
    )


COLUMNS = {
    function.__name__: function
    for function in (
        nll,
        teacher_nll,
        entropy,
        teacher_entropy,
        kl_teacher_student,
        kl_student_teacher,
        cross_entropy,
        ratio,
        log_ratio,
        distance_to_control,
        distance_to_teacher,
        mean_to_controls,
    )
}
