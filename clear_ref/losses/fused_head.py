"""Token terms from hidden states, where the output layer gets no gradient: no logits are kept.

A row's gradient in its hidden state is (d loss / d logits) @ weight. What the loss asks of each
column, its upstream gradient, is known before the columns are (planning.py). So the forward pass
computes the gradient too, chunk by chunk: two products with the weight, where a chunk that is
computed again in the backward pass needs three, and five with a teacher.

The backward pass compares. If the upstream gradient is the planned one, the stored gradient is the
result. If in each row it is the planned one times a number, the row is multiplied by that number;
in half precision, where this would round a second time, only by powers of two. If it is anything
else, the chunks are computed again. So the result never depends on the plan but for rounding.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clear_ref.model import products

from . import operand_checks
from .formulas import NLL, accumulation_dtype
from .implementation import choose_implementation
from .stats_table import COLUMNS
from .terms import IGNORE, TokenTerms, columns_of, upstream_table

# Rows of logits in memory at a time. With fewer the products take longer: 32,064 x 512 weights, one
# thread, 1,024 rows: 1.46 s at 64, 1.17 at 128, 1.07 at 256, 0.94 at 1,024.
CHUNK_ROWS = 128
PIECE_ROWS = 16  # of a chunk, whose logits are replaced by their gradient while in the cache


@dataclass(frozen=True)
class HeadRows:
    """n rows of logits that are never all in memory: hidden [n, D] @ weight.T / temperature.

    weight   [V, D], gets no gradient
    labels   [n]
    teacher  slice of the rows -> the teacher's logits [rows, V]; None: no teacher
    """

    weight: Tensor
    labels: Tensor
    teacher: Callable[[slice], Tensor] | None = None
    temperature: float = 1.0
    chunk_rows: int = CHUNK_ROWS

    def chunks(self) -> Iterator[slice]:
        """The rows, at most chunk_rows at a time."""
        for start in range(0, len(self.labels), self.chunk_rows):
            yield slice(start, min(start + self.chunk_rows, len(self.labels)))


def head_terms(hidden: Tensor, rows: HeadRows, planned: Mapping[str, Tensor]) -> TokenTerms:
    """TokenTerms of every row, with the values of token_terms on all logits at once.

    hidden   [n, D]  gets the gradient; the columns are differentiable once
    planned  {column: [n]}, the upstream gradient that is expected of each column; others: 0
    raises   as token_terms
    """
    operand_checks.check_transforms(hidden=hidden)
    operand_checks.check_memory(hidden=hidden, weight=rows.weight, labels=rows.labels)
    if hidden.device.type == "cpu":
        operand_checks.check_labels(rows.labels, len(rows.weight))
    none = slice(0, 0)
    teacher = None if rows.teacher is None else rows.teacher(none)
    upstream = upstream_table(planned, rows.labels, accumulation_dtype(hidden, teacher))
    table = _Terms.apply(hidden, rows, upstream)
    return columns_of(table, teacher is not None, entropy=True)


@torch.no_grad()
def head_predictions(hidden: Tensor, rows: HeadRows) -> TokenTerms:
    """TokenTerms of every row with predictions, with the values of token_terms on all logits.

    Nothing has a gradient. At most rows.chunk_rows rows of logits are in memory.

    hidden   [n, D]
    raises   as token_terms
    """
    operand_checks.check_memory(hidden=hidden, weight=rows.weight, labels=rows.labels)
    teacher = None if rows.teacher is None else rows.teacher(slice(0, 0))
    parts = [_chunk_predictions(hidden, rows, slice(0, 0))]  # if there are no rows, the result
    parts += [_chunk_predictions(hidden, rows, chunk) for chunk in rows.chunks()]
    return columns_of(torch.cat(parts, 1), teacher is not None, entropy=True)


def _chunk_predictions(hidden: Tensor, rows: HeadRows, chunk: slice) -> Tensor:
    """[N_STATS_AND_PREDICTIONS, rows of the chunk]."""
    logits = products.linear(hidden[chunk], rows.weight, None)
    if rows.temperature != 1:
        logits /= rows.temperature
    teacher = None if rows.teacher is None else rows.teacher(chunk)
    wide = _common_dtype(logits, teacher)
    operands = (
        logits.to(wide),
        None if teacher is None else teacher.to(wide),
        rows.labels[chunk],
    )
    native = choose_implementation("auto", logits.device, wide, predictions=True) == "native"
    return torch.ops.clear_ref.token_stats(*operands, False, True, native, True)


def _common_dtype(logits: Tensor, teacher: Tensor | None) -> torch.dtype:
    if teacher is None or teacher.dtype == logits.dtype:
        return logits.dtype
    return torch.promote_types(torch.promote_types(logits.dtype, teacher.dtype), torch.float32)


class _Terms(torch.autograd.Function):
    """The table [N_STATS, n] of the rows' terms; the gradient of `hidden` is computed with it.

    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, rows: HeadRows, planned: Tensor) -> Tensor:
        """The table; hidden [n, D], planned [N_STATS, n]."""
        hidden = hidden.detach()
        table = torch.empty_like(planned)
        gradient = _gradient(hidden, rows, table, planned, known=False)
        ctx.save_for_backward(hidden, rows.weight, table, planned, gradient)
        ctx.rows = rows
        return table

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient [n, D] of hidden."""
        if torch.is_grad_enabled():  # only under create_graph
            raise RuntimeError(
                "token_terms is differentiable once; found create_graph=True, expected False"
            )
        hidden, _, table, planned, gradient = ctx.saved_tensors
        upstream = upstream.clone()
        upstream[NLL].masked_fill_(ctx.rows.labels == IGNORE, 0)
        own = list(COLUMNS.values())
        if torch.equal(upstream[own], planned[own]):
            return gradient, None, None
        factor = _factor(upstream[own], planned[own], exact=gradient.element_size() < 4)
        if factor is None:
            again = _gradient(hidden, ctx.rows, table, upstream, known=True)
            return again, None, None
        scaled = gradient * factor.unsqueeze(1)
        # In a row that is not asked for, NaN is 0 too.
        scaled.masked_fill_(factor.unsqueeze(1) == 0, 0)
        return scaled.to(gradient.dtype), None, None


def _gradient(
    hidden: Tensor, rows: HeadRows, table: Tensor, upstream: Tensor, known: bool
) -> Tensor:
    """[n, D] gradient of hidden, in its dtype: (d / d logits) @ weight, rounded as autograd does.

    known  the table is there; False: it is computed and stored
    """
    gradient = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    n_rows, vocabulary = min(rows.chunk_rows, len(hidden)), len(rows.weight)
    buffer = torch.empty(n_rows, vocabulary, dtype=hidden.dtype, device=hidden.device)
    for chunk in rows.chunks():
        logits = buffer[: chunk.stop - chunk.start]
        if products.is_widened(hidden[chunk], rows.weight):
            logits.copy_(products.linear(hidden[chunk], rows.weight, None))
        else:
            torch.mm(hidden[chunk], rows.weight.t(), out=logits)
        if rows.temperature != 1:
            logits /= rows.temperature
        teacher = None if rows.teacher is None else rows.teacher(chunk)
        _replace_by_gradient(logits, teacher, rows.labels, table, upstream, chunk, known)
        if rows.temperature != 1:
            logits /= rows.temperature
        gradient[chunk] = products.gradient(logits, rows.weight)
    return gradient


def _replace_by_gradient(
    logits: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    table: Tensor,
    upstream: Tensor,
    chunk: slice,
    known: bool,
) -> None:
    """Replaces the logits [rows of the chunk, V] by the loss's gradient in them, a piece at a time.

    labels, table, upstream  of all rows
    """
    wide = _common_dtype(logits, teacher)
    native = choose_implementation("auto", logits.device, wide) == "native"
    for start in range(0, len(logits), PIECE_ROWS):
        own = slice(start, min(start + PIECE_ROWS, len(logits)))
        all_rows = slice(chunk.start + own.start, chunk.start + own.stop)
        operands = (
            logits[own].to(wide),
            None if teacher is None else teacher[own].to(wide),
            labels[all_rows],
        )
        if known:
            logits[own] = torch.ops.clear_ref.token_dlogits(
                *operands, table[:, all_rows], upstream[:, all_rows], False, native
            )
        else:
            table[:, all_rows], logits[own] = torch.ops.clear_ref.token_stats_and_dlogits(
                *operands, upstream[:, all_rows], False, True, native
            )


def _factor(upstream: Tensor, planned: Tensor, exact: bool) -> Tensor | None:
    """[n]: upstream = factor x planned in every column of a row; None if there is no such number.

    upstream, planned  [columns, n]
    exact              only 0 and powers of two are a factor
    """
    column = planned.abs().argmax(0, keepdim=True)
    factor = (upstream.gather(0, column) / planned.gather(0, column)).squeeze(0)
    factor = factor.masked_fill((upstream == 0).all(0), 0)
    expected = factor * planned
    # Each number is rounded a few times on its way.
    if not bool(((upstream - expected).abs() <= 4 * _unit(upstream) * expected.abs()).all()):
        return None
    mantissa = factor.frexp().mantissa.abs()
    if exact and not bool(((mantissa == 0.5) | (mantissa == 0)).all()):
        return None
    return factor


def _unit(values: Tensor) -> float:
    return torch.finfo(values.dtype).eps
