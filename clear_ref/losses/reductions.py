"""From per-token columns to numbers: each reduction says over which rows it runs and by what it divides.

`column` is the name of a TokenTerms column, or values [n] for the rows of the row set. The divisors are the totals of
the whole optimiser step (Split.n_sequences, Split.n_rows), so micro-batches add up. A divisor of 0 counts as 1:
the loss of no rows is 0.
"""

import torch

from clear_ref.common.errors import ShapeError, UserError


def token_mean(split, column, row_set="answer") -> torch.Tensor:
    """Scalar: sum over all rows of the row set / number of those rows in the step. Long sequences weigh more."""
    if row_set not in split.n_rows:
        raise UserError(
            f"n_rows has {sorted(split.n_rows)}; expected the step's total of {row_set!r} rows in it"
        )
    return _values(split, column, row_set).sum() / max(split.n_rows[row_set], 1)


def sequence_mean(split, column, row_set="answer") -> torch.Tensor:
    """Scalar: sum over sequences of (mean over the sequence's own rows) / number of sequences in the step.

    Every sequence weighs the same; one without rows adds 0 and is still counted.
    """
    sums = sequence_sum(split, column, row_set)
    n_own_rows = torch.bincount(split.rows(row_set).sequence, minlength=len(sums)).clamp(min=1)
    return mean_over_sequences(sums / n_own_rows, split)


def sequence_sum(split, column, row_set="answer") -> torch.Tensor:
    """[B]: sum over each sequence's rows, not divided by anything."""
    rows, values = split.rows(row_set), _values(split, column, row_set)
    # Placed on the [B, T] grid first: a scatter-add would be summed in no fixed order on a GPU.
    grid = torch.zeros(split.labels.shape, dtype=values.dtype, device=values.device)
    return grid.index_put((rows.sequence, rows.position), values).sum(1)


def mean_over_sequences(values, split) -> torch.Tensor:
    """Scalar: sum of values [B], one per sequence of this batch / number of sequences in the step."""
    if values.shape != split.labels.shape[:1]:
        raise ShapeError(
            f"values has shape {list(values.shape)}; expected [{len(split.labels)}], one per sequence"
        )
    return values.sum() / max(split.n_sequences, 1)


def _values(split, column, row_set):
    if isinstance(column, str):
        values = getattr(split.terms(row_set), column)
        if values is None:
            raise UserError(
                f"{column} needs teacher logits, and this batch has none: pass teacher_logits"
            )
        return values
    n = len(split.rows(row_set).labels)
    if column.shape != (n,):
        raise ShapeError(
            f"values has shape {list(column.shape)}; expected [{n}], one per row of {row_set!r}"
        )
    return column
