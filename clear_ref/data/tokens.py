"""Text to token ids and back; the answer's span is kept from the moment it is made.

The prompt and the answer are tokenised once each and joined, and <image> becomes as many copies as the tower gives
features, so nothing is searched for afterwards.
"""

from pathlib import Path

import tokenizers

from ..errors import UserError
from ..files import read_json
from .prompts import IMAGE, Template


class Tokenizer:
    """A tokenizer.json with the special tokens that tokenizer_config.json names."""

    def __init__(self, directory):
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.exists():
            raise UserError(f"{path}: no such file; a model directory needs its tokenizer.json")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise UserError(f"{path}: not a tokenizer file ({error}); fetch it again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = read_json(directory / "tokenizer_config.json")
        self.bos, self.eos, self.pad = (self._special(config, key, path) for key in ("bos_token", "eos_token", "pad_token"))

    def _special(self, config, key, path):
        token = config.get(key)
        token = token["content"] if isinstance(token, dict) else token
        if token is None:
            raise UserError(f"{path.parent / 'tokenizer_config.json'}: has no {key}; name one of the tokenizer's tokens")
        return self.id_of(token)

    def id_of(self, token: str) -> int:
        """The id of one token; UserError if the vocabulary lacks it."""
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise UserError(f"tokenizer: has no token {token!r}; this tokenizer does not belong to the model")
        return number

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def ids(self, text: str) -> list[int]:
        """Token ids without any added at the ends."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids) -> str:
        """The text of ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def prompt(self, template: Template, question: str, n_image_tokens: int) -> list[int]:
        """BOS and the prompt's ids, with `n_image_tokens` image tokens (0: no picture)."""
        if IMAGE in question:
            raise UserError(f"question {question!r} holds {IMAGE}, which stands for the picture; remove it")
        ids = self.ids(template.prompt(question, n_image_tokens > 0))
        if n_image_tokens:
            place = ids.index(self.id_of(IMAGE))
            ids[place:place + 1] = [self.id_of(IMAGE)] * n_image_tokens
        return [self.bos] + ids

    def answer(self, template: Template, answer: str) -> list[int]:
        """The answer's ids, its end included."""
        if IMAGE in answer:
            raise UserError(f"answer {answer!r} holds {IMAGE}, which stands for the picture; remove it")
        return self.ids(template.answer(answer))
