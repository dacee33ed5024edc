"""Greedy generation with a key-value cache."""

from dataclasses import dataclass
from pathlib import Path

import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, read_json
from clear_ref.data.batches import Batch

from .cache import KVCache
from .language import at_least_float32, next_positions
from .language_config import LARGEST, number, part_of


@dataclass(frozen=True)
class Generation:
    """What of generation_config.json bears on greedy text: ids that end it, and the penalty on tokens that are there already."""

    stop_ids: frozenset[int]
    repetition_penalty: float = 1.0


def generation(directory, config: dict, eos: int | None) -> Generation:
    """The Generation of a model directory: from generation_config.json, else config.json's eos_token_id, else the tokenizer's.

    What a sampler would use (temperature, top_p, top_k) has no bearing on the likeliest token.
    raises  UserError for stop ids or a penalty that are none
    """
    path = Path(directory) / "generation_config.json"
    own = read_json(path) if path.exists() else {}
    text = part_of(config, "text_config", Path(directory) / "config.json")
    stop = next(
        (
            found
            for found in (
                own.get("eos_token_id"),
                config.get("eos_token_id"),
                text.get("eos_token_id"),
                eos,
            )
            if found is not None
        ),
        [],
    )
    stop = stop if isinstance(stop, list) else [stop]
    if not all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= LARGEST for one in stop
    ):
        raise UserError(
            f"{path}: eos_token_id is {one_line(repr(stop), 60)}; expected a token id or a list of them"
        )
    return Generation(
        frozenset(stop), number({"repetition_penalty": 1.0} | own, "repetition_penalty", path)
    )


@dataclass(frozen=True)
class Prefilled:
    """Prompts that the decoder has seen: hidden [B, T, D] after the final norm, each layer's keys and values, positions.

    Likelihoods may be asked of it as often as wanted; generation goes on in it and uses it up.
    """

    hidden: torch.Tensor
    past: list[KVCache]
    positions: torch.Tensor


@torch.no_grad()
def prefill(model, batch: Batch) -> Prefilled:
    """The decoder's state behind a batch of prompts: what generation and candidate answers go on from."""
    positions = model.positions(batch.input_ids, batch.attention_mask, batch.image_grid_thw)
    embeddings = model.embed(batch.input_ids, batch.pixel_values, batch.image_grid_thw)
    hidden, past = model.decoder(embeddings, batch.attention_mask, positions)
    return Prefilled(hidden, [KVCache(*layer) for layer in past], positions)


@torch.no_grad()
def greedy(
    model,
    batch: Batch,
    max_new_tokens: int,
    how: Generation,
    pad: int,
    prefilled: Prefilled | None = None,
) -> torch.Tensor:
    """The ids generated after each prompt, [B, <= max_new_tokens].

    A sequence ends with its first stop id, which is kept; `pad` fills the rest. batch: prompts, padded on the left. Of
    equal logits the lowest id is taken. Sequences that have ended are no longer computed once they are half of those that are.
    prefilled   what `prefill` gave for this batch; None: prefill here
    """
    found = batch.input_ids.new_full((len(batch.input_ids), max_new_tokens), pad)
    if not max_new_tokens:
        return found
    prefilled, decoder = prefilled or prefill(model, batch), model.decoder
    past, hidden, positions, mask = (
        prefilled.past,
        prefilled.hidden[:, -1:],
        prefilled.positions,
        batch.attention_mask,
    )
    stop = torch.tensor(sorted(how.stop_ids), device=mask.device)
    rows, ended = (
        torch.arange(len(found), device=mask.device),
        torch.zeros(len(found), dtype=torch.bool, device=mask.device),
    )
    for n in range(max_new_tokens):
        logits = model.head(hidden[:, -1])
        if how.repetition_penalty != 1.0:
            seen = torch.cat((batch.input_ids[rows], found[rows, :n]), 1)
            logits = penalised(at_least_float32(logits), seen, how.repetition_penalty)
        token = torch.where(ended, torch.full_like(rows, pad), logits.argmax(-1))
        found[rows, n] = token
        ended = ended | torch.isin(token, stop)
        n_going = len(rows) - int(ended.sum())
        if not n_going or n + 1 == max_new_tokens:
            return found[:, : n + 1]
        if n_going <= len(rows) // 2:
            going = ~ended
            rows, token, ended, mask, positions = (
                rows[going],
                token[going],
                ended[going],
                mask[going],
                positions[..., going, :],
            )
            for layer in past:
                layer.select(going)
        positions = next_positions(positions, 1)
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
        hidden = decoder(decoder.embed_tokens(token[:, None]), mask, positions, past)[0]


def penalised(logits, seen, penalty: float):
    """Logits [B, V] with those of the tokens seen [B, T] divided by the penalty where positive, multiplied where negative.

    source  Keskar et al. 2019 (CTRL), as transformers applies it: prompt and padding count as seen
    """
    there = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(there < 0, there * penalty, there / penalty))
