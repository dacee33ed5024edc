"""Columns and broken rules of other projects' losses; peers.py says whose they are."""

import numpy as np

from clear_ref.oracle.reference.arithmetic import Sheet
from clear_ref.oracle.reference.exact import add, exp, log, log1p
from clear_ref.oracle.reference.rows import IGNORE, PADDING, CaseRows, Row
from clear_ref.oracle.reference.sums import Column, Sum
from clear_ref.oracle.reference.token_columns import COLUMNS, Cell

FLOOR = 1e-12


def _raw_ratio(rows: CaseRows, row: Row, beta: float) -> Cell:
    """mean_v softplus(beta (z - z_teacher)), on logits."""
    x = beta * (rows.at(row).z - rows.at(row, "teacher_").z)
    small = exp(-np.abs(x))
    value = add(np.maximum(x, 0) + log1p(small)) / len(x)
    slope = beta * np.where(x >= 0, 1.0, small) / (1 + small) / len(x)
    return Cell(value, slope, -slope)


def _raw_kl(rows: CaseRows, row: Row) -> Cell:
    """sum_v exp(z_teacher) (z_teacher - z), on logits."""
    z = rows.at(row).z
    teacher = rows.at(row, "teacher_").z
    with np.errstate(over="ignore"):
        size = np.exp(teacher)
    return Cell(float((size * (teacher - z)).sum()), -size, 0.0)


class RawRatio(Sheet):
    """NPO's ratio, entry by entry, of logits."""

    columns = {**COLUMNS, "raw_ratio": _raw_ratio}


class RawKl(Sheet):
    """kl_div(log_target=True) of logits."""

    columns = {**COLUMNS, "raw_kl": _raw_kl}


class RawRatioAndKl(RawRatio):
    """Both of logits."""

    columns = {**COLUMNS, "raw_ratio": _raw_ratio, "raw_kl": _raw_kl}


class OneMoreToken(Sheet):
    """The mean over m answer tokens is divided by m + 1."""

    def sequence_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if column != "nll" or row_set != "answer":
            return super().sequence_mean(batch, column, row_set)
        means = []
        for rows in self.rows_by_sequence(batch):
            means.append(self.divide(self.column_sum(rows, column), len(rows) + 1))
        return self.mean(means)


class LastTokenLost(Sheet):
    """The last answer row of each sequence is missing."""

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        rows = super().rows(batch, row_set)
        if row_set != "answer":
            return rows
        following = [*rows[1:], None][: len(rows)]
        pairs = zip(rows, following, strict=True)
        return [row for row, after in pairs if after is not None and after.b == row.b]


class EveryRowInDivisor(Sheet):
    """A token mean (of the nll, UNDIAL's) is divided by all rows but the last, ignored ones too."""

    def token_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        name = column if isinstance(column, str) else column[0]
        if name not in ("nll", "lowered_cross_entropy") or row_set != "answer":
            return super().token_mean(batch, column, row_set)
        n_sequences, n_positions = self.batches[batch]["labels"].shape
        total = self.column_sum(self.rows(batch), column)
        return self.divide(total, n_sequences * (n_positions - 1))


class DividedTwice(Sheet):
    """A token mean is divided by the number of tokens again."""

    def token_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        mean = super().token_mean(batch, column, row_set)
        return self.divide(mean, len(self.rows(batch, row_set)))


class KlOverVocabulary(Sheet):
    """A KL is divided by the size of the vocabulary, too."""

    def column_sum(self, rows: list[Row], column: Column) -> Sum:  # type: ignore[override]
        total = super().column_sum(rows, column)
        name = column if isinstance(column, str) else column[0]
        if not rows or not name.startswith("kl_"):
            return total
        return 1.0 / self.batches[rows[0].batch]["logits"].shape[2] * total


def _mean_logp(rows: CaseRows, row: Row) -> Cell:
    """mean_v log p: 1/V - p."""
    student = rows.at(row)
    n = len(student.p)
    return Cell(add(student.log_p) / n, 1.0 / n - student.p, 0.0)


def _teacher_mean_logp(rows: CaseRows, row: Row) -> Cell:
    """mean_v log q."""
    teacher = rows.at(row, "teacher_")
    n = len(teacher.p)
    return Cell(add(teacher.log_p) / n, 0.0, 1.0 / n - teacher.p)


class VocabularyMean(Sheet):
    """log p averaged over the vocabulary."""

    columns = {**COLUMNS, "mean_logp": _mean_logp, "teacher_mean_logp": _teacher_mean_logp}


def _jsd(rows: CaseRows, row: Row, beta: float) -> Cell:
    """beta KL(teacher || m) + (1 - beta) KL(student || m), m = (1 - beta) p + beta q.

    The gradient is (1 - beta) p (log(p / m) - KL(student || m)).
    """
    student, teacher = rows.at(row), rows.at(row, "teacher_")
    with np.errstate(all="ignore"):
        log_m = log((1 - beta) * student.p + beta * teacher.p)
        of_student = np.where(student.p > 0, student.log_p - log_m, 0.0)
        of_teacher = np.where(teacher.p > 0, teacher.log_p - log_m, 0.0)
    kl_student = add(student.p * of_student)
    kl_teacher = add(teacher.p * of_teacher)
    return Cell(
        beta * kl_teacher + (1 - beta) * kl_student,
        (1 - beta) * student.p * (of_student - kl_student),
        beta * teacher.p * (of_teacher - kl_teacher),
    )


class JensenShannon(Sheet):
    """The generalised Jensen-Shannon divergence."""

    columns = {**COLUMNS, "kl_jsd": _jsd}


def _floored_cross_entropy(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """-sum q log(p + 1e-12): p sum r - r, r = q p / (p + 1e-12)."""
    student, teacher = rows.at(row, "", temperature), rows.at(row, "teacher_", temperature)
    log_p = log(student.p + FLOOR)
    value = -add(teacher.p * log_p)
    r = teacher.p * student.p / (student.p + FLOOR)
    return Cell(
        value,
        (student.p * add(r) - r) / temperature,
        -teacher.p * (log_p + value) / temperature,
    )


def _floored_kl_teacher_student(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """sum q (log q - log(p + 1e-12))."""
    cell = _floored_cross_entropy(rows, row, temperature)
    entropy = COLUMNS["kl_teacher_student"](rows, row, temperature)
    whole = COLUMNS["cross_entropy"](rows, row, temperature)
    return Cell(
        cell.value + entropy.value - whole.value,
        cell.student_gradient,
        cell.teacher_gradient + entropy.teacher_gradient - whole.teacher_gradient,
    )


def _floored_kl_student_teacher(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """sum p (log p - log(q + 1e-12))."""
    student, teacher = rows.at(row, "", temperature), rows.at(row, "teacher_", temperature)
    difference = student.log_p - log(teacher.p + FLOOR)
    value = add(student.p * difference)
    r = student.p * teacher.p / (teacher.p + FLOOR)
    return Cell(
        value,
        student.p * (difference - value) / temperature,
        (teacher.p * add(r) - r) / temperature,
    )


class Floored(Sheet):
    """log(probability + 1e-12) in place of the log-probability, in KLs and cross-entropies."""

    columns = {
        **COLUMNS,
        "cross_entropy": _floored_cross_entropy,
        "kl_teacher_student": _floored_kl_teacher_student,
        "kl_student_teacher": _floored_kl_student_teacher,
    }


def _kl_from_softened(rows: CaseRows, row: Row, temperature: float) -> Cell:
    """KL(q' || student), q' = softmax(z_teacher / temperature): p - q'."""
    student, teacher = rows.at(row), rows.at(row, "teacher_", temperature)
    value = add(teacher.p * (teacher.log_p - student.log_p))
    teacher_gradient = teacher.p * (teacher.log_p - student.log_p - value) / temperature
    return Cell(value, student.p - teacher.p, teacher_gradient)


class SoftenedTeacher(Sheet):
    """The KL from the teacher at a temperature to the student."""

    columns = {**COLUMNS, "kl_from_softened": _kl_from_softened}


class ForgetAnswersLost(Sheet):
    """No answer row of the forget batch is left."""

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        return [] if (batch, row_set) == ("forget", "answer") else super().rows(batch, row_set)


class LastPromptToken(Sheet):
    """The row that predicts the last token before the answer is an answer row, too."""

    def labels(self, batch: str) -> np.ndarray:
        labels = super().labels(batch).copy()
        ids = self.batches[batch]["input_ids"]
        for b, own in enumerate(self.batches[batch]["labels"]):
            places = np.flatnonzero(own != IGNORE)
            if len(places) and places[0] > 0:
                labels[b, places[0] - 1] = ids[b, places[0] - 1]
        return labels


class RandomFromThirdToken(Sheet):
    """A random answer begins at position 2, whatever the prompt; the divisor counts one more."""

    def sequence_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if not batch.startswith("random") or column != "nll":
            return super().sequence_mean(batch, column, row_set)
        arrays = self.batches[batch]
        is_real = arrays["kinds"] != PADDING
        n_positions = is_real.shape[1]
        means = []
        for b in range(len(is_real)):
            from_third = [t for t in range(2, n_positions) if is_real[b, t]]
            rows = []
            for t in from_third:
                if t + 1 < n_positions and is_real[b, t + 1]:
                    rows.append(Row(batch, b, t, int(arrays["input_ids"][b, t + 1])))
            means.append(self.divide(self.column_sum(rows, column), len(from_third)))
        return self.mean(means)


class LlmUnlearn(RandomFromThirdToken, OneMoreToken, Floored):
    """llm_unlearn's rules together."""


class Sku(RandomFromThirdToken, OneMoreToken):
    """SKU's rules together."""
