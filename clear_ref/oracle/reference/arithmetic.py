"""Sheet: sums and means over the rows of a case, from which the formulas are written.

A sheet has one line for each row of the batches (rows.py) and one column for each number that
token_columns.py defines. A loss is a weighted sum of cells, so its gradient is the sum of weight
times gradient of each cell. Plain float64 numpy, one row at a time; no line is shared with losses/
or methods/.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .parts import Parts, parts_of
from .roundings import Roundings, of_loss
from .rows import Batches, CaseRows, Row
from .sums import Column, Sum, Weights, in_order, softplus, total
from .token_columns import COLUMNS, Cell

Terms = dict[str, Sum]


@dataclass(frozen=True)
class LossResult:
    """A loss: its value, its named terms, and d loss / d student tensor of each batch.

    scale      the sum of the terms' sizes
    weight     the sum of |d loss / d column| over all columns of all rows
    roundings  returns how far rounding may move the loss and the gradients
    parts      returns what each row adds to the loss
    """

    loss: float
    terms: dict[str, float]
    gradients: dict[str, np.ndarray]
    scale: float
    weight: float
    roundings: Callable[[], Roundings] = field(compare=False, repr=False)
    parts: Callable[[], Parts] = field(default=Parts, compare=False, repr=False)


class Sheet(CaseRows):
    """The batches of a case with the reductions of the formulas.

    A known mistake is a subclass with one of these methods changed (mistakes/broken_rules.py).
    """

    columns = COLUMNS

    def __init__(self, batches: Batches) -> None:
        super().__init__(batches)
        self._cells: dict[tuple[Row, Column], Cell] = {}

    def cell(self, row: Row, column: Column) -> Cell:
        """The Cell of a column at a row; the column is a name, or (name, parameters...)."""
        if (row, column) not in self._cells:
            name, *parameters = (column,) if isinstance(column, str) else column
            self._cells[row, column] = self.columns[name](self, row, *parameters)
        return self._cells[row, column]

    def column_sum(self, rows: Sequence[Row], column: Column) -> Sum:
        """A column summed over rows."""
        value = in_order(self.cell(row, column).value for row in rows)
        return Sum(value, {(row, column): 1.0 for row in rows})

    def divide(self, total: Sum, n: int) -> Sum:
        """total / n; a divisor of 0 counts as 1."""
        return 1.0 / max(n, 1) * total

    def token_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        """The column's sum over all rows of a batch / the number of these rows."""
        rows = self.rows(batch, row_set)
        return self.divide(self.column_sum(rows, column), len(rows))

    def weighted_mean(self, batch: str, weight: Callable[[float], tuple[float, float]]) -> Sum:
        """Token mean of w(nll) nll over answer rows; the gradient takes w for a constant.

        weight  nll -> (w, the derivative of w)
        """
        rows = self.rows(batch)
        parts = []
        for row in rows:
            factor, slope = weight(self.constants.cell(row, "nll").value)
            parts.append(self.column_sum([row], "nll").times_constant(factor, slope))
        return self.divide(total(parts), len(rows))

    def rows_by_sequence(self, batch: str, row_set: str = "answer") -> list[list[Row]]:
        """The rows of each sequence of a batch."""
        rows = self.rows(batch, row_set)
        n_sequences = len(self.batches[batch]["labels"])
        return [[row for row in rows if row.b == b] for b in range(n_sequences)]

    def sequence_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        """Mean over sequences of the mean over each sequence's rows.

        A sequence without rows adds 0 and is counted.
        """
        means = []
        for rows in self.rows_by_sequence(batch, row_set):
            means.append(self.divide(self.column_sum(rows, column), len(rows)))
        return self.mean(means)

    def sequence_sums(self, batch: str, column: Column) -> list[Sum]:
        """For each sequence, the column summed over its answer rows."""
        return [self.column_sum(rows, column) for rows in self.rows_by_sequence(batch)]

    def mean(self, sums: Sequence[Sum]) -> Sum:
        """The mean of Sums, one for each sequence."""
        return self.divide(total(sums), len(sums))

    def log_ratios(self, batch: str) -> list[Sum]:
        """log p_student - log p_teacher of each whole answer."""
        student_nlls = self.sequence_sums(batch, "nll")
        teacher_nlls = self.sequence_sums(batch, "teacher_nll")
        pairs = zip(student_nlls, teacher_nlls, strict=True)
        return [teacher + -student for student, teacher in pairs]

    def mean_softplus(self, beta: float, sums: Sequence[Sum]) -> Sum:
        """mean_s log(1 + exp(beta x_s))."""
        return self.mean([softplus(beta, x) for x in sums])

    def student_gradient(self, row: Row, column: Column) -> np.ndarray | float:
        """d cell / d student tensor at the row. The teacher is a constant."""
        return self.cell(row, column).student_gradient

    def backward_weights(self, loss: Sum) -> Weights:
        """d loss / d column of each row, as the backward pass uses it."""
        return loss.weights

    def result(self, terms: Terms) -> LossResult:
        """The LossResult of the loss that is the sum of the named terms."""
        loss = total(terms.values())
        gradients = {}
        for name, batch in self.batches.items():
            gradients[name] = np.zeros_like(batch[self.student_tensor(name)])
        for (row, column), weight in self.backward_weights(loss).items():
            if weight != 0:
                gradients[row.batch][row.b, row.t] += weight * self.student_gradient(row, column)
        values = {name: float(term.value) for name, term in terms.items()}
        scale = in_order(abs(value) for value in values.values())
        weight = in_order(abs(weight) for weight in loss.weights.values())
        additions = scale * (len(terms) - 1)
        roundings = partial(of_loss, self, loss, additions, gradients)
        parts = partial(parts_of, self, loss, gradients)
        return LossResult(float(loss.value), values, gradients, scale, weight, roundings, parts)
