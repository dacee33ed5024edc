"""One step's batches as student and teacher see them: what `explain` takes apart and `certify` differentiates."""

from dataclasses import dataclass

import torch

from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.records import Record
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.losses.outputs import Outputs
from clear_ref.model.language import at_least_float32
from clear_ref.model.vlm import VLM

from .reference.arithmetic import ANSWER, IMAGE, KINDS, PADDING, PROMPT


@dataclass(frozen=True)
class View:
    """One batch of records as it is encoded; kinds [B][T]: image, prompt, answer or padding, whatever the labels cover."""

    records: list[Record]
    batch: Batch
    kinds: list[list[str]]


def views(
    vlm: VLM, plan: UnlearnPlan, needs: dict, mask: str, indices, epoch: int = 0
) -> dict[str, View]:
    """{batch name: View} of the plan's records with these indices; mask: what the labels cover (VLM.encode)."""
    found = [plan.records(epoch, index) for index in indices]
    return {name: view(vlm, [records[name] for records in found], mask) for name in needs}


def view(vlm: VLM, records: list[Record], mask: str = "answer") -> View:
    """The View of these records."""
    batch, answers = vlm.encode(records, mask), vlm.encode(records).labels != IGNORE
    image = batch.input_ids == (
        -1 if vlm.model.image_token_id is None else vlm.model.image_token_id
    )
    real = batch.attention_mask == 1
    number = torch.where(image, IMAGE, PROMPT)
    number[answers] = ANSWER
    number[~real] = PADDING
    return View(records, batch, [[KINDS[kind] for kind in row] for row in number.tolist()])


def look(vlm: VLM, batch: Batch, layer: int | None = None, hidden: bool = False):
    """[B, T, V] logits of the model as it stands, in float32 or wider; with `hidden` [B, T, D], the output of decoder layer
    `layer`."""
    states = vlm.hidden(batch, layer if hidden else None)
    return states if hidden else at_least_float32(vlm.head(states))


def outputs(batch: Batch, student, teacher, hidden: bool) -> Outputs:
    """What a method reads of a batch, from what `look` returned of student and teacher."""
    if hidden:
        return Outputs(None, batch.labels, None, batch.attention_mask, student, teacher)
    return Outputs(student, batch.labels, teacher, batch.attention_mask)
