"""From per-token columns to numbers: each reduction says over which rows it runs and by what it divides.

`column` is the name of a TokenTerms column, or values [n] for the rows of the row set. The divisors are the totals of
the whole optimiser step (BatchRows.n_sequences, BatchRows.n_rows), so micro-batches add up. A divisor of 0 counts as 1:
the loss of no rows is 0.
"""

import torch

from clear_ref.common.errors import ShapeError, UserError


def token_mean(batch, column, row_set="answer") -> torch.Tensor:
    """Scalar: sum over all rows of the row set / number of those rows in the step. Long sequences weigh more."""
    if row_set not in batch.n_rows:
        raise UserError(
            f"n_rows has {sorted(batch.n_rows)}; expected the step's total of {row_set!r} rows in it"
        )
    return _values(batch, column, row_set).sum() / max(batch.n_rows[row_set], 1)


def sequence_mean(batch, column, row_set="answer") -> torch.Tensor:
    """Scalar: sum over sequences of (mean over the sequence's own rows) / number of sequences in the step.

    Every sequence weighs the same; one without rows adds 0 and is still counted.
    """
    sums = sequence_sum(batch, column, row_set)
    n_own_rows = torch.bincount(batch.rows(row_set).sequence, minlength=len(sums)).clamp(min=1)
    return mean_over_sequences(sums / n_own_rows, batch)


def sequence_sum(batch, column, row_set="answer") -> torch.Tensor:
    """[B]: sum over each sequence's rows, not divided by anything."""
    rows, values = batch.rows(row_set), _values(batch, column, row_set)
    # Placed on the [B, T] grid first: a scatter-add would be summed in no fixed order on a GPU.
    grid = torch.zeros(batch.labels.shape, dtype=values.dtype, device=values.device)
    return grid.index_put((rows.sequence, rows.position), values).sum(1)


def mean_over_sequences(values, batch) -> torch.Tensor:
    """Scalar: sum of values [B], one per sequence of this batch / number of sequences in the step."""
    if values.shape != batch.labels.shape[:1]:
        raise ShapeError(
            f"values has shape {list(values.shape)}; expected [{len(batch.labels)}], one per sequence"
        )
    return values.sum() / max(batch.n_sequences, 1)


def _values(batch, column, row_set):
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
