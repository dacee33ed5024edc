"""The generation settings of a model directory, as rules on logits.

Which keys are read, have no effect or are refused: generation_keys.py.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number, shown
from clear_ref.common.files import PathName, one_line, read_json
from clear_ref.data.tokens import Tokenizer

from . import generation_keys, logit_rules
from .config_values import LARGEST, number
from .logit_rules import Rule


@dataclass(frozen=True)
class Generation:
    """How greedy text is chosen.

    stop_ids  token ids that end a text
    rules     applied one after the other to the logits of each step
    """

    stop_ids: frozenset[int]
    rules: tuple[Rule, ...] = ()


def generation(
    directory: PathName, config: dict[str, Any], n_tokens: int, tokenizer: Tokenizer
) -> Generation:
    """The generation settings of a model directory.

    They are those of generation_config.json; config.json's are read only if that file is missing.
    The tokenizer's eos token is not read.
    config    config.json
    n_tokens  the number of rows of the model's head
    raises    UserError for a value that is invalid or refused
    source    transformers 5.23, GenerationMixin.adjust_generation_fn
    """
    path = Path(directory) / "generation_config.json"
    if path.exists():
        values = read_json(path)
        generation_keys.FILE.check(values, path)
    else:
        path = Path(directory) / "config.json"
        values = _legacy(config)
        generation_keys.LEGACY.check(values, path)
    given = {key: value for key, value in values.items() if value is not None}
    return Reader(given, path, n_tokens, tokenizer).generation()


def _legacy(config: dict[str, Any]) -> dict[str, Any]:
    """config.json's generation settings: the top level's, then the decoder's for omitted keys."""
    decoder: dict[str, Any] = {}
    for name in ("decoder", "generator", "text_config"):
        if isinstance(config.get(name), dict) and config[name]:
            decoder = config[name]
            break
    found = {}
    for key in generation_keys.legacy_keys():
        value = config.get(key)
        if value is None:
            value = decoder.get(key)
        if value is not None:
            found[key] = value
    return found


@dataclass(frozen=True)
class Reader:
    """The values of the file `path`, without nulls."""

    values: Mapping[str, Any]
    path: Path
    n_tokens: int
    tokenizer: Tokenizer

    def generation(self) -> Generation:
        """The settings, checked; the rules in the reference's order."""
        eos_token_ids = self._ids("eos_token_id", one=True, anywhere=True)
        stop_ids = frozenset(eos_token_ids)
        if stop_ids:
            self._check_fill(eos_token_ids[0])
        readers: tuple[Callable[[frozenset[int]], Rule | None], ...] = (
            self._sequence_bias,
            self._encoder_repetition_penalty,
            self._repetition_penalty,
            self._no_repeat_ngram_size,
            self._encoder_no_repeat_ngram_size,
            self._bad_words_ids,
            self._min_length,
            self._forced_bos_token_id,
            self._forced_eos_token_id,
            self._remove_invalid_values,
            self._exponential_decay_length_penalty,
            self._suppress_tokens,
            self._begin_suppress_tokens,
            self._renormalize_logits,
        )
        rules = [read(stop_ids) for read in readers]
        return Generation(stop_ids, tuple(rule for rule in rules if rule is not None))

    def _check_fill(self, first_stop_id: int) -> None:
        """UserError if what transformers writes behind an ended text would be read as text."""
        fill = self.values.get("pad_token_id", first_stop_id)
        if not self._is_id(fill, anywhere=True):
            raise self._refused("pad_token_id", "a token id")
        if 0 <= fill < self.tokenizer.size and self.tokenizer.text([fill]).strip():
            key = "pad_token_id" if "pad_token_id" in self.values else "eos_token_id"
            piece = repr(self.tokenizer.piece(fill))
            raise self._refused(
                key,
                f"a special token, as transformers writes {one_line(piece, 40)} behind "
                "texts that end early; set pad_token_id to a special token",
            )

    def _sequence_bias(self, _: frozenset[int]) -> Rule | None:
        entries = self.values.get("sequence_bias")
        if entries is None:
            return None
        expected = "a list of [token ids, number with a decimal point], not empty"
        if not isinstance(entries, list) or not entries:
            raise self._refused("sequence_bias", expected)
        biases: dict[tuple[int, ...], float] = {}
        for entry in entries:
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], float):
                raise self._refused("sequence_bias", expected)
            if math.isnan(entry[1]):
                raise self._refused("sequence_bias", expected)
            biases[self._sequence("sequence_bias", entry[0])] = entry[1]
        return logit_rules.sequence_bias(biases)

    def _encoder_repetition_penalty(self, _: frozenset[int]) -> Rule | None:
        penalty = self._penalty("encoder_repetition_penalty")
        return None if penalty == 1.0 else logit_rules.encoder_repetition_penalty(penalty)

    def _repetition_penalty(self, _: frozenset[int]) -> Rule | None:
        penalty = self._penalty("repetition_penalty")
        return None if penalty == 1.0 else logit_rules.repetition_penalty(penalty)

    def _no_repeat_ngram_size(self, _: frozenset[int]) -> Rule | None:
        size = self._count("no_repeat_ngram_size")
        return logit_rules.no_repeat_ngram_size(size) if size else None

    def _encoder_no_repeat_ngram_size(self, _: frozenset[int]) -> Rule | None:
        size = self._count("encoder_no_repeat_ngram_size")
        return logit_rules.encoder_no_repeat_ngram_size(size) if size else None

    def _bad_words_ids(self, stop_ids: frozenset[int]) -> Rule | None:
        sequences = self.values.get("bad_words_ids")
        if sequences is None:
            return None
        if not isinstance(sequences, list) or not sequences:
            raise self._refused("bad_words_ids", "a list of lists of token ids, not empty")
        return logit_rules.bad_words_ids(
            [self._sequence("bad_words_ids", each) for each in sequences if each != []], stop_ids
        )

    def _min_length(self, stop_ids: frozenset[int]) -> Rule | None:
        """min_new_tokens, even if 0, replaces min_length."""
        if "min_new_tokens" in self.values:
            least = self._count("min_new_tokens")
            return logit_rules.min_new_tokens(least, stop_ids) if least and stop_ids else None
        least = self._count("min_length")
        return logit_rules.min_length(least, stop_ids) if least and stop_ids else None

    def _forced_bos_token_id(self, _: frozenset[int]) -> Rule | None:
        token = self.values.get("forced_bos_token_id")
        if token is None:
            return None
        if not self._is_id(token):
            raise self._refused("forced_bos_token_id", self._an_id())
        return logit_rules.forced_bos_token_id(token)

    def _forced_eos_token_id(self, _: frozenset[int]) -> Rule | None:
        tokens = self._ids("forced_eos_token_id", one=True)
        return logit_rules.forced_eos_token_id(tokens) if tokens else None

    def _remove_invalid_values(self, _: frozenset[int]) -> Rule | None:
        return logit_rules.remove_invalid_values if self._flag("remove_invalid_values") else None

    def _exponential_decay_length_penalty(self, stop_ids: frozenset[int]) -> Rule | None:
        key = "exponential_decay_length_penalty"
        pair = self.values.get(key)
        if pair is None:
            return None
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(is_number(each) for each in pair) or not stop_ids:
            raise self._refused(key, "[start, factor], and a model with an eos_token_id")
        if min(stop_ids) < 0 or max(stop_ids) >= self.n_tokens:
            raise self._refused(key, f"it absent, as eos_token_id is not {self._an_id()}")
        return logit_rules.exponential_decay_length_penalty(pair[0], pair[1], stop_ids)

    def _suppress_tokens(self, _: frozenset[int]) -> Rule | None:
        tokens = self._ids("suppress_tokens", anywhere=True)
        return logit_rules.suppress_tokens(tokens) if tokens else None

    def _begin_suppress_tokens(self, _: frozenset[int]) -> Rule | None:
        tokens = self._ids("begin_suppress_tokens", anywhere=True)
        after_forced_bos = "forced_bos_token_id" in self.values
        return logit_rules.begin_suppress_tokens(tokens, after_forced_bos) if tokens else None

    def _renormalize_logits(self, _: frozenset[int]) -> Rule | None:
        return logit_rules.renormalize_logits if self._flag("renormalize_logits") else None

    def _penalty(self, key: str) -> float:
        return number({key: 1.0} | dict(self.values), key, self.path)

    def _count(self, key: str) -> int:
        """A whole number; 0 if it is omitted or negative."""
        value = self.values.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value > LARGEST:
            raise self._refused(key, "a whole number")
        return max(value, 0)

    def _flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self._refused(key, "true or false")
        return value

    def _ids(self, key: str, one: bool = False, anywhere: bool = False) -> list[int]:
        """A list of token ids; [] if it is omitted.

        one       whether a single id may stand in place of the list
        anywhere  whether ids outside the vocabulary are accepted
        """
        value = self.values.get(key, [])
        tokens = value if isinstance(value, list) else [value]
        is_list = one or isinstance(value, list)
        if not is_list or not all(self._is_id(token, anywhere) for token in tokens):
            expected = "a token id or a list of them" if one else "a list of token ids"
            raise self._refused(key, expected if anywhere else f"{expected} below {self.n_tokens}")
        return tokens

    def _sequence(self, key: str, tokens: object) -> tuple[int, ...]:
        if not isinstance(tokens, list) or not tokens or not all(map(self._is_id, tokens)):
            raise self._refused(key, f"lists of token ids, each {self._an_id()}")
        return tuple(tokens)

    def _is_id(self, token: object, anywhere: bool = False) -> bool:
        if not isinstance(token, int) or isinstance(token, bool):
            return False
        return abs(token) <= LARGEST if anywhere else 0 <= token < self.n_tokens

    def _an_id(self) -> str:
        return f"a token id below {self.n_tokens}"

    def _refused(self, key: str, expected: str) -> UserError:
        return UserError(
            f"{self.path}: {key} is {shown(self.values.get(key))}; expected {expected}"
        )
