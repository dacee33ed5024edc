"""How the settings of generation_config.json change the logits of the next token.

A rule takes a `Step` and logits [B, V] in float32 and returns the logits [B, V] after it. Rules are
applied in the order of transformers 5.23 (GenerationMixin._get_logits_processor); which rules a
model has is decided by generation_config.py.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clear_ref.common.errors import UserError

INFINITY = float("inf")


class Step(NamedTuple):
    """What is known when the next token is chosen.

    ids       [B, T + n] the prompts with their padding, then the n ids generated so far
    n_prompt  T
    padding   [B] the number of padding ids before each prompt
    is_last   whether no token follows
    """

    ids: Tensor
    n_prompt: int
    padding: Tensor
    is_last: bool

    @property
    def n_new(self) -> int:
        """The number of ids generated so far."""
        return self.ids.shape[1] - self.n_prompt


Rule = Callable[[Step, Tensor], Tensor]


def penalised(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Logits with another value for every token of `ids`.

    ids      [B, T]: a token in it has its logit divided by the penalty if positive, multiplied if
             negative; ids outside the vocabulary have no effect
    source   Keskar et al. 2019 (CTRL)
    """
    n_tokens = logits.shape[-1]
    with_outside = torch.nn.functional.pad(logits, (0, 1))
    ids = ids.clamp(max=n_tokens)
    old = with_outside.gather(1, ids)
    new = torch.where(old < 0, old * penalty, old / penalty)
    return with_outside.scatter(1, ids, new)[:, :n_tokens]


def repetition_penalty(penalty: float) -> Rule:
    """Tokens of the prompt and of the text so far are penalised; padding is not counted.

    source  transformers 5.23, RepetitionPenaltyLogitsProcessor (older versions count padding)
    """

    def rule(step: Step, logits: Tensor) -> Tensor:
        places = torch.arange(step.ids.shape[1], device=step.ids.device)
        is_padding = places < step.padding[:, None]
        return penalised(logits, step.ids.masked_fill(is_padding, logits.shape[-1]), penalty)

    return rule


def encoder_repetition_penalty(penalty: float) -> Rule:
    """Tokens of the prompt, its padding included, are favoured by the penalty's inverse.

    source  transformers 5.23, EncoderRepetitionPenaltyLogitsProcessor: a decoder's prompt counts
            as the encoder's input
    """
    inverse = 1 / penalty
    return lambda step, logits: penalised(logits, step.ids[:, : step.n_prompt], inverse)


def no_repeat_ngram_size(size: int) -> Rule:
    """No `size` tokens in a row occur twice, prompt and padding included."""
    return lambda step, logits: _without_ngrams(step.ids, step.ids, size, logits)


def encoder_no_repeat_ngram_size(size: int) -> Rule:
    """No `size` tokens in a row of the prompt, its padding included, occur in the text."""
    return lambda step, logits: _without_ngrams(
        step.ids[:, : step.n_prompt], step.ids, size, logits
    )


def _without_ngrams(earlier: Tensor, ids: Tensor, size: int, logits: Tensor) -> Tensor:
    """Logits in which a token that would complete an n-gram of `earlier` is -inf."""
    if earlier.shape[1] < size:
        return logits
    ngrams = earlier.unfold(1, size, 1)  # [B, number of n-grams, size]
    latest = ids[:, ids.shape[1] - (size - 1) :]
    begins_alike = (ngrams[:, :, :-1] == latest[:, None]).all(-1)
    n_tokens = logits.shape[-1]
    completing = ngrams[:, :, -1].clamp(max=n_tokens).masked_fill(~begins_alike, n_tokens)
    banned = torch.zeros(len(logits), n_tokens + 1, dtype=torch.bool, device=logits.device)
    return logits.masked_fill(banned.scatter(1, completing, True)[:, :n_tokens], -INFINITY)


def sequence_bias(biases: dict[tuple[int, ...], float]) -> Rule:
    """The last token of each sequence gets its bias wherever the tokens before it stand.

    source  transformers 5.23, SequenceBiasLogitsProcessor; a token's biases are added in order of
            the sequences, those of one length together
    """
    by_length: dict[int, list[tuple[tuple[int, ...], float]]] = {1: []}
    for sequence, bias in biases.items():
        by_length.setdefault(len(sequence), []).append((sequence, bias))
    groups = [
        (
            torch.tensor([sequence[:-1] for sequence, _ in group], dtype=torch.long),
            torch.tensor([sequence[-1] for sequence, _ in group]),
            torch.tensor([bias for _, bias in group], dtype=torch.float32),
        )
        for group in by_length.values()
        if group
    ]

    def rule(step: Step, logits: Tensor) -> Tensor:
        total = torch.zeros_like(logits)
        for first, last, values in groups:
            begin = step.ids.shape[1] - first.shape[1]
            if begin < 0:
                continue
            latest = step.ids[:, None, begin:]
            matches = (latest == first.to(logits.device)).all(-1)
            added = torch.where(matches, values.to(logits.device), 0.0)
            total.index_add_(1, last.to(logits.device), added)
        return logits + total

    return rule


def bad_words_ids(sequences: Sequence[tuple[int, ...]], stop_ids: frozenset[int]) -> Rule:
    """None of the sequences occurs. A stop id on its own stays allowed.

    source  transformers 5.23, NoBadWordsLogitsProcessor
    """
    banned = {
        sequence: -INFINITY
        for sequence in sequences
        if sequence and not (len(sequence) == 1 and sequence[0] in stop_ids)
    }
    return sequence_bias(banned)


def min_length(least: int, stop_ids: frozenset[int]) -> Rule:
    """No stop id before prompt, padding and text are `least` long."""
    ban = suppress_tokens(sorted(stop_ids))
    return lambda step, logits: ban(step, logits) if step.ids.shape[1] < least else logits


def min_new_tokens(least: int, stop_ids: frozenset[int]) -> Rule:
    """No stop id before the text is `least` long."""
    ban = suppress_tokens(sorted(stop_ids))
    return lambda step, logits: ban(step, logits) if step.n_new < least else logits


def forced_bos_token_id(token: int) -> Rule:
    """The token is the first one after a prompt of one id."""
    return lambda step, logits: _only([token], logits) if step.ids.shape[1] == 1 else logits


def forced_eos_token_id(tokens: Sequence[int]) -> Rule:
    """The last of max_new_tokens is the lowest of the tokens."""
    return lambda step, logits: _only(tokens, logits) if step.is_last else logits


def _only(tokens: Sequence[int], logits: Tensor) -> Tensor:
    """0 for the tokens, -inf for all others."""
    chosen = torch.full_like(logits, -INFINITY)
    chosen[:, list(tokens)] = 0.0
    return chosen


def remove_invalid_values(step: Step, logits: Tensor) -> Tensor:
    """0 for a logit that is not a number, the largest and the least finite number for infinities.

    It comes after the rules that write -inf, except suppress_tokens and begin_suppress_tokens.
    """
    return torch.nan_to_num(logits, nan=0.0)


def exponential_decay_length_penalty(start: int, factor: float, stop_ids: frozenset[int]) -> Rule:
    """Stop ids gain |logit| (factor^k - 1), k the number of tokens after the first `start`.

    raises  UserError once the gain is too large for float32
    """
    columns = sorted(stop_ids)

    def rule(step: Step, logits: Tensor) -> Tensor:
        if step.n_new <= start:
            return logits
        try:
            gain = float(factor) ** (step.n_new - start) - 1
        except OverflowError:
            gain = INFINITY
        if abs(gain) > torch.finfo(torch.float32).max:
            raise UserError(
                f"exponential_decay_length_penalty has the factor {factor}; expected one whose "
                f"power {step.n_new - start} fits in float32, use a smaller one"
            )
        old = logits[:, columns]
        added = torch.zeros_like(logits)
        added[:, columns] = (old.abs() * gain).masked_fill(~old.isfinite(), 0.0)
        return logits + added

    return rule


def suppress_tokens(tokens: Sequence[int]) -> Rule:
    """The tokens are -inf; ids outside the vocabulary have no effect."""
    banned = torch.tensor(list(tokens), dtype=torch.long)

    def rule(step: Step, logits: Tensor) -> Tensor:
        columns = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill(torch.isin(columns, banned.to(logits.device)), -INFINITY)

    return rule


def begin_suppress_tokens(tokens: Sequence[int], after_forced_bos: bool) -> Rule:
    """The tokens are -inf for the first generated token.

    after_forced_bos  forced_bos_token_id is set: after a prompt of one id the second one is meant
    """
    ban = suppress_tokens(tokens)

    def rule(step: Step, logits: Tensor) -> Tensor:
        skipped = int(after_forced_bos and step.n_prompt <= 1)
        return ban(step, logits) if step.n_new == skipped else logits

    return rule


def renormalize_logits(step: Step, logits: Tensor) -> Tensor:
    """Log-probabilities. Rounding can make two logits equal that were not; then the lowest id wins.

    It comes last.
    """
    return logits.log_softmax(-1)
