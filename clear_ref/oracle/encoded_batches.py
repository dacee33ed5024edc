"""The batches of one step: encoded records, and what student and teacher compute from them.

`explain` attributes the loss of these batches to tokens, `certify` differentiates it, and `diff`
compares the batches with another implementation's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.records import Record
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.losses.outputs import Outputs
from clear_ref.model.language import at_least_float32
from clear_ref.model.vlm import VLM

from .reference.rows import ANSWER, IMAGE, KINDS, PADDING, PROMPT


@dataclass(frozen=True)
class EncodedBatch:
    """One batch of records as tensors.

    kinds  [B][T]: "image", "prompt", "answer" or "padding" for each position. They do not depend on
           which positions the labels cover
    """

    records: list[Record]
    batch: Batch
    kinds: list[list[str]]


def encode_plan(
    vlm: VLM,
    plan: UnlearnPlan,
    names: Iterable[str],
    mask: str,
    indices: Iterable[int],
    epoch: int = 0,
) -> dict[str, EncodedBatch]:
    """{batch name: EncodedBatch} of the plan's records with these indices.

    mask  what the labels cover, as in VLM.encode
    """
    planned = [plan.records(epoch, index) for index in indices]
    return {name: encode(vlm, [records[name] for records in planned], mask) for name in names}


def encode(vlm: VLM, records: list[Record], mask: str = "answer") -> EncodedBatch:
    """The EncodedBatch of these records; mask: what the labels cover, as in VLM.encode."""
    batch = vlm.encode(records, mask)
    labelled_answers = batch if mask == "answer" else vlm.encode(records, "answer")
    numbers = torch.full_like(batch.input_ids, PROMPT)
    if vlm.model.image_token_id is not None:
        numbers[batch.input_ids == vlm.model.image_token_id] = IMAGE
    numbers[labelled_answers.labels != IGNORE] = ANSWER
    numbers[batch.attention_mask != 1] = PADDING
    kinds = [[KINDS[number] for number in row] for row in numbers.tolist()]
    return EncodedBatch(records, batch, kinds)


def model_output(
    vlm: VLM, batch: Batch, layer: int | None = None, hidden: bool = False
) -> torch.Tensor:
    """What a method reads of the model, with its adapters on or off as they are.

    returns  [B, T, V] logits in float32 or wider;
             with `hidden` [B, T, D], the output of decoder layer `layer`
    """
    if hidden:
        return vlm.hidden(batch, layer)
    return at_least_float32(vlm.head(vlm.hidden(batch)))


def as_outputs(
    batch: Batch, student: torch.Tensor, teacher: torch.Tensor | None, hidden: bool
) -> Outputs:
    """The Outputs of a batch; student, teacher: from `model_output` with the same `hidden`."""
    if hidden:
        return Outputs(None, batch.labels, None, batch.attention_mask, student, teacher)
    return Outputs(student, batch.labels, teacher, batch.attention_mask)
