"""What a loss gets of each batch of a part: logits of student and teacher by row, hidden states."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from clear_ref.common.errors import ShapeError
from clear_ref.data.batches import Batch
from clear_ref.losses.rows import BatchRows, FrozenHead, select_rows
from clear_ref.methods import Need
from clear_ref.model.lora import Linear
from clear_ref.model.vlm import VLM

from . import prefix
from .stage import Stage
from .teacher import Teacher

Batches = dict[str, Batch]  # by batch name
RowLogits = Callable[[Tensor, Tensor], Tensor]  # (sequence [n], position [n]) -> logits [n, V]
Key = tuple[int, int]  # (epoch, index of the first record)


class Head(Protocol):
    """A model with an output layer: VLM or Teacher."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""


def all_batch_rows(
    vlm: VLM,
    batches: Batches,
    stage: Stage,
    teacher: Teacher | None,
    n_sequences: int | None,
    n_rows: Mapping[str, dict[str, int]],
    key: Key = (0, 0),
    watched: dict[str, Tensor] | None = None,
) -> dict[str, BatchRows]:
    """Every batch as the loss gets it: logits of student and teacher by row, or hidden states.

    watched  gets the student's hidden states of each batch, as the loss reads them
    """
    layers = {
        name: stage.hidden_layer if need.hidden else None for name, need in stage.needs.items()
    }
    rows_of_batch = {}
    for names in prefix.groups(vlm, batches, layers):
        start = min(first_row(batches[name], stage.needs[name]) for name in names)
        layer = layers[names[0]]
        teacher_hidden = _teacher_hidden(teacher, batches, stage, names, layer, start)
        group = [batches[name] for name in names]
        student_hidden = prefix.hidden_of_all(vlm, group, layer, start)
        for name, hidden in zip(names, student_hidden, strict=True):
            batch = batches[name]
            frozen = teacher_hidden.get(name)
            if watched is not None:
                # A view: hooks on the hidden states themselves (FSDP2's) are for backward alone.
                hidden = watched[name] = hidden.view_as(hidden)
            reads_hidden = stage.needs[name].hidden
            rows_of_batch[name] = BatchRows(
                labels=batch.labels,
                attention_mask=batch.attention_mask,
                student_logits=None if reads_hidden else rows_of(vlm, hidden, start),
                teacher_logits=None if reads_hidden else rows_of(teacher, frozen, start),
                n_sequences=n_sequences,
                n_rows=n_rows.get(name),
                hidden=hidden if reads_hidden else None,
                teacher_hidden=frozen if reads_hidden else None,
                key=key,
                frozen_head=None if reads_hidden else frozen_head(vlm, hidden, start),
                vocabulary=None if reads_hidden else len(vlm.model.output_layer().weight),
            )
    return {name: rows_of_batch[name] for name in stage.needs}


def _teacher_hidden(
    teacher: Teacher | None,
    batches: Batches,
    stage: Stage,
    names: Sequence[str],
    layer: int | None,
    start: int,
) -> dict[str, Tensor]:
    """{batch name: the teacher's hidden states} of the batches that need them."""
    compared = [name for name in names if stage.needs[name].teacher]
    if teacher is None or not compared:
        return {}
    hidden = teacher.hidden_of_all([batches[name] for name in compared], layer, start)
    return dict(zip(compared, hidden, strict=True))


def rows_of(model: Head | None, hidden: Tensor | None, start: int) -> RowLogits | None:
    """A function (sequence [n], position [n]) -> logits [n, V]; None without hidden states.

    hidden  [B, T - start, D], of the positions from `start` on
    """
    if model is None or hidden is None:
        return None

    hidden_rows = hidden_rows_of(hidden, start)
    return lambda sequence, position: model.head(hidden_rows(sequence, position))


def hidden_rows_of(hidden: Tensor, start: int) -> RowLogits:
    """A function (sequence [n], position [n]) -> hidden states [n, D]; arguments as in rows_of."""

    def rows(sequence: Tensor, position: Tensor) -> Tensor:
        if bool((position < start).any()):
            raise ShapeError(
                f"row {int(position.min())} of the logits is read, and those from {start} on are "
                "computed; expected a Need that names every row set which the loss reads"
            )
        return hidden[sequence, position - start]

    return rows


def frozen_head(vlm: VLM, hidden: Tensor, start: int) -> FrozenHead | None:
    """The student's output layer, if it is a product with a weight that is not trained.

    It is whole in every process, also where the frozen decoder layers are shared out.
    """
    layer = vlm.model.output_layer()
    if layer.weight.requires_grad:
        return None
    if isinstance(layer, Linear) and (layer.adapter is not None or layer.bias is not None):
        return None
    return FrozenHead(hidden_rows_of(hidden, start), layer.weight)


def first_row(batch: Batch, need: Need) -> int:
    """The first position of a batch that is read: of hidden states 0, of logits the first row."""
    if need.hidden:
        return 0
    positions = torch.cat(
        [select_rows(batch.labels, batch.attention_mask, row_set).position for row_set in need.rows]
    )
    return int(positions.min()) if len(positions) else 0
