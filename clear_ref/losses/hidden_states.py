"""Losses on hidden states instead of logits, for rmu: squared differences, control vectors."""

import torch
from torch import Tensor

from clear_ref.data.draws import uniform_vector

from .formulas import accumulation_dtype
from .reductions import token_mean
from .rows import BatchRows


def control_vectors(seed: int, n: int, width: int, purpose: str = "rmu control vector") -> Tensor:
    """[n, width] float64, entries >= 0, scaled so that the norm of all n * width entries is 1.

    The result depends on the arguments alone.
    """
    v = torch.from_numpy(uniform_vector(seed, purpose, n * width)).reshape(n, width)
    return v / v.norm()


def control_vector(seed: int, width: int) -> Tensor:
    """u [width], float64, norm 1, every entry >= 0; it depends on the arguments alone."""
    return control_vectors(seed, 1, width)[0]


def squared_differences(batch: BatchRows, target: Tensor, row_set: str) -> Tensor:
    """[n, D]: (hidden - target)^2 of the student at the row set's rows, in fp32 (float64 stays).

    target  a vector [D], or hidden states [B, T, D]; gets no gradient
    """
    rows = batch.rows(row_set)
    hidden = batch.hidden_states()[rows.sequence, rows.position]
    if target.ndim == 1:
        target = target.expand_as(hidden)
    else:
        target = target[rows.sequence, rows.position]
    dtype = accumulation_dtype(hidden)
    return (hidden.to(dtype) - target.detach().to(hidden.device, dtype)).square()


def mean_squared_change(batch: BatchRows) -> Tensor:
    """Scalar: mean over all rows, padding included, and over D of (student - teacher)^2."""
    squares = squared_differences(batch, batch.teacher_hidden_states(), "all")
    return token_mean(batch, squares.mean(1), "all")
