"""Greedy generation with a key-value cache."""

import torch

from ..data.batches import Batch


@torch.no_grad()
def greedy(model, batch: Batch, max_new_tokens: int, stop_ids: frozenset[int], pad: int) -> torch.Tensor:
    """The ids generated after each prompt, [B, <= max_new_tokens].

    A sequence ends with its first stop id, which is kept; `pad` fills the rest. batch: prompts, padded on the left. Of
    equal logits the lowest id is taken.
    """
    ids, mask, past = batch.input_ids, batch.attention_mask, None
    decoder, head = model.language_model.model, model.language_model.lm_head
    embeddings = model.embed(ids, batch.pixel_values)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    stop = torch.tensor(sorted(stop_ids), device=ids.device)
    produced = []
    for _ in range(max_new_tokens):
        hidden, past = decoder(embeddings, mask, past)
        token = head(hidden[:, -1]).argmax(-1)
        token = torch.where(done, torch.full_like(token, pad), token)
        produced.append(token)
        done = done | torch.isin(token, stop)
        if bool(done.all()):
            break
        embeddings = decoder.embed_tokens(token[:, None])
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
    return torch.stack(produced, 1) if produced else ids[:, :0]
