"""Likelihoods of candidate answers: prompts are run once, and a record's candidates stand behind its prompt in one row.

In that row each candidate looks at the prompt and at itself alone, so a record costs its prompt's and its answers' tokens once.
`plain_nll` is the slow way that needs no argument: one forward of prompt and answer for every candidate.
"""

import math
from dataclasses import dataclass

import torch

from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.records import Record
from clear_ref.losses.terms import token_terms
from clear_ref.model.generate import Prefilled
from clear_ref.model.language import next_positions
from clear_ref.model.vlm import VLM

TOGETHER = 512  # tokens of candidates in one batch: enough to keep matrix products busy, and few enough to fit beside the weights
Sums = list[tuple[float, int]]  # of each candidate: summed nll in nats, number of tokens


def candidate_nll(
    vlm: VLM, prompts: Batch, answers: list[list[str]], prefilled: Prefilled | None = None
) -> list[Sums]:
    """For each prompt (summed nll in nats, number of tokens) of each of its answers; an answer's end counts, as in training.

    prompts  what vlm.encode made of records without answers
    prefilled  result of vlm.prefill for these prompts; None: prefilled here
    equals   plain_nll within rounding, however many prompts are computed together
    """
    pieces = [
        [vlm.tokenizer.answer(vlm.template, answer) for answer in of_one] for of_one in answers
    ]
    return continuation_nll(vlm, prompts, prefilled or vlm.prefill(prompts), pieces)


def plain_nll(vlm: VLM, prompt: Record, answers: list[str]) -> Sums:
    """The same of one prompt, by one forward of prompt and answer for each candidate; every position is computed."""
    every = [answer_nll(vlm, Record(prompt.question, answer, prompt.image)) for answer in answers]
    return [(math.fsum(nll), len(nll)) for nll in every]


@torch.no_grad()
def answer_nll(vlm: VLM, record: Record) -> list[float]:
    """The nll, in nats, of each token of the record's answer and its end, as in training: one forward of prompt and answer."""
    batch = vlm.encode([record])
    asked = batch.labels[:, 1:] != IGNORE
    logits = vlm.head(vlm.hidden(batch)[:, :-1][asked])
    return token_terms(logits, batch.labels[:, 1:][asked], entropy=False).nll.double().tolist()


@torch.no_grad()
def continuation_nll(vlm: VLM, prompts: Batch, prefilled: Prefilled, pieces) -> list[Sums]:
    """As candidate_nll, of encoded answers: for each prompt [(how many of the prompt's last tokens it replaces, its ids)]."""
    found, T = [], prompts.input_ids.shape[1]
    back = [
        max(merged for merged, _ in of_one) for of_one in pieces
    ]  # last tokens that some answer changes: not shared
    candidates = [
        [ids[T - n : T - merged] + own for merged, own in of_one]
        for ids, n, of_one in zip(prompts.input_ids.tolist(), back, pieces, strict=True)
    ]
    for rows in together([sum(map(len, of_one)) for of_one in candidates], back):
        kept = T - back[rows.start]
        past = [
            (layer.keys[rows, :, :kept], layer.values[rows, :, :kept]) for layer in prefilled.past
        ]
        found += _nll_behind(
            vlm,
            prefilled.hidden[rows, kept - 1 : kept],
            past,
            prefilled.positions[..., rows, :kept],
            prompts.attention_mask[rows, :kept],
            candidates[rows],
            T - kept,
        )
    return found


def together(widths: list[int], back: list[int], most: int = TOGETHER) -> list[slice]:
    """Which neighbours are computed in one batch, by how many tokens the candidates of each are: as many as, padded to the
    longest, have at most `most` tokens, and at least one; only those that begin equally far `back` from their prompt's end."""
    found, first = [], 0
    for end in range(1, len(widths) + 1):
        if (
            end == len(widths)
            or back[end] != back[first]
            or (end + 1 - first) * max(widths[first : end + 1]) > most
        ):
            found.append(slice(first, end))
            first = end
    return found


def _nll_behind(
    vlm: VLM, last, past, positions, prompt_mask, candidates, unasked: int
) -> list[Sums]:
    """continuation_nll of a few prompts, of which `last` [B, 1, D] holds the last hidden state; of each candidate the first
    `unasked` tokens are not counted."""
    decoder = vlm.model.decoder
    row = pack(candidates, unasked, vlm.tokenizer.pad).to(vlm.device)
    positions = next_positions(positions, int(row.offset.max()) + 1)
    positions = positions.gather(-1, row.offset.expand(*positions.shape[:-1], -1))
    mask = torch.cat((prompt_mask, torch.ones_like(row.ids)), 1)
    after = decoder(
        decoder.embed_tokens(row.ids),
        mask,
        positions,
        past,
        mask_for_window=lambda window: row.looks(prompt_mask, window),
    )[0]
    states = torch.cat((last, after), 1)  # column 1 + c holds what has seen the row's token c
    seen = torch.where(row.offset == 0, 0, torch.arange(row.ids.shape[1], device=vlm.device))[
        row.asked
    ]
    logits = vlm.head(states[row.asked.nonzero()[:, 0], seen])
    nll = token_terms(logits, row.ids[row.asked], entropy=False).nll.double().cpu()
    sums = iter(
        [
            (float(part.sum()), len(part))
            for part in nll.split([len(ids) - unasked for one in candidates for ids in one])
        ]
    )
    return [[next(sums) for _ in of_one] for of_one in candidates]


@dataclass(frozen=True)
class Packed:
    """[B, W] each: the candidates of every prompt end to end; piece: which one a token is of, -1 behind the last; offset: its
    place in it; asked: whether its nll counts."""

    ids: torch.Tensor
    piece: torch.Tensor
    offset: torch.Tensor
    asked: torch.Tensor

    def to(self, device) -> "Packed":
        """The same on a device."""
        return Packed(
            *(tensor.to(device) for tensor in (self.ids, self.piece, self.offset, self.asked))
        )

    def looks(self, prompt_mask, window: int | None):
        """[B, 1, W, S + W], True where a token looks: at its prompt [B, S] and at its own candidate up to itself.

        window  at no more than this many positions, its own included; prompts are padded on the left
        """
        W, S = self.ids.shape[1], prompt_mask.shape[1]
        own = (self.piece[:, :, None] == self.piece[:, None]) & (
            self.offset[:, None] <= self.offset[:, :, None]
        )
        prompt = prompt_mask.bool()[:, None].expand(-1, W, -1)
        if window is not None:
            own = own & (self.offset[:, :, None] - self.offset[:, None] < window)
            back = S - torch.arange(
                S, device=prompt_mask.device
            )  # from a candidate's first token to each of the prompt's
            prompt = prompt & (self.offset[:, :, None] + back < window)
        return torch.cat((prompt, own), 2)[:, None]


def pack(candidates: list[list[list[int]]], unasked: int, pad: int) -> Packed:
    """The Packed of every prompt's candidates; of each the first `unasked` tokens are not asked for."""
    made = [
        [
            (token, number, offset, offset >= unasked)
            for number, ids in enumerate(of_one)
            for offset, token in enumerate(ids)
        ]
        for of_one in candidates
    ]
    W = max(map(len, made))
    found = [list(zip(*(columns + [(pad, -1, 0, False)] * (W - len(columns))))) for columns in made]
    return Packed(*(torch.tensor([columns[i] for columns in found]) for i in range(4)))
