"""Likelihoods of candidate answers: the prompt is run once and its keys and values are shared by all of a record's candidates.

A record is computed alone, its own candidates side by side, so no other record, and no batch size, can change its numbers.
"""

import torch

from ..data.batches import IGNORE, Batch, collate
from ..data.records import Record
from ..losses.terms import token_terms
from ..model.language import next_positions
from ..model.vlm import VLM


def candidate_nll(vlm: VLM, prompt: Record, answers) -> list[tuple[float, int]]:
    """(summed nll in nats, number of tokens) of each answer after the prompt; the answer's end counts, as in training.

    equals  the nll of one plain forward of prompt + answer, within rounding
    """
    return continuation_nll(vlm, vlm.encode([prompt]), [vlm.tokenizer.answer(vlm.template, answer) for answer in answers])


@torch.no_grad()
def continuation_nll(vlm: VLM, prompt: Batch, pieces) -> list[tuple[float, int]]:
    """The same of encoded answers, each (how many of the prompt's last tokens it replaces, its ids), after one encoded prompt."""
    model, decoder, grid, ids = vlm.model, vlm.model.decoder, prompt.image_grid_thw, prompt.input_ids[0].tolist()
    positions = model.positions(prompt.input_ids, prompt.attention_mask, grid)
    hidden, past = decoder(model.embed(prompt.input_ids, prompt.pixel_values, grid), prompt.attention_mask, positions)
    K, back = len(pieces), max(merged for merged, _ in pieces)  # the prompt's last tokens that some answer changes are not shared
    kept = len(ids) - back
    tokens = [ids[kept:len(ids) - merged] + following for merged, following in pieces]
    padded = collate(tokens, [back] * K, [], vlm.tokenizer.pad, side="right").to(vlm.device, vlm.dtype)
    first = hidden[:, kept - 1:kept].expand(K, -1, -1)
    shared = [(k[:, :, :kept].expand(K, -1, -1, -1), v[:, :, :kept].expand(K, -1, -1, -1)) for k, v in past]
    mask = torch.cat((prompt.attention_mask[:, :kept].expand(K, -1), padded.attention_mask), 1)
    after = next_positions(positions[..., :kept], padded.input_ids.shape[1]).expand(*positions.shape[:-2], K, -1)
    rest = decoder(decoder.embed_tokens(padded.input_ids), mask, after, shared)[0][:, :-1]
    asked = padded.labels != IGNORE
    nll = token_terms(vlm.head(torch.cat((first, rest), 1)[asked]), padded.labels[asked]).nll.double()
    # Placed on the [K, T] grid first: a scatter-add would be summed in no fixed order on a GPU.
    sums = torch.zeros(asked.shape, dtype=nll.dtype, device=nll.device).masked_scatter(asked, nll).sum(1)
    return [(float(total), int(n)) for total, n in zip(sums, asked.sum(1), strict=True)]
