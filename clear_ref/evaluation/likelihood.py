"""Likelihoods of candidate answers. Each prompt is computed once for all of its candidates.

The candidates of a prompt are packed into one row after the prompt. There each candidate attends
only to the prompt and to its own earlier tokens, so every prompt token and every answer token is
computed once. `plain_nll` is the slow and simple way: one forward of prompt and answer for every
candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.data.batches import IGNORE, Batch
from clear_ref.data.records import Record
from clear_ref.losses.terms import token_terms
from clear_ref.model.generate import Prefilled
from clear_ref.model.language import next_positions
from clear_ref.model.vlm import VLM

from .exact_means import mean

# Candidate tokens in one batch: enough for large matrix products, few enough to fit beside the
# weights.
TOKENS_PER_BATCH = 512
# (summed nll in nats, number of tokens) of one candidate
NllSum = tuple[float, int]
# (how many of the prompt's last tokens the ids replace, ids); see Tokenizer.answer
EncodedAnswer = tuple[int, list[int]]


def candidate_nll(
    vlm: VLM, prompts: Batch, answers: list[list[str]], prefilled: Prefilled | None = None
) -> list[list[NllSum]]:
    """For each prompt, (summed nll in nats, number of tokens) of each of its answers.

    The end token of an answer counts, as in training.

    prompts    result of vlm.encode for records without answers
    prefilled  result of vlm.prefill for these prompts; None: prefilled here
    equals     plain_nll within rounding, whatever prompts are computed together
    """
    encoded = [
        [vlm.tokenizer.answer(vlm.template, answer) for answer in of_prompt]
        for of_prompt in answers
    ]
    for n_tokens, of_prompt in zip(prompts.attention_mask.sum(1).tolist(), encoded, strict=True):
        for n_merged, ids in of_prompt:
            vlm.tokenizer.check_length(n_tokens - n_merged + len(ids))
    return continuation_nll(vlm, prompts, prefilled or vlm.prefill(prompts), encoded)


def plain_nll(vlm: VLM, prompt: Record, answers: list[str]) -> list[NllSum]:
    """The same for one prompt, by one forward of prompt and answer for each candidate."""
    sums = []
    for answer in answers:
        nll = answer_nll(vlm, Record(prompt.question, answer, prompt.image))
        sums.append((math.fsum(nll), len(nll)))
    return sums


@torch.no_grad()
def answer_nll(vlm: VLM, record: Record) -> list[float]:
    """The nll, in nats, of each token of the record's answer, its end token included.

    One forward of prompt and answer; the same tokens as in training.
    """
    logits, labels = answer_logits(vlm, record)
    return token_terms(logits, labels, entropy=False).nll.double().tolist()


def answer_logits(vlm: VLM, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [n, V], labels [n]) of the tokens of the record's answer, its end token included."""
    batch = vlm.encode([record])
    labels = batch.labels[:, 1:]
    is_answer = labels != IGNORE
    return vlm.head(vlm.hidden(batch)[:, :-1][is_answer]), labels[is_answer]


def mean_answer_nll(vlm: VLM, records: Sequence[Record]) -> float:
    """The mean over records of their answer's mean nll, in nats for each token."""
    return mean(answer_means(vlm, records))


def answer_means(vlm: VLM, records: Sequence[Record]) -> list[float]:
    """The mean nll of each record's answer, in nats for each token.

    On the CPU the records are computed by as many processes as torch has threads.
    """

    def mean_of_tokens(record: Record) -> float:
        return mean(answer_nll(vlm, record))

    return map_in_processes(mean_of_tokens, records, process_count(vlm.device, vlm.is_shared_out))


@torch.no_grad()
def continuation_nll(
    vlm: VLM,
    prompts: Batch,
    prefilled: Prefilled,
    answers: Sequence[Sequence[EncodedAnswer]],
) -> list[list[NllSum]]:
    """candidate_nll of encoded answers."""
    T = prompts.input_ids.shape[1]
    # The last n_replaced positions of a prompt are replaced by some of its answers, so only the
    # positions before them are shared by all candidates.
    n_replaced = [max(replaced for replaced, _ in of_prompt) for of_prompt in answers]
    candidates = []
    for prompt_ids, n, of_prompt in zip(
        prompts.input_ids.tolist(), n_replaced, answers, strict=True
    ):
        candidates.append([prompt_ids[T - n : T - replaced] + ids for replaced, ids in of_prompt])
    widths = [sum(len(ids) for ids in of_prompt) for of_prompt in candidates]
    sums = []
    for rows in neighbour_batches(widths, n_replaced):
        n_shared = T - n_replaced[rows.start]
        cache = [
            (layer.keys[rows, :, :n_shared], layer.values[rows, :, :n_shared])
            for layer in prefilled.past
        ]
        sums += _nll_after_prompts(
            vlm,
            prefilled.hidden[rows, n_shared - 1 : n_shared],
            cache,
            prefilled.positions[..., rows, :n_shared],
            prompts.attention_mask[rows, :n_shared],
            candidates[rows],
            T - n_shared,
        )
    return sums


def neighbour_batches(
    widths: list[int], n_replaced: list[int], most: int = TOKENS_PER_BATCH
) -> list[slice]:
    """Which neighbouring prompts are computed in one batch.

    widths      number of candidate tokens of each prompt
    n_replaced  how many of its last positions are not shared; equal within a batch
    returns     slices of the prompts; each has as many neighbours as, padded to the widest, have at
                most `most` tokens, and at least one
    """
    batches = []
    first = 0
    for end in range(1, len(widths) + 1):
        is_last = end == len(widths)
        if (
            is_last
            or n_replaced[end] != n_replaced[first]
            or (end + 1 - first) * max(widths[first : end + 1]) > most
        ):
            batches.append(slice(first, end))
            first = end
    return batches


def _nll_after_prompts(
    vlm: VLM,
    last_hidden: torch.Tensor,
    cache: list[tuple[torch.Tensor, torch.Tensor]],
    positions: torch.Tensor,
    prompt_mask: torch.Tensor,
    candidates: list[list[list[int]]],
    n_uncounted: int,
) -> list[list[NllSum]]:
    """continuation_nll of one batch of prompts.

    last_hidden  [B, 1, D] the hidden state of the last shared position
    cache        each layer's (keys, values) of the shared positions
    positions    [.., B, S] the shared positions; prompt_mask [B, S]
    candidates   token ids of each candidate of each prompt
    n_uncounted  number of first tokens of each candidate whose nll is not counted
    """
    decoder = vlm.model.decoder
    packed = pack(candidates, n_uncounted, vlm.tokenizer.pad).to(vlm.device)
    following = next_positions(positions, int(packed.position.max()) + 1)
    packed_positions = following.gather(-1, packed.position.expand(*positions.shape[:-1], -1))

    def mask_for_window(window: int | None) -> torch.Tensor:
        return packed.attention_mask(prompt_mask, window)

    hidden = decoder(
        decoder.embed_tokens(packed.ids),
        torch.cat((prompt_mask, torch.ones_like(packed.ids)), 1),
        packed_positions,
        cache,
        mask_for_window=mask_for_window,
    )[0]
    # states[:, 0] is the state after the prompt, states[:, 1 + c] that after the token in column c.
    # A candidate's first token is predicted by states[:, 0], any other by states[:, its column].
    states = torch.cat((last_hidden, hidden), 1)
    columns = torch.arange(packed.ids.shape[1], device=vlm.device)
    state_of_token = torch.where(packed.position == 0, 0, columns)
    counted_rows = packed.counted.nonzero()[:, 0]
    logits = vlm.head(states[counted_rows, state_of_token[packed.counted]])
    nll = token_terms(logits, packed.ids[packed.counted], entropy=False).nll.double().cpu()
    sums = []
    start = 0
    for of_prompt in candidates:
        sums_of_prompt = []
        for ids in of_prompt:
            n_counted = len(ids) - n_uncounted
            candidate_sum = nll[start : start + n_counted].sum()
            sums_of_prompt.append((float(candidate_sum), n_counted))
            start += n_counted
        sums.append(sums_of_prompt)
    return sums


@dataclass(frozen=True)
class PackedCandidates:
    """The candidates of each prompt, one after another in one row. Each tensor is [B, W].

    ids        token ids; the tokenizer's pad id after the last candidate
    candidate  number of the candidate that a token belongs to; -1 for padding
    position   position of the token in its candidate
    counted    True if the token's nll counts
    """

    ids: torch.Tensor
    candidate: torch.Tensor
    position: torch.Tensor
    counted: torch.Tensor

    def to(self, device: torch.device) -> "PackedCandidates":
        """The same tensors on a device."""
        return PackedCandidates(
            self.ids.to(device),
            self.candidate.to(device),
            self.position.to(device),
            self.counted.to(device),
        )

    def attention_mask(self, prompt_mask: torch.Tensor, window: int | None) -> torch.Tensor:
        """[B, 1, W, S + W], True where a token may attend: to its prompt and to its own candidate
        up to itself.

        prompt_mask  [B, S], 0 for padding, which is on the left
        window       number of positions that a token may attend to, its own included; None: all
        """
        W, S = self.ids.shape[1], prompt_mask.shape[1]
        query_position = self.position[:, :, None]
        key_position = self.position[:, None]
        to_own = self.candidate[:, :, None] == self.candidate[:, None]
        to_own = to_own & (key_position <= query_position)
        to_prompt = prompt_mask.bool()[:, None].expand(-1, W, -1)
        if window is not None:
            to_own = to_own & (query_position - key_position < window)
            # from the first token of a candidate back to each position of the prompt
            distance = S - torch.arange(S, device=prompt_mask.device)
            to_prompt = to_prompt & (query_position + distance < window)
        return torch.cat((to_prompt, to_own), 2)[:, None]


def pack(candidates: list[list[list[int]]], n_uncounted: int, pad: int) -> PackedCandidates:
    """The PackedCandidates of each prompt's candidates.

    candidates   token ids of each candidate of each prompt
    n_uncounted  number of first tokens of each candidate whose nll is not counted
    pad          id that fills a row after its last candidate
    """
    widths = [sum(len(ids) for ids in of_prompt) for of_prompt in candidates]
    shape = (len(candidates), max(widths))
    packed = PackedCandidates(
        ids=torch.full(shape, pad),
        candidate=torch.full(shape, -1),
        position=torch.zeros(shape, dtype=torch.long),
        counted=torch.zeros(shape, dtype=torch.bool),
    )
    for row, of_prompt in enumerate(candidates):
        start = 0
        for number, ids in enumerate(of_prompt):
            end = start + len(ids)
            packed.ids[row, start:end] = torch.tensor(ids)
            packed.candidate[row, start:end] = number
            packed.position[row, start:end] = torch.arange(len(ids))
            packed.counted[row, start + n_uncounted : end] = True
            start = end
    return packed
