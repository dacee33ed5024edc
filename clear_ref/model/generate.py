"""Greedy generation with a key-value cache."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.batches import Batch
from ..errors import UserError
from ..files import one_line, read_json
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
    stop = next((found for found in (own.get("eos_token_id"), config.get("eos_token_id"), text.get("eos_token_id"), eos)
                 if found is not None), [])
    stop = stop if isinstance(stop, list) else [stop]
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= LARGEST for one in stop):
        raise UserError(f"{path}: eos_token_id is {one_line(repr(stop), 60)}; expected a token id or a list of them")
    return Generation(frozenset(stop), number({"repetition_penalty": 1.0} | own, "repetition_penalty", path))


@torch.no_grad()
def greedy(model, batch: Batch, max_new_tokens: int, how: Generation, pad: int) -> torch.Tensor:
    """The ids generated after each prompt, [B, <= max_new_tokens].

    A sequence ends with its first stop id, which is kept; `pad` fills the rest. batch: prompts, padded on the left. Of
    equal logits the lowest id is taken.
    """
    ids, mask, past, decoder = batch.input_ids, batch.attention_mask, None, model.decoder
    embeddings = model.embed(ids, batch.pixel_values, batch.image_grid_thw)
    positions = model.positions(ids, mask, batch.image_grid_thw)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    stop = torch.tensor(sorted(how.stop_ids), device=ids.device)
    produced = []
    for _ in range(max_new_tokens):
        hidden, past = decoder(embeddings, mask, positions, past)
        logits = model.head(hidden[:, -1])
        if how.repetition_penalty != 1.0:
            seen = torch.cat([ids, *(token[:, None] for token in produced)], 1)
            logits = penalised(at_least_float32(logits), seen, how.repetition_penalty)
        token = logits.argmax(-1)
        token = torch.where(done, torch.full_like(token, pad), token)
        produced.append(token)
        done = done | torch.isin(token, stop)
        if bool(done.all()):
            break
        embeddings, positions = decoder.embed_tokens(token[:, None]), next_positions(positions, 1)
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
    return torch.stack(produced, 1) if produced else ids[:, :0]


def penalised(logits, seen, penalty: float):
    """Logits [B, V] with those of the tokens seen [B, T] divided by the penalty where positive, multiplied where negative.

    source  Keskar et al. 2019 (CTRL), as transformers applies it: prompt and padding count as seen
    """
    there = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(there < 0, there * penalty, there / penalty))
