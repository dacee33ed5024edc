"""Text to token ids and back; the answer's span is kept from the moment it is made.

The prompt and the answer are tokenised once each and joined, and the image token becomes as many copies as the picture gives
features, so nothing is searched for afterwards. An answer is tokenised behind the prompt's last words, so that the two joined are
the tokens of the whole text.
"""

from pathlib import Path

import tokenizers

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json

from .prompts import Template


class Tokenizer:
    """A tokenizer.json with the special tokens that tokenizer_config.json names."""

    def __init__(self, directory):
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.exists():
            raise UserError(
                f"{path}: no such file; a model directory needs its tokenizer.json (from a tokenizer.model: "
                "transformers' AutoTokenizer and its save_pretrained)"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise UserError(f"{path}: not a tokenizer file ({error}); fetch it again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        path = directory / "tokenizer_config.json"
        config = read_json(path) if path.exists() else {}
        self.bos, self.eos, self.pad = (
            self._special(config, key, path) for key in ("bos_token", "eos_token", "pad_token")
        )
        if self.pad is None:
            self.pad = (
                0 if self.eos is None else self.eos
            )  # what stands at padding is never looked at

    def _special(self, config, key, path) -> int | None:
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if token is None:
            return None
        if not isinstance(token, str):
            raise UserError(f"{path}: {key} is {token!r}; expected one of the tokenizer's tokens")
        return self.id_of(token)

    def id_of(self, token: str) -> int:
        """The id of one token; UserError if the vocabulary lacks it."""
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise UserError(
                f"tokenizer: has no token {token!r}; this tokenizer does not belong to the model"
            )
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

    def piece(self, number: int) -> str:
        """The text of one id alone; a special token's is its name."""
        return self._tokenizer.decode([number], skip_special_tokens=False)

    def check(self, template: Template) -> None:
        """UserError unless the tokenizer has every special token that the template is made of."""
        special = (
            template.special if template.with_image is None else (*template.special, template.image)
        )
        for token in special:
            if self._tokenizer.token_to_id(token) is None:
                raise UserError(
                    f"template {template.name} needs the token {token!r}, and the model's tokenizer has none; name "
                    "another with --template"
                )
        if template.bos and self.bos is None:
            raise UserError(
                f"tokenizer_config.json has no bos_token, and template {template.name} begins with it; name one of "
                "the tokenizer's tokens there, or another --template"
            )

    def prompt(self, template: Template, question: str, n_image_tokens: int) -> list[int]:
        """BOS and the prompt's ids, with `n_image_tokens` image tokens (0: no picture)."""
        self._without_image(template, "question", question)
        if n_image_tokens and template.with_image is None:
            raise UserError(
                f"question {question!r} comes with a picture, and template {template.name} has no place for one; "
                "expected text alone (--modality text), or a vision-language model"
            )
        ids = self.ids(template.prompt(question, n_image_tokens > 0))
        if n_image_tokens:
            token = self.id_of(template.image)
            place = ids.index(token)
            ids[place : place + 1] = [token] * n_image_tokens
        return [self.bos] + ids if template.bos else ids

    def answer(self, template: Template, answer: str) -> tuple[int, list[int]]:
        """(r, ids): the tokens of the whole text are the prompt's, its last r left out, and these ids; the answer's end included.

        r is 0 but where the tokenizer merges across the border ("[/INST]" and a quotation mark): then the ids begin with r tokens
        that hold words of the prompt, and are not supervised, so that the span begins as many tokens in as the prompt is long.
        source  TOFU's and the released code's count: tokens of the whole text less those of the prompt
        """
        self._without_image(template, "answer", answer)
        turn, both = self.ids(template.turn), self.ids(template.turn + template.answer(answer))
        same = next(
            (n for n, pair in enumerate(zip(turn, both)) if pair[0] != pair[1]),
            min(len(turn), len(both)),
        )
        if not same:
            raise UserError(
                f"answer {answer!r}: the tokenizer joins it with all of {template.turn!r} before it; begin it with a "
                "letter"
            )
        return len(turn) - same, both[same:]

    def _without_image(self, template, what, text):
        if template.image in text:
            raise UserError(
                f"{what} {text!r} holds {template.image}, which stands for the picture; remove it"
            )
