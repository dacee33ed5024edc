"""Greedy text generation with a KV cache."""

from dataclasses import dataclass

import torch
from torch import Tensor

from clear_ref.common.errors import UserError
from clear_ref.data.batches import Batch

from .base_model import Model
from .cache import KVCache
from .generation_config import Generation
from .language import next_positions
from .logit_rules import Step


@dataclass(frozen=True)
class Prefilled:
    """The decoder's state after a batch of prompts.

    hidden     [B, T, D] after the final norm; [B, 1, D] of the last position alone where nothing
               else was asked for
    past       each layer's keys and values
    positions  of the prompts' tokens

    Likelihoods can be computed from it any number of times. Generation appends to the cache, so
    generate last.
    """

    hidden: Tensor
    past: list[KVCache]
    positions: Tensor


@torch.no_grad()
def prefill(model: Model, batch: Batch, last_only: bool = False) -> Prefilled:
    """Run the decoder over a batch of prompts.

    Generation and the likelihoods of candidate answers continue from the result.

    last_only  compute the last layer's output at the last position alone, the one that generation
               reads; the keys and values are those of all positions
    """
    start = batch.input_ids.shape[1] - 1 if last_only else 0
    positions = model.positions(batch.input_ids, batch.attention_mask, batch.image_grid_thw)
    embeddings = model.embed(batch.input_ids, batch.pixel_values, batch.image_grid_thw)
    hidden, past = model.decoder(embeddings, batch.attention_mask, positions, start=start)
    return Prefilled(hidden, [KVCache(keys, values) for keys, values in past], positions)


@torch.no_grad()
def greedy(
    model: Model,
    batch: Batch,
    max_new_tokens: int,
    settings: Generation,
    pad: int,
    prefilled: Prefilled | None = None,
) -> Tensor:
    """The ids generated after each prompt, [B, <= max_new_tokens].

    batch      prompts, padded on the left
    pad        id that fills a row after its first stop id; the stop id is kept
    prefilled  the result of `prefill` for this batch; None: computed here
    raises     UserError for a text longer than the config's `longest_text`

    Logits are compared in float32, as transformers does. Of equal logits the lowest id is taken.
    Once at most half of the computed sequences have not ended, the others are no longer computed.
    """
    generated = batch.input_ids.new_full((len(batch.input_ids), max_new_tokens), pad)
    if not max_new_tokens:
        return generated
    if prefilled is None:
        prefilled = prefill(model, batch, last_only=True)
    decoder = model.decoder
    check_length(batch.input_ids.shape[1] + max_new_tokens, decoder.config.longest_text)
    past = prefilled.past
    hidden = prefilled.hidden[:, -1:]
    positions = prefilled.positions
    mask = batch.attention_mask
    padding = (mask != 0).int().argmax(1)  # the position of each row's first token
    stop_ids = torch.tensor(sorted(settings.stop_ids), device=mask.device)
    rows = torch.arange(len(generated), device=mask.device)  # the rows still computed
    ended = torch.zeros(len(generated), dtype=torch.bool, device=mask.device)
    for n in range(max_new_tokens):
        logits = model.head(hidden[:, -1]).float()
        if settings.rules:
            ids = torch.cat((batch.input_ids[rows], generated[rows, :n]), 1)
            step = Step(ids, batch.input_ids.shape[1], padding[rows], n + 1 == max_new_tokens)
            for rule in settings.rules:
                logits = rule(step, logits)
        token = torch.where(ended, torch.full_like(rows, pad), logits.argmax(-1))
        generated[rows, n] = token
        ended = ended | torch.isin(token, stop_ids)
        n_unfinished = len(rows) - int(ended.sum())
        if not n_unfinished or n + 1 == max_new_tokens:
            return generated[:, : n + 1]
        if n_unfinished <= len(rows) // 2:
            unfinished = ~ended
            rows = rows[unfinished]
            token = token[unfinished]
            ended = ended[unfinished]
            mask = mask[unfinished]
            positions = positions[..., unfinished, :]
            for layer in past:
                layer.select(unfinished)
        positions = next_positions(positions, 1)
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
        hidden = decoder(decoder.embed_tokens(token[:, None]), mask, positions, past)[0]
    return generated


def check_length(n_tokens: int, longest: int | None) -> None:
    """UserError if generation would be longer than the sliding_window of a Llama config.

    The reference's forward pass does not read that key, but its cache in generation forgets the
    tokens before the window.
    """
    if longest is not None and n_tokens > longest:
        raise UserError(
            f"config.json: sliding_window is {longest}, and prompt and new text have up to "
            f"{n_tokens} tokens; expected no more than the window. Llama reads the key in "
            "generation only, remove it unless the model was trained with it"
        )


def ended_texts(ids: Tensor, stop_ids: frozenset[int]) -> list[list[int]]:
    """Each row of `greedy`'s result up to its first stop id, which is kept."""
    rows: list[list[int]] = ids.tolist()
    for row in rows:
        end = next((n + 1 for n, token in enumerate(row) if token in stop_ids), len(row))
        del row[end:]
    return rows
