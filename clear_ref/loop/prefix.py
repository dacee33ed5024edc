"""Hidden states of batches that begin alike: what they share, prompt and picture, is computed once, forward and backward.

The views of one forget record (its answer, a refusal, others' answers) differ in their answers alone. A batch of one record is
cut before its first label; batches of several are padded by different amounts, and go one by one, as do those whose labels begin
inside a picture (mask "released"): a picture is computed whole.
"""

import torch

from clear_ref.data.batches import IGNORE
from clear_ref.model.language import next_positions
from clear_ref.model.vlm import VLM


def groups(vlm: VLM, batches: dict, layers: dict) -> list[list[str]]:
    """The batches' names, those together that share a prompt and are needed at the same layer (layers: {name: layer or None})."""
    found = []
    for name, batch in batches.items():
        for names in found:
            if (
                layers[names[0]] == layers[name]
                and not vlm.model.decoder.checkpointing
                and _alike(batches[names[0]], batch, vlm.model.image_token_id)
            ):
                names.append(name)
                break
        else:
            found.append([name])
    return found


def hidden_of_all(vlm: VLM, batches: list, layer: int | None, start: int) -> list[torch.Tensor]:
    """[1, T - start, D] of each batch of a group, as VLM.hidden gives them one by one, within rounding.

    start   at most the last position of the shared prompt
    """
    if len(batches) == 1:
        return [vlm.hidden(batches[0], layer, start)]
    vlm.check_layer(layer)
    model, decoder, first = vlm.model, vlm.model.decoder, batches[0]
    n = _prompt_length(first)
    ids, mask = first.input_ids[:, :n], first.attention_mask[:, :n]
    positions = model.positions(ids, mask, first.image_grid_thw)
    begun, past = decoder(
        model.embed(ids, first.pixel_values, first.image_grid_thw),
        mask,
        positions,
        layer=layer,
        start=start,
    )
    found = []
    for batch in batches:
        own = batch.input_ids[:, n:]
        after = next_positions(positions, own.shape[1])
        following = decoder(decoder.embed_tokens(own), batch.attention_mask, after, past, layer)[0]
        found.append(torch.cat((begun, following), 1))
    return found


def _alike(one, other, image_token_id: int | None) -> bool:
    if len(one.input_ids) > 1 or len(other.input_ids) > 1:
        return False
    n = _prompt_length(one)
    if image_token_id is not None and any(
        bool((batch.input_ids[:, n:] == image_token_id).any()) for batch in (one, other)
    ):
        return False
    return (
        0 < n == _prompt_length(other)
        and torch.equal(one.input_ids[:, :n], other.input_ids[:, :n])
        and all(
            a is b or (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b))
            for a, b in (
                (one.pixel_values, other.pixel_values),
                (one.image_grid_thw, other.image_grid_thw),
            )
        )
    )


def _prompt_length(batch) -> int:
    """Positions of a batch of one record before its first label; 0 without labels."""
    answer = (batch.labels[0] != IGNORE).nonzero()
    return int(answer[0]) if len(answer) else 0
