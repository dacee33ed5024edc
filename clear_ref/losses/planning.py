"""What a loss asks of each column, found before the columns are computed.

A loss that is linear in its columns has the same gradient in them whatever their values are. So
the formula is computed once on columns of zeros, and autograd gives the coefficients. For a loss
that is not linear they are wrong, and the backward pass (fused_head.py, terms.py) finds it out.
Where a wrong guess would cost more than it saves, the formula is computed on other values too, and
used if the coefficients are the same bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .formulas import accumulation_dtype
from .rows import ONE_PASS, ROW_SETS, BatchRows, RowFunction
from .stats_table import COLUMNS
from .terms import TokenTerms

NAMES = (  # of the columns that are made; the last: any other
    "nll",
    "lse",
    "entropy",
    "teacher_nll",
    "teacher_entropy",
    "kl_teacher_student",
    "kl_student_teacher",
    "",
)
Leaves = dict[tuple[str, str], TokenTerms]  # (view, row set) -> made columns
Loss = Callable[[dict[str, BatchRows]], Tensor]  # batches -> the scalar whose backward() is called
Planned = dict[tuple[str, str], dict[str, Tensor]]  # (view, row set) -> {column: coefficients [n]}


class MadeRows(BatchRows):
    """A BatchRows whose columns are made up, each an autograd leaf. Nothing is computed.

    last  the columns rise from 0 to this times a number of their own
    """

    def __init__(self, batch: BatchRows, last: float = 0.0) -> None:
        self.__dict__.update(vars(batch))
        self.leaves: Leaves = {}
        self.last = last
        self._terms = {}

    def terms(self, row_set: str) -> TokenTerms:
        """The columns; the teacher's own are constants."""
        key = (self._view, row_set)
        if key not in self.leaves:
            names = NAMES[:3] if self._teacher_logits is None else NAMES[:-1]
            self.leaves[key] = TokenTerms(**{name: self._made(row_set, name) for name in names})
        return self.leaves[key]

    def column(self, row_set: str, function: RowFunction) -> Tensor:
        """A column without gradient."""
        return self._made(row_set, NAMES[-1])

    def _made(self, row_set: str, name: str) -> Tensor:
        n = len(self.rows(row_set).labels)
        head = self._frozen_head
        dtype = torch.float32 if head is None else accumulation_dtype(head.weight)
        # No two columns are equal: in a loss of their difference nothing would change.
        last = self.last * (1 + NAMES.index(name))
        made = torch.linspace(0, last, n, dtype=dtype, device=self.labels.device)
        return made.requires_grad_(name in COLUMNS)


def plan(loss: Loss, batches: dict[str, BatchRows]) -> None:
    """Stores in each batch what the loss asks of its columns, where this is of use.

    It is for a frozen output layer (fused_head.py), whatever the loss, and for values and gradient
    from one reading of the logits (terms.py), if the loss is linear in the columns.
    """
    frozen = all(batch.has_frozen_head for batch in batches.values())
    frozen = frozen and any(batch.labels.numel() > batch.chunk_rows for batch in batches.values())
    one_pass = any(_takes_one_pass(batch) for batch in batches.values())
    if not frozen and not one_pass:
        return
    planned = coefficients(loss, batches, 0.0)
    is_linear = one_pass and _equal(planned, coefficients(loss, batches, 1.5))
    if not frozen and not is_linear:
        return
    for name, batch in batches.items():
        batch.planned.update(planned.get(name, {}))
        batch.is_linear = is_linear


def coefficients(loss: Loss, batches: dict[str, BatchRows], last: float) -> dict[str, Planned]:
    """By batch name the gradient of the loss in its columns, where they rise from 0 to `last`."""
    made = {name: MadeRows(batch, last) for name, batch in batches.items()}
    with torch.enable_grad():
        value = loss(dict(made))
    found: dict[str, Planned] = {name: {} for name in batches}
    if not value.requires_grad:
        return found
    for name, rows in made.items():
        for key, terms in rows.leaves.items():
            columns = {column: getattr(terms, column) for column in COLUMNS}
            leaves = {column: leaf for column, leaf in columns.items() if leaf is not None}
            gradients = torch.autograd.grad(
                value, list(leaves.values()), retain_graph=True, allow_unused=True
            )
            found[name][key] = {
                column: gradient
                for column, gradient in zip(leaves, gradients, strict=True)
                if gradient is not None
            }
    return found


def _takes_one_pass(batch: BatchRows) -> bool:
    if batch.vocabulary is None or batch.labels.numel() * batch.vocabulary < ONE_PASS[0]:
        return False
    return any(batch.takes_one_pass(len(batch.rows(row_set).labels)) for row_set in ROW_SETS)


def _equal(one: dict[str, Planned], other: dict[str, Planned]) -> bool:
    """True if both have the same columns with the same bits."""
    for name, planned in one.items():
        if planned.keys() != other[name].keys():
            return False
        for key, columns in planned.items():
            others = other[name][key]
            if columns.keys() != others.keys():
                return False
            if not all(torch.equal(columns[column], others[column]) for column in columns):
                return False
    return True
