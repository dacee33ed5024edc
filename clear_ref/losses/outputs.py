"""Outputs: the raw tensors of one batch, for callers who have the logits of every position."""

from dataclasses import dataclass

from torch import Tensor

from clear_ref.common.errors import LabelError, ShapeError

from .rows import CHUNK_ROWS, BatchRows, LogitsOfRows
from .terms import IGNORE


@dataclass
class Outputs:
    """Raw tensors of one batch.

    logits          [B, T, V]  of the student; None only for a method that reads hidden states
                               alone (rmu)
    labels          [B, T]     int64, the token at each position or IGNORE (not shifted:
                               select_rows does it)
    teacher_logits  [B, T, V]
    attention_mask  [B, T]     1 real, 0 padding; None: nothing is padding
    hidden, teacher_hidden  [B, T, D]  output of the decoder layer that rmu reads
    raises          ShapeError if shapes disagree; LabelError names sequence, position and an id
                    outside [0, V)
    """

    logits: Tensor | None
    labels: Tensor
    teacher_logits: Tensor | None = None
    attention_mask: Tensor | None = None
    hidden: Tensor | None = None
    teacher_hidden: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits is None and self.hidden is None:
            raise ShapeError(
                "logits and hidden are both None; expected logits [B, T, V], or hidden [B, T, D] "
                "for rmu"
            )
        if self.labels.ndim != 2:
            raise ShapeError(f"labels has shape {list(self.labels.shape)}; expected [B, T]")
        if self.logits is not None:
            self._check_logits(self.logits)
        elif self.teacher_logits is not None:
            raise ShapeError("teacher_logits is given without logits; expected both or neither")

    def _check_logits(self, logits: Tensor) -> None:
        expected = list(self.labels.shape)
        if logits.ndim != 3 or list(logits.shape[:2]) != expected:
            raise ShapeError(
                f"logits has shape {list(logits.shape)}; expected {[*expected, 'V']} as labels"
            )
        if self.teacher_logits is not None and self.teacher_logits.shape != logits.shape:
            raise ShapeError(
                f"teacher_logits has shape {list(self.teacher_logits.shape)}; "
                f"expected {list(logits.shape)} as logits"
            )
        vocabulary = logits.shape[2]
        out_of_range = (self.labels < 0) | (self.labels >= vocabulary)
        wrong = ((self.labels != IGNORE) & out_of_range).nonzero()
        if len(wrong):
            b, t = (int(i) for i in wrong[0])
            raise LabelError(
                f"labels[{b}, {t}] is {int(self.labels[b, t])}; "
                f"expected an id in [0, {vocabulary}) or {IGNORE}"
            )

    def batch_rows(
        self,
        n_sequences: int | None = None,
        n_rows: dict[str, int] | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> BatchRows:
        """The BatchRows of this batch; the totals as in BatchRows."""
        return BatchRows(
            labels=self.labels,
            attention_mask=self.attention_mask,
            student_logits=logits_of_rows(self.logits),
            teacher_logits=logits_of_rows(self.teacher_logits),
            n_sequences=n_sequences,
            n_rows=n_rows,
            hidden=self.hidden,
            teacher_hidden=self.teacher_hidden,
            chunk_rows=chunk_rows,
        )


def logits_of_rows(logits: Tensor | None) -> LogitsOfRows | None:
    """The function (sequence, position) -> logits [n, V] of a tensor [B, T, V]; None for None."""
    if logits is None:
        return None

    def at(sequence: Tensor, position: Tensor) -> Tensor:
        return logits[sequence, position]

    return at
