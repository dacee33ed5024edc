"""Greedy text generation with a KV cache."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line, read_json
from clear_ref.data.batches import Batch

from .base_model import Model
from .cache import KVCache
from .config_values import LARGEST, number, part_of
from .language import at_least_float32, next_positions


@dataclass(frozen=True)
class Generation:
    """The settings of generation_config.json that affect greedy text.

    stop_ids            token ids that end a text
    repetition_penalty  see `penalised`; 1: none
    """

    stop_ids: frozenset[int]
    repetition_penalty: float = 1.0


def generation(directory: PathName, config: dict[str, Any], eos: int | None) -> Generation:
    """The generation settings of a model directory.

    The stop ids are generation_config.json's eos_token_id, otherwise config.json's, otherwise
    `eos`, the tokenizer's. The settings of a sampler (temperature, top_p, top_k) do not change
    which token is the likeliest and are not read.
    raises  UserError if eos_token_id or repetition_penalty is invalid
    """
    path = Path(directory) / "generation_config.json"
    own = read_json(path) if path.exists() else {}
    text_config = part_of(config, "text_config", Path(directory) / "config.json")
    stop_ids: list[Any] = []
    for source in (own, config, text_config, {"eos_token_id": eos}):
        eos_token_id = source.get("eos_token_id")
        if eos_token_id is not None:
            stop_ids = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
            break
    for token in stop_ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= LARGEST:
            raise UserError(
                f"{path}: eos_token_id is {one_line(repr(stop_ids), 60)}; "
                "expected a token id or a list of them"
            )
    penalty = number({"repetition_penalty": 1.0} | own, "repetition_penalty", path)
    return Generation(frozenset(stop_ids), penalty)


@dataclass(frozen=True)
class Prefilled:
    """The decoder's state after a batch of prompts.

    hidden     [B, T, D] after the final norm
    past       each layer's keys and values
    positions  of the prompts' tokens

    Likelihoods can be computed from it any number of times. Generation appends to the cache, so
    generate last.
    """

    hidden: Tensor
    past: list[KVCache]
    positions: Tensor


@torch.no_grad()
def prefill(model: Model, batch: Batch) -> Prefilled:
    """Run the decoder over a batch of prompts.

    Generation and the likelihoods of candidate answers continue from the result.
    """
    positions = model.positions(batch.input_ids, batch.attention_mask, batch.image_grid_thw)
    embeddings = model.embed(batch.input_ids, batch.pixel_values, batch.image_grid_thw)
    hidden, past = model.decoder(embeddings, batch.attention_mask, positions)
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

    Of equal logits the lowest id is taken. Once at most half of the computed sequences have not
    ended, the others are no longer computed.
    """
    generated = batch.input_ids.new_full((len(batch.input_ids), max_new_tokens), pad)
    if not max_new_tokens:
        return generated
    if prefilled is None:
        prefilled = prefill(model, batch)
    decoder = model.decoder
    past = prefilled.past
    hidden = prefilled.hidden[:, -1:]
    positions = prefilled.positions
    mask = batch.attention_mask
    stop_ids = torch.tensor(sorted(settings.stop_ids), device=mask.device)
    rows = torch.arange(len(generated), device=mask.device)  # the rows still computed
    ended = torch.zeros(len(generated), dtype=torch.bool, device=mask.device)
    for n in range(max_new_tokens):
        logits = model.head(hidden[:, -1])
        if settings.repetition_penalty != 1.0:
            earlier = torch.cat((batch.input_ids[rows], generated[rows, :n]), 1)
            logits = penalised(at_least_float32(logits), earlier, settings.repetition_penalty)
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


def penalised(logits: Tensor, earlier: Tensor, penalty: float) -> Tensor:
    """Logits [B, V] with a lower value for every token that appeared before.

    earlier  [B, T]: a token in it has its logit divided by the penalty if positive, multiplied if
             negative
    source   Keskar et al. 2019 (CTRL), as transformers applies it: the tokens of the prompt and
             its padding count too
    """
    old = logits.gather(1, earlier)
    new = torch.where(old < 0, old * penalty, old / penalty)
    return logits.scatter(1, earlier, new)
