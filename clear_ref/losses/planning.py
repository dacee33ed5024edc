"""What a loss asks of each column, found before the columns are computed.

A loss that is linear in its columns has the same gradient in them whatever their values are. So
the formula is computed once on columns of zeros, and autograd gives the coefficients. For a loss
that is not linear they are wrong; fused_head.py compares them in the backward pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .formulas import accumulation_dtype
from .fused_head import COLUMNS
from .rows import BatchRows, RowFunction
from .terms import TokenTerms

Leaves = dict[tuple[str, str], TokenTerms]  # (view, row set) -> columns of zeros


class ZeroRows(BatchRows):
    """A BatchRows whose columns are zeros, each an autograd leaf. Nothing is computed."""

    def __init__(self, batch: BatchRows) -> None:
        self.__dict__.update(vars(batch))
        self.leaves: Leaves = {}
        self._terms = {}

    def terms(self, row_set: str) -> TokenTerms:
        """Columns of zeros; the teacher's own are constants."""
        key = (self._view, row_set)
        if key not in self.leaves:
            names = ["nll", "lse", "entropy", "teacher_nll", "teacher_entropy"]
            names += ["kl_teacher_student", "kl_student_teacher"]
            if self._teacher_logits is None:
                names = names[:3]
            self.leaves[key] = TokenTerms(**{name: self._zeros(row_set, name) for name in names})
        return self.leaves[key]

    def column(self, row_set: str, function: RowFunction) -> Tensor:
        """A column of zeros."""
        return self._zeros(row_set, "")

    def _zeros(self, row_set: str, name: str) -> Tensor:
        n = len(self.rows(row_set).labels)
        head = self._frozen_head
        dtype = torch.float32 if head is None else accumulation_dtype(head.weight)
        zeros = torch.zeros(n, dtype=dtype, device=self.labels.device)
        return zeros.requires_grad_(name in COLUMNS)


def plan(loss: Callable[[dict[str, BatchRows]], Tensor], batches: dict[str, BatchRows]) -> None:
    """Stores in each batch what the loss asks of its columns, if fused_head.py can use it.

    loss  batches -> the scalar whose backward() is called
    """
    if not all(batch.has_frozen_head for batch in batches.values()):
        return
    if not any(batch.labels.numel() > batch.chunk_rows for batch in batches.values()):
        return
    zeros = {name: ZeroRows(batch) for name, batch in batches.items()}
    with torch.enable_grad():
        value = loss(dict(zeros))
    if not value.requires_grad:
        return
    for name, zero_rows in zeros.items():
        for (view, row_set), terms in zero_rows.leaves.items():
            columns = {column: getattr(terms, column) for column in COLUMNS}
            leaves = {key: leaf for key, leaf in columns.items() if leaf is not None}
            gradients = torch.autograd.grad(
                value, list(leaves.values()), retain_graph=True, allow_unused=True
            )
            batches[name].planned[view, row_set] = {
                column: gradient
                for column, gradient in zip(leaves, gradients, strict=True)
                if gradient is not None
            }
