"""Which rows of logits a loss reads, and what a method gets of one batch.

A row is a pair (sequence b, position t); the logits at t predict the token at t + 1. `select_rows`
makes this shift for training and for all methods. Elsewhere it is made by evaluation/likelihood.py,
for candidate answers, and by oracle/, which computes everything a second time.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import LabelError, ShapeError, UserError

from . import fused_head
from .formulas import accumulation_dtype
from .terms import IGNORE, TokenTerms, token_terms

ROW_SETS = ("answer", "attention", "all")
CHUNK_ROWS = 1024
ONE_PASS = (1 << 20, 1 << 25)  # logits of a row set: the fewest and the most

LogitsOfRows = Callable[[Tensor, Tensor], Tensor]  # (sequence [n], position [n]) -> logits [n, V]
RowFunction = Callable[[Tensor, Tensor], Tensor]  # (student [n, V], teacher [n, V]) -> [n]


@dataclass(frozen=True)
class FrozenHead:
    """An output layer without gradient: the student's logits are hidden @ weight.T / temperature.

    hidden  (sequence [n], position [n]) -> hidden states [n, D]
    weight  [V, D]
    """

    hidden: LogitsOfRows
    weight: Tensor
    temperature: float = 1.0


@dataclass(frozen=True)
class Rows:
    """n rows in order of (sequence, position), each with the label it predicts."""

    sequence: Tensor
    position: Tensor
    labels: Tensor


def select_rows(labels: Tensor, attention_mask: Tensor, row_set: str) -> Rows:
    """Rows of one row set.

    labels          [B, T]  the token at each position, or IGNORE
    attention_mask  [B, T]  1 (real) or 0 (padding)
    answer     (b, t) with labels[b, t+1] != IGNORE: the supervised tokens
    attention  (b, t) with attention_mask[b, t] = 1: every real token, also of the prompt and its
               image
    all        every (b, t), padding included
    In the last two the label is labels[b, t+1], and IGNORE in the last row.
    raises     LabelError if a supervised token is padding or would be predicted from padding
    """
    predicted = torch.full_like(labels, IGNORE)
    predicted[:, :-1] = labels[:, 1:]
    if row_set == "answer":
        chosen = predicted != IGNORE
        _check_answer_rows(chosen, labels, attention_mask)
    elif row_set == "attention":
        chosen = attention_mask == 1
    elif row_set == "all":
        chosen = torch.ones_like(labels, dtype=torch.bool)
    else:
        raise UserError(f"row set is {row_set!r}; expected one of {', '.join(ROW_SETS)}")
    sequence, position = chosen.nonzero(as_tuple=True)
    return Rows(sequence, position, predicted[sequence, position])


def _check_answer_rows(chosen: Tensor, labels: Tensor, attention_mask: Tensor) -> None:
    real = attention_mask == 1
    next_is_real = torch.nn.functional.pad(real[:, 1:], (0, 1))
    wrong = chosen & ~(real & next_is_real)
    if bool(wrong.any()):
        b, t = (int(i) for i in wrong.nonzero()[0])
        raise LabelError(
            f"labels[{b}, {t + 1}] is {int(labels[b, t + 1])}, but that position or the one before "
            f"is padding (attention_mask 0); expected {IGNORE}"
        )


class BatchRows:
    """What a method gets of one batch (forget, retain, ...): rows, token terms, hidden states.

    labels, attention_mask  [B, T]; mask None: nothing is padding
    student_logits, teacher_logits  (sequence [n], position [n]) -> logits [n, V], called for the
                 rows that a method reads
    hidden, teacher_hidden  [B, T, D] or None
    n_sequences, n_rows  totals of the whole optimiser step, an int and {row set: int}; None: this
                 batch's own. Reductions divide by them, so the losses of a step's micro-batches
                 add up to the loss of the one big batch.
    step_labels  labels of the whole step, for a divisor that n_rows has not; None: this batch's own
    chunk_rows   at most this many rows of logits are in memory at once; if there are more, each
                 chunk is computed again in the backward pass
    frozen_head  the layer that gives student_logits, if it gets no gradient: where planning.py has
                 stored what the loss asks of the columns, more rows than chunk_rows are computed
                 by fused_head.py
    vocabulary   V; None: the gradient is not computed with the columns
    key          (epoch, index) of the batch's first record: random choices of a loss depend on it
    """

    def __init__(
        self,
        *,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        student_logits: LogitsOfRows | None = None,
        teacher_logits: LogitsOfRows | None = None,
        n_sequences: int | None = None,
        n_rows: dict[str, int] | None = None,
        hidden: Tensor | None = None,
        teacher_hidden: Tensor | None = None,
        chunk_rows: int = CHUNK_ROWS,
        key: tuple[int, int] = (0, 0),
        step_labels: Tensor | None = None,
        frozen_head: FrozenHead | None = None,
        vocabulary: int | None = None,
    ) -> None:
        if labels.ndim != 2 or labels.dtype != torch.int64:
            raise ShapeError(
                f"labels is {list(labels.shape)} of {labels.dtype}; expected [B, T] of torch.int64"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(labels)
        if attention_mask.shape != labels.shape:
            raise ShapeError(
                f"attention_mask has shape {list(attention_mask.shape)}; "
                f"expected {list(labels.shape)} as labels"
            )
        _check_hidden(labels, hidden, teacher_hidden)
        if chunk_rows < 1:
            raise UserError(f"chunk_rows is {chunk_rows}; expected at least 1")
        self.labels = labels
        self.attention_mask = attention_mask
        self.hidden = hidden
        self.teacher_hidden = teacher_hidden
        self.key = key
        self.step_labels = labels if step_labels is None else step_labels
        self._student_logits = student_logits
        self._teacher_logits = teacher_logits
        self.chunk_rows = chunk_rows
        self._frozen_head = frozen_head
        self.vocabulary = vocabulary
        self.is_linear = False  # whether the loss that planning.py has seen is, in the columns
        self._view = ""  # how a copy's logits differ from the batch's own
        self.planned: dict[tuple[str, str], dict[str, Tensor]] = {}  # by view and row set
        self._rows: dict[str, Rows] = {}
        self._terms: dict[str, TokenTerms] = {}
        self.n_sequences = len(labels) if n_sequences is None else n_sequences
        if n_rows is None:
            n_rows = {row_set: len(self.rows(row_set).labels) for row_set in ROW_SETS}
        self.n_rows = dict(n_rows)

    def rows(self, row_set: str) -> Rows:
        """Rows of the row set in this batch."""
        if row_set not in self._rows:
            self._rows[row_set] = select_rows(self.labels, self.attention_mask, row_set)
        return self._rows[row_set]

    def terms(self, row_set: str) -> TokenTerms:
        """TokenTerms of the row set's rows, computed once."""
        if row_set not in self._terms:
            planned = self.planned.get((self._view, row_set))
            n_rows = len(self.rows(row_set).labels)
            frozen = self._frozen_head is not None
            if planned and frozen and n_rows > self.chunk_rows and torch.is_grad_enabled():
                self._terms[row_set] = self._terms_of_frozen_head(row_set, planned)
            elif planned and self.is_linear and self.takes_one_pass(n_rows):
                rows = self.rows(row_set)
                operands = (rows.sequence, rows.position, rows.labels)
                columns = self._term_columns(*operands, planned=planned)
                self._terms[row_set] = TokenTerms(*columns)
            else:
                self._terms[row_set] = TokenTerms(*self._in_chunks(self._term_columns, row_set))
        return self._terms[row_set]

    @torch.no_grad()
    def predictions(self, row_set: str) -> TokenTerms:
        """TokenTerms of the row set's rows with arg_max and log_p_squared; without gradients."""
        rows = self.rows(row_set)
        if self._frozen_head is not None and len(rows.labels) > self.chunk_rows:
            hidden = self._frozen_head.hidden(rows.sequence, rows.position)
            return fused_head.head_predictions(hidden, self._head_rows(rows))
        return TokenTerms(*self._in_chunks(partial(self._term_columns, predictions=True), row_set))

    def column(self, row_set: str, function: RowFunction) -> Tensor:
        """[n]: function(student_logits, teacher_logits) of the row set's rows, computed in chunks.

        For what TokenTerms has no column of.
        """
        teacher_logits = self._teacher_logits
        if self._student_logits is None or teacher_logits is None:
            raise UserError(
                "this batch lacks student or teacher logits, and the method needs both: "
                "pass logits, teacher_logits"
            )

        def values(sequence: Tensor, position: Tensor, labels: Tensor) -> tuple[Tensor]:
            with torch.no_grad():
                teacher = teacher_logits(sequence, position)
            return (function(self._student(sequence, position), teacher),)

        return self._in_chunks(values, row_set)[0]

    def hidden_states(self) -> Tensor:
        """The student's hidden states [B, T, D]; UserError if the batch has none."""
        if self.hidden is None:
            raise UserError(
                "this batch has no hidden states, and the method needs them: pass hidden"
            )
        return self.hidden

    def teacher_hidden_states(self) -> Tensor:
        """The teacher's hidden states [B, T, D]; UserError if the batch has none."""
        if self.teacher_hidden is None:
            raise UserError(
                "this batch has no hidden states of a teacher, and the method needs them: "
                "pass teacher_hidden"
            )
        return self.teacher_hidden

    def at_temperature(self, temperature: float) -> "BatchRows":
        """The same batch with student and teacher logits divided by the temperature."""
        changed = copy.copy(self)
        changed._terms = {}
        changed._view = f"{self._view}, temperature {temperature!r}"
        head = self._frozen_head
        if head is not None:
            changed._frozen_head = replace(head, temperature=head.temperature * temperature)
        changed._student_logits = _divided(self._student_logits, temperature)
        changed._teacher_logits = _divided(self._teacher_logits, temperature)
        return changed

    def with_lowered_labels(
        self, lowering: float, source: "BatchRows | None" = None, ignored_too: bool = False
    ) -> "BatchRows":
        """The same batch with a teacher whose logit at each row's label is lower by `lowering`.

        lowering     inf: the teacher gives the label no probability
        source       the student of this batch is the teacher, as a constant; None: the teacher is
        ignored_too  a row without a label lowers entry V + IGNORE, as an index of IGNORE would.
                     False, or no such entry: it lowers nothing
        """
        changed = copy.copy(self)
        changed._terms = {}
        changed._view = f"{self._view}, lowered by {lowering!r}"
        logits = self._teacher_logits if source is None else source._student
        changed._teacher_logits = _lowered(logits, self.labels, lowering, ignored_too)
        return changed

    def takes_one_pass(self, n_rows: int) -> bool:
        """True if the gradient of n rows is computed with their columns, for a planned loss.

        With fewer logits the planning costs more than it saves; the gradient of more rows would be
        too large to be kept until the backward pass.
        """
        if self._student_logits is None or self.vocabulary is None or n_rows > self.chunk_rows:
            return False
        return ONE_PASS[0] <= n_rows * self.vocabulary <= ONE_PASS[1]

    @property
    def has_frozen_head(self) -> bool:
        """True if the layer that gives the student's logits gets no gradient."""
        return self._frozen_head is not None

    def _terms_of_frozen_head(self, row_set: str, planned: dict[str, Tensor]) -> TokenTerms:
        assert self._frozen_head is not None  # planning.py stores nothing otherwise
        rows = self.rows(row_set)
        hidden = self._frozen_head.hidden(rows.sequence, rows.position)
        return fused_head.head_terms(hidden, self._head_rows(rows), planned)

    def _head_rows(self, rows: Rows) -> fused_head.HeadRows:
        assert self._frozen_head is not None
        teacher_logits = self._teacher_logits

        @torch.no_grad()
        def teacher(chunk: slice) -> Tensor:
            assert teacher_logits is not None
            return teacher_logits(rows.sequence[chunk], rows.position[chunk])

        return fused_head.HeadRows(
            self._frozen_head.weight,
            rows.labels,
            None if teacher_logits is None else teacher,
            self._frozen_head.temperature,
            min(self.chunk_rows, fused_head.CHUNK_ROWS),
        )

    def _in_chunks(self, compute: Callable[[Tensor, Tensor, Tensor], tuple], row_set: str) -> tuple:
        """compute(sequence, position, labels) of the row set: a tuple of columns [n] or None."""
        rows = self.rows(row_set)
        if len(rows.labels) <= self.chunk_rows:
            return compute(rows.sequence, rows.position, rows.labels)
        results = []
        for start in range(0, len(rows.labels), self.chunk_rows):
            chunk = slice(start, start + self.chunk_rows)
            # Nothing in a chunk is random, so no random state has to be restored when it is
            # computed again.
            results.append(
                checkpoint(
                    compute,
                    rows.sequence[chunk],
                    rows.position[chunk],
                    rows.labels[chunk],
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            )
        columns = zip(*results, strict=True)
        return tuple(None if parts[0] is None else torch.cat(parts) for parts in columns)

    def _student(self, sequence: Tensor, position: Tensor) -> Tensor:
        if self._student_logits is None:
            raise UserError(
                "this batch has no student logits, and the method needs them: pass logits"
            )
        return self._student_logits(sequence, position)

    def _term_columns(
        self,
        sequence: Tensor,
        position: Tensor,
        labels: Tensor,
        predictions: bool = False,
        planned: Mapping[str, Tensor] | None = None,
    ) -> tuple:
        teacher = None
        if self._teacher_logits is not None:
            with torch.no_grad():
                teacher = self._teacher_logits(sequence, position)
        student = self._student(sequence, position)
        terms = token_terms(student, labels, teacher, predictions=predictions, planned=planned)
        return tuple(getattr(terms, column.name) for column in fields(TokenTerms))


def _check_hidden(labels: Tensor, hidden: Tensor | None, teacher_hidden: Tensor | None) -> None:
    for name, tensor in (("hidden", hidden), ("teacher_hidden", teacher_hidden)):
        if tensor is not None and (tensor.ndim != 3 or tensor.shape[:2] != labels.shape):
            raise ShapeError(
                f"{name} has shape {list(tensor.shape)}; expected {[*labels.shape, 'D']}"
            )
    if hidden is None or teacher_hidden is None:
        return
    if hidden.shape != teacher_hidden.shape:
        raise ShapeError(
            f"teacher_hidden has shape {list(teacher_hidden.shape)}; "
            f"expected {list(hidden.shape)} as hidden"
        )


def _lowered(
    logits: LogitsOfRows | None, labels: Tensor, lowering: float, ignored_too: bool
) -> LogitsOfRows | None:
    if logits is None:
        return None

    def lowered(sequence: Tensor, position: Tensor) -> Tensor:
        values = logits(sequence, position).detach()
        values = values.to(accumulation_dtype(values), copy=True)
        column = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)[sequence, position]
        if ignored_too:
            column = torch.where(column == IGNORE, values.shape[1] + IGNORE, column)
        row = (column >= 0).nonzero().squeeze(1)
        values[row, column[row]] -= lowering
        return values

    return lowered


def _divided(logits: LogitsOfRows | None, temperature: float) -> LogitsOfRows | None:
    if logits is None:
        return None
    return lambda sequence, position: logits(sequence, position) / temperature
