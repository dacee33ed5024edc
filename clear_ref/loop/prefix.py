"""Hidden states of batches with a common prefix: prompt and picture are computed once.

This holds for forward and backward. The records that are made from one forget record (its answer, a
refusal, answers of others) have the same prompt and differ in their answers. A batch of one record
is cut before its first label. Batches of several records are padded by different amounts, and are
computed one by one. So are batches whose labels begin inside a picture (mask "released"), because a
picture is computed whole.
"""

import torch
from torch import Tensor

from clear_ref.data.batches import IGNORE, Batch
from clear_ref.model.language import next_positions
from clear_ref.model.vlm import VLM


def groups(vlm: VLM, batches: dict[str, Batch], layers: dict[str, int | None]) -> list[list[str]]:
    """The names of the batches; those with a common prompt and the same layer are in one list.

    layers  {batch name: decoder layer that is read, or None: the last}
    """
    grouped: list[list[str]] = []
    # Every process must call each layer as often: whether prompts are equal depends on the records.
    for name, batch in batches.items():
        for names in grouped:
            same_layer = layers[names[0]] == layers[name]
            if (
                same_layer
                and not vlm.model.decoder.checkpointing
                and not vlm.is_shared_out
                and _same_prompt(batches[names[0]], batch, vlm.model.image_token_id)
            ):
                names.append(name)
                break
        else:
            grouped.append([name])
    return grouped


def hidden_of_all(
    vlm: VLM, batches: list[Batch], layer: int | None, start: int, n_prompt: int = 0
) -> list[Tensor]:
    """[1, T - start, D] of each batch of a group; equals VLM.hidden of each, within rounding.

    start     at most the last position of the common prompt
    n_prompt  positions of the prompt that is computed once; 0: found, and one batch is computed
              whole. Each batch of a group has the same bits with any others, or none, beside it
    """
    if len(batches) == 1 and not n_prompt:
        return [vlm.hidden(batches[0], layer, start)]
    vlm.check_layer(layer)
    model = vlm.model
    decoder = model.decoder
    first = batches[0]
    n_prompt = n_prompt or prompt_length(first)
    prompt_ids = first.input_ids[:, :n_prompt]
    prompt_mask = first.attention_mask[:, :n_prompt]
    positions = model.positions(prompt_ids, prompt_mask, first.image_grid_thw)
    embedded = model.embed(prompt_ids, first.pixel_values, first.image_grid_thw)
    prompt_hidden, cache = decoder(embedded, prompt_mask, positions, layer=layer, start=start)
    hidden = []
    for batch in batches:
        answer_ids = batch.input_ids[:, n_prompt:]
        after = next_positions(positions, answer_ids.shape[1])
        embedded = decoder.embed_tokens(answer_ids)
        answer_hidden = decoder(embedded, batch.attention_mask, after, cache, layer)[0]
        hidden.append(torch.cat((prompt_hidden, answer_hidden), 1))
    return hidden


def _same_prompt(one: Batch, other: Batch, image_token_id: int | None) -> bool:
    """True for batches of one record each with the same ids and pictures before the first label."""
    if len(one.input_ids) > 1 or len(other.input_ids) > 1:
        return False
    n_prompt = prompt_length(one)
    if n_prompt == 0 or n_prompt != prompt_length(other):
        return False
    for batch in (one, other):
        if image_token_id is not None and _has(batch.input_ids[:, n_prompt:], image_token_id):
            return False
    return (
        torch.equal(one.input_ids[:, :n_prompt], other.input_ids[:, :n_prompt])
        and _same_tensor(one.pixel_values, other.pixel_values)
        and _same_tensor(one.image_grid_thw, other.image_grid_thw)
    )


def _has(ids: Tensor, token_id: int) -> bool:
    return bool((ids == token_id).any())


def _same_tensor(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.shape == other.shape and torch.equal(one, other))


def prompt_length(batch: Batch) -> int:
    """Positions of a batch of one record before its first label; 0 without labels."""
    answer = (batch.labels[0] != IGNORE).nonzero()
    return int(answer[0]) if len(answer) else 0
