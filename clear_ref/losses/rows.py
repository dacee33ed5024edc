"""Which rows of logits a loss reads, and what a method sees of one batch.

A row is a pair (sequence b, position t); the logits at t predict the token at t + 1. Only this module makes that shift.
"""

import copy
from dataclasses import dataclass, fields

import torch
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import LabelError, ShapeError, UserError

from .terms import IGNORE, TokenTerms, token_terms

ROW_SETS = ("answer", "attention", "all")
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Rows:
    """n rows in order of (sequence, position), each with the label it predicts."""

    sequence: torch.Tensor
    position: torch.Tensor
    labels: torch.Tensor


def select_rows(labels, attention_mask, row_set) -> Rows:
    """Rows of one row set.

    labels, attention_mask  [B, T]; labels hold the token at each position or IGNORE, the mask 1 (real) or 0 (padding)
    answer     (b, t) with labels[b, t+1] != IGNORE: the supervised tokens
    attention  (b, t) with attention_mask[b, t] = 1: every real token, the prompt and its image included
    all        every (b, t), padding included
    In the last two the label is labels[b, t+1], and IGNORE in the last row.
    raises     LabelError when a label lies in padding or would be predicted from padding
    """
    predicted = torch.full_like(labels, IGNORE)
    predicted[:, :-1] = labels[:, 1:]
    if row_set == "answer":
        chosen = predicted != IGNORE
        real = attention_mask == 1
        stray = chosen & ~(real & torch.nn.functional.pad(real[:, 1:], (0, 1)))
        if bool(stray.any()):
            b, t = (int(i) for i in stray.nonzero()[0])
            raise LabelError(
                f"labels[{b}, {t + 1}] is {int(labels[b, t + 1])}, but that position or the one before is "
                f"padding (attention_mask 0); expected {IGNORE}"
            )
    elif row_set == "attention":
        chosen = attention_mask == 1
    elif row_set == "all":
        chosen = torch.ones_like(labels, dtype=torch.bool)
    else:
        raise UserError(f"row set is {row_set!r}; expected one of {', '.join(ROW_SETS)}")
    sequence, position = chosen.nonzero(as_tuple=True)
    return Rows(sequence, position, predicted[sequence, position])


class BatchRows:
    """What a method sees of one batch (forget, retain, ...): rows, per-token terms, hidden states, totals to divide by.

    labels, attention_mask   [B, T]; mask None: nothing is padding
    student_logits, teacher_logits  (sequence [n], position [n]) -> logits [n, V], called for the rows a method asks for
    hidden, teacher_hidden   [B, T, D] or None
    n_sequences, n_rows      totals of the whole optimiser step, an int and {row set: int}; default: this batch's own.
                             Reductions divide by them, so the losses of a step's micro-batches add up to the loss of
                             the one big batch.
    chunk_rows               at most this many rows of logits live at once; more rows are computed again in backward
    key                      (epoch, index) of the batch's first record: what random choices of a loss are keyed by
    """

    def __init__(
        self,
        *,
        labels,
        attention_mask=None,
        student_logits=None,
        teacher_logits=None,
        n_sequences=None,
        n_rows=None,
        hidden=None,
        teacher_hidden=None,
        chunk_rows=CHUNK_ROWS,
        key=(0, 0),
    ):
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
        for name, tensor in (("hidden", hidden), ("teacher_hidden", teacher_hidden)):
            if tensor is not None and (tensor.ndim != 3 or tensor.shape[:2] != labels.shape):
                raise ShapeError(
                    f"{name} has shape {list(tensor.shape)}; expected {[*labels.shape, 'D']}"
                )
        if (
            hidden is not None
            and teacher_hidden is not None
            and hidden.shape != teacher_hidden.shape
        ):
            raise ShapeError(
                f"teacher_hidden has shape {list(teacher_hidden.shape)}; "
                f"expected {list(hidden.shape)} as hidden"
            )
        if chunk_rows < 1:
            raise UserError(f"chunk_rows is {chunk_rows}; expected at least 1")
        self.labels, self.attention_mask = labels, attention_mask
        self.hidden, self.teacher_hidden = hidden, teacher_hidden
        self._student_logits, self._teacher_logits, self._chunk_rows = (
            student_logits,
            teacher_logits,
            chunk_rows,
        )
        self._rows, self._terms, self.key = {}, {}, key
        self.n_sequences = len(labels) if n_sequences is None else n_sequences
        self.n_rows = (
            {name: len(self.rows(name).labels) for name in ROW_SETS}
            if n_rows is None
            else dict(n_rows)
        )

    def rows(self, row_set) -> Rows:
        """Rows of the row set in this batch."""
        if row_set not in self._rows:
            self._rows[row_set] = select_rows(self.labels, self.attention_mask, row_set)
        return self._rows[row_set]

    def terms(self, row_set) -> TokenTerms:
        """TokenTerms of the row set's rows, computed once."""
        if row_set not in self._terms:
            if self._student_logits is None:
                raise UserError(
                    "this batch has no student logits, and the method needs them: pass logits"
                )
            self._terms[row_set] = TokenTerms(*self._in_chunks(self._columns, row_set))
        return self._terms[row_set]

    def column(self, row_set, function) -> torch.Tensor:
        """[n]: function(student_logits [n, V], teacher_logits [n, V]) of the row set's rows, computed in chunks; for what no
        column of the table holds."""
        if self._student_logits is None or self._teacher_logits is None:
            raise UserError(
                "this batch lacks student or teacher logits, and the method needs both: pass logits, teacher_logits"
            )
        return self._in_chunks(
            lambda sequence, position, labels: (
                function(
                    self._student_logits(sequence, position), self._teacher(sequence, position)
                ),
            ),
            row_set,
        )[0]

    def at_temperature(self, temperature) -> "BatchRows":
        """The same batch with student and teacher logits divided by the temperature."""

        def warmer(logits):
            return (
                None
                if logits is None
                else lambda sequence, position: logits(sequence, position) / temperature
            )

        changed = copy.copy(self)
        changed._terms = {}
        changed._student_logits, changed._teacher_logits = (
            warmer(self._student_logits),
            warmer(self._teacher_logits),
        )
        return changed

    def _in_chunks(self, compute, row_set):
        rows = self.rows(row_set)
        whole = (rows.sequence, rows.position, rows.labels)
        if len(rows.labels) <= self._chunk_rows:
            return compute(*whole)
        # Nothing in a chunk is random, so there is no random state to put back when it is computed again.
        chunks = [
            checkpoint(compute, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in zip(*(column.split(self._chunk_rows) for column in whole))
        ]
        return tuple(None if column[0] is None else torch.cat(column) for column in zip(*chunks))

    def _teacher(self, sequence, position):
        if self._teacher_logits is None:
            return None
        with torch.no_grad():
            return self._teacher_logits(sequence, position)

    def _columns(self, sequence, position, labels):
        teacher = self._teacher(sequence, position)
        terms = token_terms(self._student_logits(sequence, position), labels, teacher)
        return tuple(getattr(terms, column.name) for column in fields(TokenTerms))


@dataclass
class Outputs:
    """Raw tensors of one batch, for callers who have the logits of every position in memory.

    logits          [B, T, V]  of the student; None only where a method reads hidden states alone (rmu)
    labels          [B, T]     int64, the token at each position or IGNORE (no shift: it is made inside)
    teacher_logits  [B, T, V]
    attention_mask  [B, T]     1 real, 0 padding; None: nothing is padding
    hidden, teacher_hidden  [B, T, D]  output of the decoder layer that rmu asks for
    raises          ShapeError on any disagreement; LabelError names sequence, position and id outside [0, V)
    """

    logits: torch.Tensor | None
    labels: torch.Tensor
    teacher_logits: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    teacher_hidden: torch.Tensor | None = None

    def __post_init__(self):
        if self.logits is None and self.hidden is None:
            raise ShapeError(
                "logits and hidden are both None; expected logits [B, T, V], or hidden [B, T, D] for rmu"
            )
        if self.labels.ndim != 2:
            raise ShapeError(f"labels has shape {list(self.labels.shape)}; expected [B, T]")
        if self.logits is None:
            if self.teacher_logits is not None:
                raise ShapeError("teacher_logits is given without logits; expected both or neither")
            return
        expected = list(self.labels.shape)
        if self.logits.ndim != 3 or list(self.logits.shape[:2]) != expected:
            raise ShapeError(
                f"logits has shape {list(self.logits.shape)}; expected {[*expected, 'V']} as labels"
            )
        if self.teacher_logits is not None and self.teacher_logits.shape != self.logits.shape:
            raise ShapeError(
                f"teacher_logits has shape {list(self.teacher_logits.shape)}; "
                f"expected {list(self.logits.shape)} as logits"
            )
        vocabulary = self.logits.shape[2]
        wrong = (
            (self.labels != IGNORE) & ((self.labels < 0) | (self.labels >= vocabulary))
        ).nonzero()
        if len(wrong):
            b, t = (int(i) for i in wrong[0])
            raise LabelError(
                f"labels[{b}, {t}] is {int(self.labels[b, t])}; "
                f"expected an id in [0, {vocabulary}) or {IGNORE}"
            )

    def batch_rows(self, n_sequences=None, n_rows=None, chunk_rows=CHUNK_ROWS) -> BatchRows:
        """The BatchRows of this batch; the totals as in BatchRows."""
        return BatchRows(
            labels=self.labels,
            attention_mask=self.attention_mask,
            student_logits=_indexing(self.logits),
            teacher_logits=_indexing(self.teacher_logits),
            n_sequences=n_sequences,
            n_rows=n_rows,
            hidden=self.hidden,
            teacher_hidden=self.teacher_hidden,
            chunk_rows=chunk_rows,
        )


def _indexing(logits):
    return None if logits is None else lambda sequence, position: logits[sequence, position]
