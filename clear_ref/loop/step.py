"""The loss and gradient of one optimiser step.

A step is computed in parts (share.py), by all processes together. The counts of all parts are
added up over the processes before any reduction divides by them, so the losses of the parts add up
to the loss of the one big batch. A stage that is `by_batch` is the exception: each batch divides by
its own counts, see train.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from clear_ref.common import collectives, distributed
from clear_ref.data.batches import Batch, padded
from clear_ref.losses.rows import select_rows
from clear_ref.methods import Need
from clear_ref.model.vlm import VLM

from .engine import Engine, RowTotals, Watch, Work
from .plan import Plan
from .recipes import Recipe
from .share import Part, own_parts, parts_of
from .stage import Stage
from .teacher import Teacher

Batches = dict[str, Batch]  # by batch name


class StepLoss(NamedTuple):
    """What a step computed.

    value             the loss, in nats
    terms             {name: value}: the named terms of the loss
    n_answer_tokens   supervised tokens of all batches of the step
    """

    value: float
    terms: dict[str, float]
    n_answer_tokens: int


def step_loss(
    vlm: VLM,
    plan: Plan,
    stage: Stage,
    teacher: Teacher | None,
    recipe: Recipe,
    epoch: int,
    indices: Sequence[int],
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> StepLoss:
    """The loss of one optimiser step on these records; its gradients are added to .grad.

    engine  of the training; None: a new one
    watch   sees the rows and terms of the step
    """
    n_rows, work = step_work(vlm, plan, stage, recipe, epoch, indices)
    if watch is not None:
        watch.count(n_rows, stage.needs)
    value, terms = (engine or Engine(vlm, teacher)).backward(stage, work, watch)
    answers = [rows.get("answer", 0) for totals in n_rows for rows in totals.values()]
    return StepLoss(value, terms, sum(answers))


def step_work(
    vlm: VLM, plan: Plan, stage: Stage, recipe: Recipe, epoch: int, indices: Sequence[int]
) -> tuple[list[RowTotals], list[Work]]:
    """The number of rows of each batch of the step, and the parts of this process, encoded."""
    n_processes = distributed.size()
    parts = parts_of(
        indices, stage.by_batch, recipe.batch_size, recipe.records_at_once, n_processes
    )
    n_batches = parts[-1].batch + 1
    own = own_parts(parts, distributed.number(), n_processes)
    encoded = [_encode(vlm, plan, stage, epoch, part.indices) for part in own]
    if stage.by_batch and n_processes > 1:
        encoded = _padded_as_whole_batches(encoded, own, n_batches, vlm.tokenizer.pad)
    n_rows = row_totals(encoded, own, stage.needs, n_batches)
    n_sequences = [0] * n_batches
    for part in parts:
        n_sequences[part.batch] += len(part.indices)
    work = [
        Work(
            batches,
            n_sequences[part.batch],
            n_rows[part.batch],
            (epoch, part.first),
            1 / n_batches if part.counted else 0,
            part.indices,
        )
        for part, batches in zip(own, encoded, strict=True)
    ]
    return n_rows, work


def _encode(vlm: VLM, plan: Plan, stage: Stage, epoch: int, part: Sequence[int]) -> Batches:
    records = [plan.records(epoch, index) for index in part]
    return {
        name: vlm.encode([of_batch[name] for of_batch in records], stage.mask)
        for name in stage.needs
    }


def _padded_as_whole_batches(
    encoded: Sequence[Batches], parts: Sequence[Part], n_batches: int, pad: int
) -> list[Batches]:
    """The parts, each batch as wide as the whole batch that the part is a piece of."""
    names = list(encoded[0])
    widths = torch.zeros(n_batches, len(names), dtype=torch.int64)
    for part, batches in zip(parts, encoded, strict=True):
        own = torch.tensor([batches[name].input_ids.shape[1] for name in names])
        widths[part.batch] = torch.maximum(widths[part.batch], own)
    collectives.largest(widths)
    return [
        {
            name: padded(batches[name], int(width), pad)
            for name, width in zip(names, widths[part.batch], strict=True)
        }
        for part, batches in zip(parts, encoded, strict=True)
    ]


def row_totals(
    encoded: Sequence[Batches], parts: Sequence[Part], needs: Mapping[str, Need], n_batches: int
) -> list[RowTotals]:
    """For each batch of the step, the number of rows of each kind in all processes together.

    encoded, parts  of this process
    """
    columns = [(name, row_set) for name, need in needs.items() for row_set in need.rows]
    counts = torch.zeros(n_batches, len(columns), dtype=torch.int64)
    for part, batches in zip(parts, encoded, strict=True):
        if not part.counted:
            continue
        for column, (name, row_set) in enumerate(columns):
            batch = batches[name]
            rows = select_rows(batch.labels, batch.attention_mask, row_set)
            counts[part.batch, column] += len(rows.labels)
    totals: list[RowTotals] = []
    for of_batch in collectives.total(counts).tolist():
        totals.append({name: {} for name in needs})
        for (name, row_set), count in zip(columns, of_batch, strict=True):
            totals[-1][name][row_set] = count
    return totals
