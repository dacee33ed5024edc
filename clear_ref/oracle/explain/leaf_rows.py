"""One record of a batch as a method reads it, with every column an autograd leaf."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from clear_ref.losses.outputs import Outputs, logits_of_rows
from clear_ref.losses.rows import ROW_SETS, BatchRows, RowFunction
from clear_ref.losses.terms import TokenTerms

# (row set, name of the column)
LeafKey = tuple[str, str]


@dataclass(frozen=True)
class OneRecord:
    """One record of a batch, and the totals of the whole batch that reductions divide by.

    n_sequences, n_rows, step_labels  as in BatchRows
    """

    outputs: Outputs
    n_sequences: int
    n_rows: dict[str, int]
    step_labels: Tensor


def one_record(whole: Outputs, s: int) -> OneRecord:
    """Record s of a batch."""
    tensors: dict[str, Any] = {}  # Tensor, or None where the field may be None
    for field in fields(Outputs):
        tensor = getattr(whole, field.name)
        tensors[field.name] = None if tensor is None else tensor[s : s + 1]
    totals = whole.batch_rows().n_rows
    n_rows = {row_set: totals[row_set] for row_set in ROW_SETS}
    return OneRecord(Outputs(**tensors), len(whole.labels), n_rows, whole.labels)


class LeafRows(BatchRows):
    """A BatchRows whose columns are autograd leaves, so that d loss / d column can be taken.

    logits   [1, T, V] leaf, or None: the student's
    hidden   [1, T, D] leaf, or None: the student's
    leaves   {(row set, column name): (leaf [n], the column [n] that it replaces)}
    """

    def __init__(self, record: OneRecord, key: tuple[int, int]) -> None:
        outputs = record.outputs
        self.logits = _leaf(outputs.logits)
        self.leaves: dict[LeafKey, tuple[Tensor, Tensor]] = {}
        self._leaf_terms: dict[str, TokenTerms] = {}
        self._suffix = ""
        super().__init__(
            labels=outputs.labels,
            attention_mask=outputs.attention_mask,
            student_logits=logits_of_rows(self.logits),
            teacher_logits=logits_of_rows(outputs.teacher_logits),
            n_sequences=record.n_sequences,
            n_rows=record.n_rows,
            step_labels=record.step_labels,
            hidden=_leaf(outputs.hidden),
            teacher_hidden=outputs.teacher_hidden,
            key=key,
        )

    def terms(self, row_set: str) -> TokenTerms:
        """The columns of the row set as leaves, the same leaves at every call."""
        if row_set not in self._leaf_terms:
            computed = super().terms(row_set)
            leaves: dict[str, Any] = {}  # Tensor, or None where the field may be None
            for field in fields(TokenTerms):
                column = getattr(computed, field.name)
                leaves[field.name] = (
                    None if column is None else self._column_leaf(row_set, field.name, column)
                )
            self._leaf_terms[row_set] = TokenTerms(**leaves)
        return self._leaf_terms[row_set]

    def column(self, row_set: str, function: RowFunction) -> Tensor:
        """The computed column as a leaf."""
        name = f"column{len(self.leaves)}"
        return self._column_leaf(row_set, name, super().column(row_set, function))

    def at_temperature(self, temperature: float) -> LeafRows:
        """As in BatchRows. The copy adds its leaves to the same `leaves`, under other names."""
        changed = super().at_temperature(temperature)
        assert isinstance(changed, LeafRows)  # BatchRows copies itself
        changed._suffix = f" at temperature {temperature:g}"
        changed._leaf_terms = {}
        return changed

    def with_lowered_labels(
        self, lowering: float, source: BatchRows | None = None, ignored_too: bool = False
    ) -> LeafRows:
        """As in BatchRows; the copy's leaves are those of the same `leaves`, under other names."""
        changed = super().with_lowered_labels(lowering, source, ignored_too)
        assert isinstance(changed, LeafRows)  # BatchRows copies itself
        changed._suffix = f" with the label {lowering:g} lower"
        changed._leaf_terms = {}
        return changed

    def _column_leaf(self, row_set: str, name: str, column: Tensor) -> Tensor:
        leaf = column.detach().requires_grad_()
        self.leaves[row_set, name + self._suffix] = (leaf, column)
        return leaf


def _leaf(tensor: Tensor | None) -> Tensor | None:
    """The same values without history, as a leaf that requires a gradient."""
    return None if tensor is None else tensor.detach().requires_grad_()
