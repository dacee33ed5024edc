"""Sheets with one rule broken each: the executable half of mistakes.py, which says what each one is and where it was seen."""

import numpy as np

from clear_ref.oracle.reference.arithmetic import IMAGE, PADDING, PROMPT, Row, Sheet
from clear_ref.oracle.reference.exact import add, exp
from clear_ref.oracle.reference.token_columns import COLUMNS, IGNORE, Distribution, to_bf16


class MoreRows(Sheet):
    """Answer rows and those that predict a token of another kind, with that token for a label."""

    kind = PADDING

    def rows(self, name, row_set="answer"):
        batch = self.batches[name]
        if row_set != "answer":
            return super().rows(
                name, "all" if row_set == "attention" and self.kind == PADDING else row_set
            )
        ids, kinds, labels = batch["input_ids"], batch["kinds"], batch["labels"]
        chosen = (labels != IGNORE) | (kinds == self.kind)
        return [Row(name, b, t, int(ids[b, t + 1])) for b, t in zip(*np.nonzero(chosen[:, 1:]))]


class Padding(MoreRows):
    """Rows that predict padding count; real positions include padding."""


class Prompt(MoreRows):
    """Rows that predict the prompt count."""

    kind = PROMPT


class Images(MoreRows):
    """Rows that predict an image placeholder count."""

    kind = IMAGE


class Unshifted(Sheet):
    """Position t is scored against label t."""

    def rows(self, name, row_set="answer"):
        labels = self.batches[name]["labels"]
        if row_set != "answer":
            return [
                Row(row.batch, row.b, row.t, int(labels[row.b, row.t]))
                for row in super().rows(name, row_set)
            ]
        return [
            Row(name, int(b), int(t), int(labels[b, t]))
            for b, t in zip(*np.nonzero(labels != IGNORE))
        ]


class FirstTokenLost(Sheet):
    """The first answer row of each sequence is missing."""

    def rows(self, name, row_set="answer"):
        rows = super().rows(name, row_set)
        return (
            [row for i, row in enumerate(rows) if i and rows[i - 1].b == row.b]
            if row_set == "answer"
            else rows
        )


class IgnoredCounted(Sheet):
    """Every row but the last is an answer row; an ignored label is 0."""

    def rows(self, name, row_set="answer"):
        if row_set != "answer":
            return super().rows(name, row_set)
        n_positions = self.batches[name]["labels"].shape[1]
        return [
            Row(name, row.b, row.t, max(row.label, 0))
            for row in super().rows(name, "all")
            if row.t + 1 < n_positions
        ]


class SwappedKl(Sheet):
    """Each KL is the other."""

    columns = {
        **COLUMNS,
        "kl_teacher_student": COLUMNS["kl_student_teacher"],
        "kl_student_teacher": COLUMNS["kl_teacher_student"],
    }


def _cross_entropy_of_teacher(sheet, row, temperature=1.0):
    student, teacher = sheet.at(row, "", temperature), sheet.at(row, "teacher_", temperature)
    value = -add(student.p * teacher.log_p)
    return (
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
    """No divisor."""

    def over(self, total, n):
        return total


class BatchMean(Sheet):
    """KLs are divided by the number of sequences."""

    def token_mean(self, name, column, row_set="answer"):
        if not str(column if isinstance(column, str) else column[0]).startswith("kl_"):
            return super().token_mean(name, column, row_set)
        return self.over(
            self.sum_of(self.rows(name, row_set), column), len(self.batches[name]["labels"])
        )

    def sequence_mean(self, name, column, row_set="answer"):
        return (self.token_mean if str(column).startswith("kl_") else super().sequence_mean)(
            name, column, row_set
        )


def _square_of_mean(sheet, row, c):
    batch = sheet.batches[row.batch]
    real = batch["attention_mask"][row.b] == 1
    away = batch["hidden"][row.b][real].mean(0) - c * batch["control"][0]
    return add(away * away), 2 * away, 0.0


class MeanInside(Sheet):
    """The mean over sequences (rmu: over a sequence's real positions) comes before the nonlinearity."""

    columns = {**COLUMNS, "distance_to_control": _square_of_mean}

    def mean_softplus(self, beta, sums):
        return super().mean_softplus(beta, [self.mean(sums)])


def _raw_nll(sheet, row):
    if row.label == IGNORE:
        return 0.0, 0.0, 0.0
    hot = np.arange(len(sheet.at(row).z)) == row.label
    return -sheet.at(row).z[row.label], -1.0 * hot, 0.0


def _raw_teacher_nll(sheet, row):
    return (0.0 if row.label == IGNORE else -sheet.at(row, "teacher_").z[row.label]), 0.0, 0.0


def _raw_kl(first, second):
    """KL of the first's softmax against the second's logits taken for its log-probabilities."""

    def column(sheet, row, temperature=1.0):
        one, two = sheet.at(row, first, temperature), sheet.at(row, second, temperature)
        value = add(one.p * (one.log_p - two.z))
        gradient = one.p * (one.log_p - two.z - value) if first == "" else -one.p
        return value, gradient / temperature, 0.0

    return column


class RawLogits(Sheet):
    """log p is z; the softmaxes are right."""

    columns = {
        **COLUMNS,
        "nll": _raw_nll,
        "teacher_nll": _raw_teacher_nll,
        "kl_student_teacher": _raw_kl("", "teacher_"),
        "kl_teacher_student": _raw_kl("teacher_", ""),
        "cross_entropy": _raw_kl("teacher_", ""),
    }


class VocabularyRatio(Sheet):
    """softplus of each vocabulary entry's log-ratio at the answer rows."""

    def mean_softplus(self, beta, sums):
        return self.token_mean("forget", ("ratio", beta))


class Attached(Sheet):
    """The teacher's gradient is added to the student's."""

    def gradient(self, row, column):
        _, student, teacher = self.cell(row, column)
        return student + teacher


class Pairs(Sheet):
    """Every student meets every teacher."""

    def log_ratios(self, name):
        students, teachers = (
            self.sequence_sums(name, "nll"),
            self.sequence_sums(name, "teacher_nll"),
        )
        return [teacher + -student for student in students for teacher in teachers]

    def sequence_mean(self, name, column, row_set="answer"):
        if column != "distance_to_teacher":
            return super().sequence_mean(name, column, row_set)
        return self.token_mean(name, column, row_set)

    def cell(self, row, column):
        if column != "distance_to_teacher":
            return super().cell(row, column)
        batch = self.batches[row.batch]
        away = batch["hidden"][row.b, row.t] - batch["teacher_hidden"][:, row.t]
        return add(away * away) / len(away), 2 * away.mean(0), 0.0


class WrongEntropySign(Sheet):
    """sum p log p."""

    columns = {
        **COLUMNS,
        "entropy": lambda sheet, row: tuple(-part for part in COLUMNS["entropy"](sheet, row)),
    }


class Bf16(Sheet):
    """Log-probabilities have 8 bits."""

    def distribution(self, z):
        log_p = to_bf16(super().distribution(z).log_p)
        return Distribution(z, log_p, exp(log_p))


class Uniform(Sheet):
    """Rows of one batch and column share the mean of their weights."""

    def weights(self, loss):
        groups = {}
        for (row, column), weight in loss.weights.items():
            groups.setdefault((row.batch, column), []).append(weight)
        return {
            (row, column): add(groups[row.batch, column]) / len(groups[row.batch, column])
            for row, column in loss.weights
        }
