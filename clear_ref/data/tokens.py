"""Text to token ids and back. The answer's span is known from the start; it is never searched for.

The prompt and the answer are tokenised once each and then joined. The one image token is replaced
by as many copies as the picture has features. An answer is tokenised together with the prompt's
last words, so that the joined ids are the tokens of the whole text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json

from .templates import Template


class Tokenizer:
    """A tokenizer.json, with the special tokens that tokenizer_config.json names."""

    def __init__(self, directory: PathName) -> None:
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.exists():
            raise UserError(
                f"{path}: no such file; a model directory needs its tokenizer.json (make it from a "
                "tokenizer.model with transformers: AutoTokenizer, then save_pretrained)"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception for a malformed file
            raise UserError(f"{path}: not a tokenizer file ({error}); fetch it again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        path = directory / "tokenizer_config.json"
        config = read_json(path) if path.exists() else {}
        self.bos = self._special(config, "bos_token", path)
        self.eos = self._special(config, "eos_token", path)
        self.pad = self._padding(config, path)

    def _special(self, config: dict[str, Any], key: str, path: Path) -> int | None:
        """The id of the special token that the config names; None if it names none."""
        token = config.get(key)
        if isinstance(token, dict):
            token = token.get("content")
        if token is None:
            return None
        if not isinstance(token, str):
            raise UserError(f"{path}: {key} is {token!r}; expected one of the tokenizer's tokens")
        return self.id_of(token)

    def _padding(self, config: dict[str, Any], path: Path) -> int:
        """The id at padding; EOS or 0 if there is no pad token. No result depends on it."""
        pad = self._special(config, "pad_token", path)
        if pad is not None:
            return pad
        return 0 if self.eos is None else self.eos

    def id_of(self, token: str) -> int:
        """The id of one token; UserError if the vocabulary does not have it."""
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise UserError(
                f"tokenizer: has no token {token!r}; this tokenizer does not belong to the model"
            )
        return number

    @property
    def size(self) -> int:
        """The largest id plus one."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added at its ends."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: Iterable[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def piece(self, number: int) -> str:
        """The text of one id; for a special token its name."""
        return self._tokenizer.decode([number], skip_special_tokens=False)

    def check(self, template: Template) -> None:
        """UserError unless the tokenizer has every special token of the template."""
        special = template.special
        if template.with_image is not None:
            special = (*special, template.image)
        for token in special:
            if self._tokenizer.token_to_id(token) is None:
                raise UserError(
                    f"template {template.name} needs the token {token!r}, which the model's "
                    "tokenizer does not have; name another template with --template"
                )
        if template.bos and self.bos is None:
            raise UserError(
                f"tokenizer_config.json has no bos_token, and template {template.name} begins with "
                "it; name one of the tokenizer's tokens there, or another template with --template"
            )

    def prompt(self, template: Template, question: str, n_image_tokens: int) -> list[int]:
        """BOS and the ids of the prompt, with `n_image_tokens` image tokens (0: no picture)."""
        self._check_without_image(template, "question", question)
        if n_image_tokens and template.with_image is None:
            raise UserError(
                f"question {question!r} has a picture, and template {template.name} has no place "
                "for one; expected text alone (--modality text), or a vision-language model"
            )
        ids = self.ids(template.prompt(question, n_image_tokens > 0))
        if n_image_tokens:
            image_token = self.id_of(template.image)
            place = ids.index(image_token)
            ids[place : place + 1] = [image_token] * n_image_tokens
        if template.bos and self.bos is not None:
            ids = [self.bos, *ids]
        return ids

    def answer(self, template: Template, answer: str) -> tuple[int, list[int]]:
        """(r, ids): how an answer continues the ids of a prompt.

        The ids of the whole text are the prompt's ids without the last r, then `ids`. These
        include the end of the answer.

        r is 0 unless the tokenizer merges text across the border (for example "[/INST]" and a
        quotation mark). Then the first r of `ids` hold words of the prompt and get no label: the
        answer's span begins at the position that is the prompt's length.

        source  TOFU's and the released code's count: tokens of the whole text minus those of the
                prompt
        """
        self._check_without_image(template, "answer", answer)
        turn = self.ids(template.turn)
        both = self.ids(template.turn + template.answer(answer))
        n_same = 0
        for turn_id, id_of_both in zip(turn, both, strict=False):
            if turn_id != id_of_both:
                break
            n_same += 1
        if n_same == 0:
            raise UserError(
                f"answer {answer!r}: the tokenizer joins it with all of {template.turn!r} before "
                "it; begin the answer with a letter"
            )
        return len(turn) - n_same, both[n_same:]

    def _check_without_image(self, template: Template, what: str, text: str) -> None:
        if template.image in text:
            raise UserError(
                f"{what} {text!r} holds {template.image}, which marks the place of the picture; "
                "remove it"
            )
