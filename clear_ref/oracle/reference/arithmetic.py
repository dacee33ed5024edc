"""The arithmetic of the oracle's own losses: float64 numpy, one row at a time, no line shared with losses/ or methods/.

A batch is a dict of arrays, T positions of B sequences, V logits or D hidden states at each:
  input_ids, labels, attention_mask, kinds  int64 [B, T]; labels hold the token at each position or IGNORE; kinds: see KINDS
  logits, teacher_logits  float64 [B, T, V]      or      hidden, teacher_hidden  float64 [B, T, D];  control  [n, D] (rmu)
A row is a position (b, t); its label is the token at t + 1. A column is one number a row has, with its gradient in closed form.
A Sum is a number made of columns, with its derivative by each, so a loss's gradient is the sum of weight times column's gradient.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from .exact import add, exp, log, log1p
from .token_columns import COLUMNS, IGNORE, Distribution

KINDS = ("padding", "image", "prompt", "answer")
PADDING, IMAGE, PROMPT, ANSWER = range(4)


@dataclass(frozen=True)
class Row:
    """One position of one batch; `label` is the token that it predicts, or IGNORE."""

    batch: str
    b: int
    t: int
    label: int


@dataclass
class Sum:
    """A number, and d number / d column of a row: {(row, column): weight}."""

    value: float = 0.0
    weights: dict = field(default_factory=dict)

    def __add__(self, other):
        weights = dict(self.weights)
        for key, weight in other.weights.items():
            weights[key] = weights.get(key, 0.0) + weight
        return Sum(self.value + other.value, weights)

    def __rmul__(self, factor):
        return self.through(factor * self.value, factor)

    def __neg__(self):
        return -1.0 * self

    def through(self, value, slope) -> "Sum":
        """f of this number: its value, and f's derivative there."""
        return Sum(value, {key: slope * weight for key, weight in self.weights.items()})


@dataclass(frozen=True)
class Answer:
    """A loss: its value, the named terms that it is the sum of, d loss / d student tensor by batch.

    scale   sum of the terms' sizes; weight: sum of |d loss / d column| over all rows. Rounding errors are measured against them
    """

    loss: float
    terms: dict[str, float]
    gradients: dict[str, np.ndarray]
    scale: float
    weight: float


class Sheet:
    """The batches of a case, read row by row. What a mistake does is a subclass with one of these methods changed."""

    columns = COLUMNS

    def __init__(self, batches):
        self.batches, self._found = batches, {}

    def rows(self, name, row_set="answer") -> list[Row]:
        """Rows of a batch: answer (those with a label), attention (real positions) or all."""
        labels, mask = self.batches[name]["labels"], self.batches[name]["attention_mask"]
        n_sequences, n_positions = labels.shape
        found = []
        for b in range(n_sequences):
            for t in range(n_positions):
                label = int(labels[b, t + 1]) if t + 1 < n_positions else IGNORE
                if (
                    row_set == "all"
                    or row_set == "attention"
                    and mask[b, t] == 1
                    or row_set == "answer"
                    and label != IGNORE
                ):
                    found.append(Row(name, b, t, label))
        return found

    def tensor(self, name) -> str:
        """The student's tensor in a batch: logits, or hidden where there are none."""
        return "logits" if "logits" in self.batches[name] else "hidden"

    def at(self, row, whose="", temperature=1.0) -> Distribution:
        """What the student (or whose = "teacher_": the teacher) says at a row, logits divided by the temperature."""
        key = (row.batch, row.b, row.t, whose, temperature)
        if key not in self._found:
            z = self.batches[row.batch][whose + self.tensor(row.batch)][row.b, row.t] / temperature
            self._found[key] = self.distribution(z)
        return self._found[key]

    def distribution(self, z) -> Distribution:
        """The softmax of z, with its logarithm."""
        return _softmax(z.tobytes())

    def cell(self, row, column):
        """(value, gradient in the student's row, gradient in the teacher's row) of a column: a name, or (name, parameters...)."""
        if (row, column) not in self._found:
            column_name, *parameters = (column,) if isinstance(column, str) else column
            self._found[row, column] = self.columns[column_name](self, row, *parameters)
        return self._found[row, column]

    def sum_of(self, rows, column) -> Sum:
        """A column summed over rows."""
        return Sum(
            sum(self.cell(row, column)[0] for row in rows), {(row, column): 1.0 for row in rows}
        )

    def over(self, total, n) -> Sum:
        """total / n; a divisor of 0 counts as 1."""
        return 1.0 / max(n, 1) * total

    def token_mean(self, name, column, row_set="answer") -> Sum:
        """Sum over all rows of a batch / their number."""
        rows = self.rows(name, row_set)
        return self.over(self.sum_of(rows, column), len(rows))

    def per_sequence(self, name, row_set="answer") -> list[list[Row]]:
        """The rows of each sequence."""
        rows = self.rows(name, row_set)
        return [
            [row for row in rows if row.b == b] for b in range(len(self.batches[name]["labels"]))
        ]

    def sequence_mean(self, name, column, row_set="answer") -> Sum:
        """Mean over sequences of the mean over each one's rows; one without rows adds 0 and counts."""
        return self.mean(
            [
                self.over(self.sum_of(rows, column), len(rows))
                for rows in self.per_sequence(name, row_set)
            ]
        )

    def sequence_sums(self, name, column) -> list[Sum]:
        """One a sequence: the column summed over its answer rows."""
        return [self.sum_of(rows, column) for rows in self.per_sequence(name)]

    def mean(self, sums) -> Sum:
        """The mean of Sums, one a sequence."""
        return self.over(total(sums), len(sums))

    def log_ratios(self, name) -> list[Sum]:
        """log p_student - log p_teacher of each whole answer."""
        pairs = zip(
            self.sequence_sums(name, "nll"), self.sequence_sums(name, "teacher_nll"), strict=True
        )
        return [teacher + -student for student, teacher in pairs]

    def mean_softplus(self, beta, sums) -> Sum:
        """mean_s log(1 + exp(beta x_s))."""
        return self.mean([softplus(beta, x) for x in sums])

    def gradient(self, row, column) -> np.ndarray:
        """d column / d student row. The teacher is a constant."""
        return self.cell(row, column)[1]

    def weights(self, loss) -> dict:
        """d loss / d column of each row, as the backward pass has it."""
        return loss.weights

    def answer(self, terms) -> Answer:
        """The Answer of the loss that is the sum of the named terms."""
        loss = total(list(terms.values()))
        gradients = {
            name: np.zeros_like(batch[self.tensor(name)]) for name, batch in self.batches.items()
        }
        weights = self.weights(loss)
        for (row, column), weight in weights.items():
            if weight != 0:
                gradients[row.batch][row.b, row.t] += weight * self.gradient(row, column)
        values = {name: float(term.value) for name, term in terms.items()}
        return Answer(
            float(loss.value),
            values,
            gradients,
            sum(map(abs, values.values())),
            sum(abs(weight) for weight in loss.weights.values()),
        )


@lru_cache(maxsize=8192)
def _softmax(z_bytes):
    z = np.frombuffer(z_bytes)
    e = exp(z - z.max())
    return Distribution(z, z - z.max() - log(add(e)), e / add(e))


def total(sums) -> Sum:
    """The sum of Sums."""
    value, weights = 0.0, {}
    for one in sums:
        value += one.value
        for key, weight in one.weights.items():
            weights[key] = weights.get(key, 0.0) + weight
    return Sum(value, weights)


def softplus(beta, x) -> Sum:
    """log(1 + exp(beta x)), without overflow."""
    y = beta * x.value
    small = float(exp(-abs(y)))
    return x.through(
        max(y, 0.0) + float(log1p(small)), beta * (1 if y >= 0 else small) / (1 + small)
    )
