"""Likelihoods of candidate answers: the prompt is run once and its keys and values are shared by all of a record's candidates.

A record is computed alone, its own candidates side by side, so no other record, and no batch size, can change its numbers.
"""

import torch

from ..data.batches import IGNORE, Batch, collate
from ..data.records import Record
from ..losses.terms import token_terms
from ..model.vlm import VLM


def candidate_nll(vlm: VLM, prompt: Record, answers) -> list[tuple[float, int]]:
    """(summed nll in nats, number of tokens) of each answer after the prompt; the answer's end counts, as in training.

    equals  the nll of one plain forward of prompt + answer, within rounding
    """
    return continuation_nll(vlm, vlm.encode([prompt]), [vlm.tokenizer.answer(vlm.template, answer) for answer in answers])


@torch.no_grad()
def continuation_nll(vlm: VLM, prompt: Batch, tokens) -> list[tuple[float, int]]:
    """The same of lists of ids after one encoded prompt."""
    decoder = vlm.model.language_model.model
    hidden, past = decoder(vlm.model.embed(prompt.input_ids, prompt.pixel_values), prompt.attention_mask)
    K = len(tokens)
    padded = collate(tokens, [0] * K, [], vlm.tokenizer.pad, side="right").to(vlm.device, vlm.dtype)
    first = hidden[:, -1:].expand(K, -1, -1)
    shared = [(k.expand(K, -1, -1, -1), v.expand(K, -1, -1, -1)) for k, v in past]
    mask = torch.cat((prompt.attention_mask.expand(K, -1), padded.attention_mask), 1)
    rest = decoder(decoder.embed_tokens(padded.input_ids), mask, shared)[0][:, :-1]
    asked = padded.labels != IGNORE
    nll = token_terms(vlm.head(torch.cat((first, rest), 1)[asked]), padded.labels[asked]).nll.double()
    # Placed on the [K, T] grid first: a scatter-add would be summed in no fixed order on a GPU.
    sums = torch.zeros(asked.shape, dtype=nll.dtype, device=nll.device).masked_scatter(asked, nll).sum(1)
    return [(float(total), len(ids)) for total, ids in zip(sums, tokens, strict=True)]
