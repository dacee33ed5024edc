"""Subclasses of Sheet with one rule broken each.

known.py says what each mistake is, where it was seen, and which class computes it.
"""

from collections.abc import Sequence

import numpy as np

from clear_ref.oracle.reference.arithmetic import Sheet
from clear_ref.oracle.reference.exact import add, exp
from clear_ref.oracle.reference.rows import (
    IGNORE,
    IMAGE,
    PADDING,
    PROMPT,
    CaseRows,
    Distribution,
    Row,
)
from clear_ref.oracle.reference.sums import Column, Sum, Weights
from clear_ref.oracle.reference.token_columns import (
    COLUMNS,
    Cell,
    lowered_teacher,
    own_target,
    to_bf16,
)


class MoreRows(Sheet):
    """Rows that predict a token of more kinds are answer rows, with that token as the label."""

    more_kinds: tuple[int, ...] = (PADDING,)

    def labels(self, batch: str) -> np.ndarray:
        arrays = self.batches[batch]
        is_more = np.isin(arrays["kinds"], self.more_kinds)
        return np.where(is_more, arrays["input_ids"], super().labels(batch))

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        attention_is_all = row_set == "attention" and PADDING in self.more_kinds
        return super().rows(batch, "all" if attention_is_all else row_set)


class Padding(MoreRows):
    """Rows that predict padding are counted; real positions include padding."""


class Prompt(MoreRows):
    """Rows that predict the prompt are counted."""

    more_kinds = (PROMPT,)


class Images(MoreRows):
    """Rows that predict an image placeholder are counted."""

    more_kinds = (IMAGE,)


class Unshifted(Sheet):
    """Position t is scored against label t."""

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        labels = self.labels(batch)
        if row_set == "answer":
            places = np.argwhere(labels != IGNORE).tolist()
        else:
            places = [[row.b, row.t] for row in super().rows(batch, row_set)]
        return [Row(batch, b, t, int(labels[b, t])) for b, t in places]


class ShiftedTwice(Sheet):
    """Position t is scored against label t + 2."""

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        labels = self.labels(batch)
        if row_set == "answer":
            places = np.argwhere(labels[:, 2:] != IGNORE).tolist()
        else:
            places = [[row.b, row.t] for row in super().rows(batch, row_set)]
        following = np.full_like(labels, IGNORE)
        following[:, :-2] = labels[:, 2:]
        return [Row(batch, b, t, int(following[b, t])) for b, t in places]


class FirstTokenLost(Sheet):
    """The first answer row of each sequence is missing."""

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        rows = super().rows(batch, row_set)
        if row_set != "answer":
            return rows
        return [row for i, row in enumerate(rows) if i and rows[i - 1].b == row.b]


class IgnoredCounted(Sheet):
    """Every row except the last is an answer row; an ignored label is 0."""

    def labels(self, batch: str) -> np.ndarray:
        return np.maximum(super().labels(batch), 0)


class SwappedKl(Sheet):
    """Each KL is computed in the other direction."""

    columns = {
        **COLUMNS,
        "kl_teacher_student": COLUMNS["kl_student_teacher"],
        "kl_student_teacher": COLUMNS["kl_teacher_student"],
    }


def _cross_entropy_of_teacher(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    """-sum p log q."""
    student = rows.at(row, "", temperature)
    teacher = rows.at(row, "teacher_", temperature)
    value = -add(student.p * teacher.log_p)
    return Cell(
        value,
        -student.p * (teacher.log_p + value) / temperature,
        (teacher.p - student.p) / temperature,
    )


class KlWithoutEntropy(Sheet):
    """Each KL lacks the entropy of its first distribution."""

    columns = {
        **COLUMNS,
        "kl_teacher_student": COLUMNS["cross_entropy"],
        "kl_student_teacher": _cross_entropy_of_teacher,
    }


class Sums(Sheet):
    """Nothing is divided."""

    def divide(self, total: Sum, n: int) -> Sum:
        return total


class BatchMean(Sheet):
    """KLs are divided by the number of sequences."""

    def token_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if not _is_kl(column):
            return super().token_mean(batch, column, row_set)
        kl_sum = self.column_sum(self.rows(batch, row_set), column)
        return self.divide(kl_sum, len(self.batches[batch]["labels"]))

    def sequence_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if not _is_kl(column):
            return super().sequence_mean(batch, column, row_set)
        return self.token_mean(batch, column, row_set)


def _is_kl(column: Column) -> bool:
    name = column if isinstance(column, str) else column[0]
    return name.startswith("kl_")


def _square_of_mean(rows: CaseRows, row: Row, c: float) -> Cell:
    """|m - c u|^2, m the mean over the sequence's real positions."""
    batch = rows.batches[row.batch]
    real = batch["attention_mask"][row.b] == 1
    difference = batch["hidden"][row.b][real].mean(0) - c * batch["control"][0]
    return Cell(add(difference * difference), 2 * difference, 0.0)


class MeanInside(Sheet):
    """The mean comes before the nonlinearity.

    The mean is over sequences; in rmu it is over a sequence's real positions.
    """

    columns = {**COLUMNS, "distance_to_control": _square_of_mean}

    def mean_softplus(self, beta: float, sums: Sequence[Sum]) -> Sum:
        return super().mean_softplus(beta, [self.mean(sums)])


def _raw_nll(rows: CaseRows, row: Row) -> Cell:
    """-z[label]."""
    if row.label == IGNORE:
        return Cell(0.0, 0.0, 0.0)
    z = rows.at(row).z
    one_hot = np.arange(len(z)) == row.label
    return Cell(-z[row.label], -1.0 * one_hot, 0.0)


def _raw_teacher_nll(rows: CaseRows, row: Row) -> Cell:
    """-z_teacher[label]."""
    if row.label == IGNORE:
        return Cell(0.0, 0.0, 0.0)
    return Cell(-rows.at(row, "teacher_").z[row.label], 0.0, 0.0)


def _kl_with_raw_logits(
    rows: CaseRows, row: Row, first: str, second: str, temperature: float
) -> Cell:
    """KL of the first's softmax against the second's logits, used as log-probabilities."""
    one = rows.at(row, first, temperature)
    two = rows.at(row, second, temperature)
    value = add(one.p * (one.log_p - two.z))
    student_is_first = first == ""
    gradient = one.p * (one.log_p - two.z - value) if student_is_first else -one.p
    return Cell(value, gradient / temperature, 0.0)


def _raw_kl_student_teacher(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    return _kl_with_raw_logits(rows, row, "", "teacher_", temperature)


def _raw_kl_teacher_student(rows: CaseRows, row: Row, temperature: float = 1.0) -> Cell:
    return _kl_with_raw_logits(rows, row, "teacher_", "", temperature)


def _raw_lowered_cross_entropy(rows: CaseRows, row: Row, lowering: float) -> Cell:
    target = lowered_teacher(rows, row, lowering).p
    return Cell(-add(target * rows.at(row).z), -target, 0.0)


def _raw_own_cross_entropy(rows: CaseRows, row: Row) -> Cell:
    target = own_target(rows, row).p
    return Cell(-add(target * rows.at(row).z), -target, 0.0)


class RawLogits(Sheet):
    """log p is replaced by z; the softmaxes are right."""

    columns = {
        **COLUMNS,
        "nll": _raw_nll,
        "teacher_nll": _raw_teacher_nll,
        "kl_student_teacher": _raw_kl_student_teacher,
        "kl_teacher_student": _raw_kl_teacher_student,
        "cross_entropy": _raw_kl_teacher_student,
        "lowered_cross_entropy": _raw_lowered_cross_entropy,
        "own_cross_entropy": _raw_own_cross_entropy,
    }


class VocabularyRatio(Sheet):
    """softplus of the log-ratio of each vocabulary entry, at the answer rows."""

    def mean_softplus(self, beta: float, sums: Sequence[Sum]) -> Sum:
        return self.token_mean("forget", ("ratio", beta))


class Attached(Sheet):
    """The teacher's gradient is added to the student's."""

    def student_gradient(self, row: Row, column: Column) -> np.ndarray | float:
        cell = self.cell(row, column)
        return cell.student_gradient + cell.teacher_gradient


class Pairs(Sheet):
    """Every sequence of the student is compared with every sequence of the teacher."""

    def log_ratios(self, batch: str) -> list[Sum]:
        ratios = []
        for student_nll in self.sequence_sums(batch, "nll"):
            for teacher_nll in self.sequence_sums(batch, "teacher_nll"):
                ratios.append(teacher_nll + -student_nll)
        return ratios

    def sequence_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if column != "distance_to_teacher":
            return super().sequence_mean(batch, column, row_set)
        return self.token_mean(batch, column, row_set)

    def cell(self, row: Row, column: Column) -> Cell:
        if column != "distance_to_teacher":
            return super().cell(row, column)
        arrays = self.batches[row.batch]
        differences = arrays["hidden"][row.b, row.t] - arrays["teacher_hidden"][:, row.t]
        value = add(differences * differences) / len(differences)
        return Cell(value, 2 * differences.mean(0), 0.0)


def _negative_entropy(rows: CaseRows, row: Row) -> Cell:
    """sum p log p."""
    right = COLUMNS["entropy"](rows, row)
    return Cell(-right.value, -right.student_gradient, -right.teacher_gradient)


class WrongEntropySign(Sheet):
    """sum p log p is used as the entropy."""

    columns = {**COLUMNS, "entropy": _negative_entropy}


class Bf16(Sheet):
    """Log-probabilities are bfloat16 numbers, with 8 significant bits."""

    def distribution(self, z: np.ndarray) -> Distribution:
        log_p = to_bf16(super().distribution(z).log_p)
        return Distribution(z, log_p, exp(log_p))


class Uniform(Sheet):
    """Rows of one batch and column share the mean of their weights."""

    def backward_weights(self, loss: Sum) -> Weights:
        groups: dict[tuple[str, Column], list[float]] = {}
        for (row, column), weight in loss.weights.items():
            groups.setdefault((row.batch, column), []).append(weight)
        means = {group: add(weights) / len(weights) for group, weights in groups.items()}
        return {(row, column): means[row.batch, column] for row, column in loss.weights}
