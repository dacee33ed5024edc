"""Text to token ids and back. The answer's span is known from the start; it is never searched for.

The prompt and the answer are tokenised once each and then joined. The one image token is replaced
by as many copies as the picture has features. An answer is tokenised together with the prompt's
last words, so that the joined ids are the tokens of the whole text.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName, read_json

from .special_tokens import add_special_tokens
from .templates import Template
from .tokenizer_classes import Loaded, load_class
from .tokenizer_errors import library_errors
from .tokenizer_keys import TOKENIZER_CONFIG, VISION_TOKENIZER_CONFIG


class Tokenizer:
    """The tokenizer of a model directory.

    named        {name: token} of the special tokens: bos_token, eos_token and others
    most_tokens  the most tokens of a prompt with its answer; the reference's processor cuts longer
                 ones. None: no bound
    """

    def __init__(
        self,
        directory: PathName,
        model_config: Mapping[str, Any] | None = None,
        sees_pictures: bool = False,
    ) -> None:
        """Read tokenizer.json, tokenizer_config.json and the files of special tokens.

        model_config   config.json, whose model_type decides which parts of tokenizer.json are
                       used; None: all of them
        sees_pictures  True: the reference reads the tokenizer as part of a processor
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.exists():
            raise UserError(
                f"{path}: no such file; a model directory needs its tokenizer.json (make it from a "
                "tokenizer.model with transformers: AutoTokenizer, then save_pretrained)"
            )
        where = directory / "tokenizer_config.json"
        config = read_json(where) if where.exists() else {}
        table = VISION_TOKENIZER_CONFIG if sees_pictures else TOKENIZER_CONFIG
        table.check(config, where)
        model_config = model_config or {}
        class_name = config.get("tokenizer_class") or model_config.get("tokenizer_class") or ""
        if not isinstance(class_name, str):
            raise UserError(f"{where}: tokenizer_class is {shown(class_name)}; expected a name")
        loaded = load_class(path, config, model_config.get("model_type", ""), class_name)
        self._tokenizer = loaded.tokenizer
        self.directory = directory
        self.sees_pictures = sees_pictures
        self.named = add_special_tokens(directory, config, loaded)
        self._check_decoding(config, where)
        self.most_tokens = _most_tokens(config, loaded, where) if sees_pictures else None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.bos = self._named_id("bos_token")
        self.eos = self._named_id("eos_token")
        # Without a pad token: EOS or 0. No result depends on it.
        pad = self._named_id("pad_token")
        self.pad = (self.eos or 0) if pad is None else pad
        self.n_embeddings = self.size

    def _named_id(self, name: str) -> int | None:
        """The id of a special token; None if the directory names none."""
        return self.id_of(self.named[name]) if name in self.named else None

    def _check_decoding(self, config: Mapping[str, Any], where: Path) -> None:
        """UserError if the reference changes a text after decoding it."""
        model = type(self._tokenizer.model).__name__
        if config.get("clean_up_tokenization_spaces") and model != "BPE":
            raise UserError(
                f"{where}: clean_up_tokenization_spaces is true and the tokenizer is {model}; "
                "expected false, which leaves the blanks of decoded text as they are"
            )

    def fit(self, n_embeddings: int) -> None:
        """Refuse from now on a text with an id that has no row in the embedding.

        n_embeddings  the number of rows. The tokenizer may have more ids, as long as no text uses
                      them
        """
        self.n_embeddings = n_embeddings
        if self.pad >= n_embeddings:
            self.pad = 0

    @property
    def adds_bos(self) -> bool:
        """True if the post-processor puts BOS before a text; UserError if it does anything else."""
        path = self.directory / "tokenizer.json"
        for text in ("a", "e", "o", "1", " ", "Who is this?"):
            alone = self._ids(text)
            whole = self._ids(text, special=True)
            if alone and whole == alone:
                return False
            if alone and self.bos is not None and whole == [self.bos, *alone]:
                return True
            if alone:
                break
        raise UserError(
            f"{path}: post_processor adds other tokens to a text than one BOS token before it "
            f"(bos_token {shown(self.named.get('bos_token'))}); expected that token or nothing, or "
            "name a template with --template"
        )

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

    def check_length(self, n_tokens: int) -> None:
        """UserError for a number of tokens at which the reference's processor would cut."""
        if self.most_tokens is not None and n_tokens > self.most_tokens:
            raise UserError(
                f"{self.directory}: a prompt with its answer has {n_tokens} tokens, and "
                f"max_length is {self.most_tokens}, at which the reference's processor cuts; "
                "remove max_length from tokenizer_config.json and truncation from tokenizer.json"
            )

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added at its ends."""
        ids = self._ids(text)
        largest = max(ids, default=0)
        if largest >= self.n_embeddings:
            raise UserError(
                f"{self.directory}: the text {shown(text)} has the token {self.piece(largest)!r} "
                f"with id {largest}, and the embedding has {self.n_embeddings} rows; the "
                "tokenizer belongs to another model, or the text must not use this token"
            )
        return ids

    def _ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; an id may be larger than the embedding.

        special  as the post-processor ends the text
        """
        with library_errors(self.directory, "a text cannot be cut into tokens"):
            return self._tokenizer.encode(text, add_special_tokens=special).ids

    def text(self, ids: Iterable[int]) -> str:
        """The text of token ids, without special tokens."""
        with library_errors(self.directory, "tokens cannot be made a text"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def piece(self, number: int) -> str:
        """The text of one id; for a special token its name."""
        with library_errors(self.directory, "a token cannot be made a text"):
            return self._tokenizer.decode([number], skip_special_tokens=False)

    def check(self, template: Template) -> None:
        """UserError unless the tokenizer has every special token of the template."""
        special = template.special
        if template.with_image is not None:
            special = (*special, template.image)
        for token in special:
            if self._tokenizer.token_to_id(token) not in (None, *self._ids(token)):
                raise UserError(
                    f"{self.directory}: {token!r} is in the vocabulary, and a text with it is "
                    f"split; template {template.name} needs it as an added token in tokenizer.json"
                )
            if self._tokenizer.token_to_id(token) is None:
                raise UserError(
                    f"template {template.name} needs the token {token!r}, which neither "
                    "tokenizer.json nor added_tokens_decoder of tokenizer_config.json has; name "
                    "another template with --template"
                )
        own_image = self.named.get("image_token", template.image)
        if template.with_image is not None and own_image != template.image:
            raise UserError(
                f"{self.directory}: image_token is {shown(own_image)}; expected "
                f"{template.image!r}, which template {template.name} has for the picture"
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
        text = template.prompt(question, n_image_tokens > 0)
        if template.bos_written:
            text = self.named["bos_token"] + text
        ids = self.ids(text)
        if n_image_tokens:
            image_token = self.id_of(template.image)
            place = ids.index(image_token)
            ids[place : place + 1] = [image_token] * n_image_tokens
        if template.bos and not template.bos_written and self.bos is not None:
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


def _most_tokens(config: Mapping[str, Any], loaded: Loaded, where: Path) -> int | None:
    """max_length of tokenizer_config.json, else of tokenizer.json's truncation or padding."""
    if "max_length" in config:
        most = config["max_length"]
    elif loaded.truncation is not None:
        most = loaded.truncation["max_length"]
    else:
        most = None if loaded.padding is None else loaded.padding["length"]
    if most is not None and type(most) is not int:
        raise UserError(f"{where}: max_length is {shown(most)}; expected a number of tokens")
    return most
