"""Reductions of per-token columns: each states over which rows it sums and by what it divides.

`column` is the name of a TokenTerms column, or values [n] for the rows of the row set. The divisors
are the totals of the whole optimiser step (BatchRows.n_sequences, BatchRows.n_rows), so the losses
of micro-batches add up. A divisor of 0 counts as 1: the loss of no rows is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clear_ref.common.errors import ShapeError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from .rows import BatchRows


def token_mean(batch: BatchRows, column: str | Tensor, row_set: str = "answer") -> Tensor:
    """Scalar: sum over all rows of the row set / number of those rows in the step.

    Long sequences weigh more.
    """
    if row_set not in batch.n_rows:
        raise UserError(
            f"n_rows has {sorted(batch.n_rows)}; "
            f"expected the step's total of {row_set!r} rows in it"
        )
    return _values(batch, column, row_set).sum() / max(batch.n_rows[row_set], 1)


def sequence_mean(batch: BatchRows, column: str | Tensor, row_set: str = "answer") -> Tensor:
    """Scalar: sum over sequences of (mean over its own rows) / number of sequences in the step.

    Every sequence weighs the same; one without rows adds 0 and is still counted.
    """
    sums = sequence_sum(batch, column, row_set)
    n_own_rows = batch.rows(row_set).sequence.bincount(minlength=len(sums)).clamp(min=1)
    return mean_over_sequences(sums / n_own_rows, batch)


def sequence_sum(batch: BatchRows, column: str | Tensor, row_set: str = "answer") -> Tensor:
    """[B]: sum over each sequence's rows, not divided by anything."""
    rows = batch.rows(row_set)
    values = _values(batch, column, row_set)
    # A scatter-add on a GPU would sum in no fixed order: the values are put on a [B, T] grid first.
    grid = values.new_zeros(batch.labels.shape)
    return grid.index_put((rows.sequence, rows.position), values).sum(1)


def mean_over_sequences(values: Tensor, batch: BatchRows) -> Tensor:
    """Scalar: sum of values [B], one per sequence of this batch / number of them in the step."""
    if values.shape != batch.labels.shape[:1]:
        raise ShapeError(
            f"values has shape {list(values.shape)}; "
            f"expected [{len(batch.labels)}], one per sequence"
        )
    return values.sum() / max(batch.n_sequences, 1)


def _values(batch: BatchRows, column: str | Tensor, row_set: str) -> Tensor:
    """[n]: the column, by name or as given; checked to have one value per row."""
    if isinstance(column, str):
        values = getattr(batch.terms(row_set), column)
        if values is None:
            raise UserError(
                f"{column} needs teacher logits, and this batch has none: pass teacher_logits"
            )
        return values
    n = len(batch.rows(row_set).labels)
    if column.shape != (n,):
        raise ShapeError(
            f"values has shape {list(column.shape)}; expected [{n}], one per row of {row_set!r}"
        )
    return column
