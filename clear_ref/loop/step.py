"""The loss and gradient of one optimiser step.

A step is computed in parts of `records_at_once` records. Each reduction divides by the counts of
the whole step, so the losses of the parts add up to the loss of the one big batch. A stage that is
`by_batch` is the exception: see train.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clear_ref.common.errors import ShapeError
from clear_ref.data.batches import Batch
from clear_ref.losses.rows import BatchRows, select_rows
from clear_ref.methods import Need
from clear_ref.model.vlm import VLM

from . import prefix
from .plan import Plan
from .recipes import Recipe
from .stage import Stage
from .teacher import Teacher

Batches = dict[str, Batch]  # by batch name
RowTotals = dict[str, dict[str, int]]  # {batch name: {row set: number of rows in the step}}
RowLogits = Callable[[Tensor, Tensor], Tensor]  # (sequence [n], position [n]) -> logits [n, V]
Key = tuple[int, int]  # (epoch, index of the first record)


class StepLoss(NamedTuple):
    """What a step computed.

    value             the loss, in nats
    terms             {name: value}: the named terms of the loss
    n_answer_tokens   supervised tokens of all batches of the step
    """

    value: float
    terms: dict[str, float]
    n_answer_tokens: int


class Head(Protocol):
    """A model with an output layer: VLM or Teacher."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""


def step_loss(
    vlm: VLM,
    plan: Plan,
    stage: Stage,
    teacher: Teacher | None,
    recipe: Recipe,
    epoch: int,
    indices: Sequence[int],
) -> StepLoss:
    """The loss of one optimiser step on these records; its gradients are added to .grad."""
    at_once = recipe.batch_size if stage.by_batch else recipe.records_at_once
    parts = [indices[i : i + at_once] for i in range(0, len(indices), at_once)]
    encoded = [_encode(vlm, plan, stage, epoch, part) for part in parts]
    n_rows = row_totals(encoded, stage.needs)
    n_answer_tokens = sum(counts.get("answer", 0) for counts in n_rows.values())
    keys = [(epoch, part[0]) for part in parts]
    value, terms = backward(vlm, encoded, stage, teacher, len(indices), n_rows, keys)
    return StepLoss(value, terms, n_answer_tokens)


def _encode(vlm: VLM, plan: Plan, stage: Stage, epoch: int, part: Sequence[int]) -> Batches:
    records = [plan.records(epoch, index) for index in part]
    return {
        name: vlm.encode([of_batch[name] for of_batch in records], stage.mask)
        for name in stage.needs
    }


def row_totals(encoded: Sequence[Batches], needs: Mapping[str, Need]) -> RowTotals:
    """The number of rows in all parts of the step, for each batch and row set that is needed."""
    totals: RowTotals = {}
    for name, need in needs.items():
        totals[name] = {}
        for row_set in need.rows:
            n_rows = 0
            for batches in encoded:
                batch = batches[name]
                n_rows += len(select_rows(batch.labels, batch.attention_mask, row_set).labels)
            totals[name][row_set] = n_rows
    return totals


def backward(
    vlm: VLM,
    encoded: Sequence[Batches],
    stage: Stage,
    teacher: Teacher | None,
    n_sequences: int,
    n_rows: RowTotals,
    keys: Sequence[Key],
) -> tuple[float, dict[str, float]]:
    """The loss and named terms of a step; backward of each of its parts adds to .grad.

    n_sequences, n_rows  totals of the whole step, by which reductions divide. A stage that is
                         by_batch divides by each part's own totals
    keys                 for each part, the key of the random choices of a loss
    """
    value = 0.0
    terms: dict[str, float] = {}
    share = 1 / len(encoded) if stage.by_batch else 1
    for key, batches in zip(keys, encoded, strict=True):
        if stage.by_batch:
            batch_rows = all_batch_rows(vlm, batches, stage, teacher, None, {}, key)
        else:
            batch_rows = all_batch_rows(vlm, batches, stage, teacher, n_sequences, n_rows, key)
        loss = stage.loss(batch_rows)
        (share * loss.value).backward()
        value += share * float(loss.value.detach())
        for name, term in loss.terms.items():
            terms[name] = terms.get(name, 0.0) + share * float(term.detach())
    return value, terms


def all_batch_rows(
    vlm: VLM,
    batches: Batches,
    stage: Stage,
    teacher: Teacher | None,
    n_sequences: int | None,
    n_rows: Mapping[str, dict[str, int]],
    key: Key = (0, 0),
) -> dict[str, BatchRows]:
    """Every batch as the loss gets it: logits of student and teacher by row, or hidden states."""
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

    def logits(sequence: Tensor, position: Tensor) -> Tensor:
        if bool((position < start).any()):
            raise ShapeError(
                f"row {int(position.min())} of the logits is read, and those from {start} on are "
                "computed; expected a Need that names every row set which the loss reads"
            )
        return model.head(hidden[sequence, position - start])

    return logits


def first_row(batch: Batch, need: Need) -> int:
    """The first position of a batch that is read: of hidden states 0, of logits the first row."""
    if need.hidden:
        return 0
    positions = torch.cat(
        [select_rows(batch.labels, batch.attention_mask, row_set).position for row_set in need.rows]
    )
    return int(positions.min()) if len(positions) else 0
