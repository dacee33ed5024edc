"""Hidden states instead of logits: squared distances by row, and the directions that they are driven to."""

import torch

from clear_ref.data.draws import uniform_vector

from .formulas import accumulation_dtype
from .reductions import token_mean


def control_vectors(seed, n, width, purpose="rmu control vector") -> torch.Tensor:
    """[n, width] float64, entries >= 0, the norm of all n * width of them together 1: a pure function of its arguments."""
    v = torch.from_numpy(uniform_vector(seed, purpose, n * width)).reshape(n, width)
    return v / v.norm()


def control_vector(seed, width) -> torch.Tensor:
    """u [width], float64, norm 1, every entry >= 0: a pure function of its arguments."""
    return control_vectors(seed, 1, width)[0]


def squares(batch, target, row_set) -> torch.Tensor:
    """[n, D]: squared differences of the student's hidden states at the row set's rows from the target, in fp32 (float64 stays).

    target  a vector [D], or hidden states [B, T, D]; no gradient flows into it
    """
    rows = batch.rows(row_set)
    hidden = batch.hidden[rows.sequence, rows.position]
    target = target.expand_as(hidden) if target.ndim == 1 else target[rows.sequence, rows.position]
    dtype = accumulation_dtype(hidden)
    return (hidden.to(dtype) - target.detach().to(hidden.device, dtype)).square()


def mean_squares_moved(batch) -> torch.Tensor:
    """Scalar: mean over all rows, padding included, and over D of (hidden - teacher's)^2."""
    return token_mean(batch, squares(batch, batch.teacher_hidden, "all").mean(1), "all")
