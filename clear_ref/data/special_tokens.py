"""The special tokens of a model directory, added to its tokenizer as transformers adds them.

They are named in tokenizer_config.json, special_tokens_map.json and added_tokens.json. A token that
tokenizer.json does not have gets the next free id; a named one is special: it is never split, and
decoding leaves it out.

source  transformers 5.23.0, tokenization_utils_base.py (_from_pretrained, __init__),
        tokenization_utils_tokenizers.py (TokenizersBackend.__init__)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import read_json

from .tokenizer_classes import Loaded
from .tokenizer_keys import SPECIAL_TOKENS_MAP

NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
Token = str | AddedToken


def add_special_tokens(
    directory: Path, config: Mapping[str, Any], loaded: Loaded
) -> dict[str, str]:
    """{name: token} of the directory's special tokens; each is added to the tokenizer.

    config  tokenizer_config.json
    """
    where = directory / "tokenizer_config.json"
    values = dict(config)
    if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    own = _with_own_names(values)
    if "added_tokens_decoder" in values:
        tokens = _listed(values["added_tokens_decoder"], where)
    else:
        own.update(_add_special_tokens_map(directory, values))
        tokens = {**_added_tokens(directory, values), **loaded.file_tokens}
    if "additional_special_tokens" in values and "extra_special_tokens" not in values:
        values["extra_special_tokens"] = values["additional_special_tokens"]
    extra = values.get("extra_special_tokens") or []
    if not isinstance(extra, list):
        raise UserError(
            f"{where}: extra_special_tokens is {shown(extra)}; expected a list of tokens, or an "
            "object of named tokens"
        )
    others = [_token(token, where, "extra_special_tokens") for token in extra]
    by_text = {str(token): token for token in tokens.values()}
    named = _named(values, by_text, loaded, where)
    for name, value in values.items():
        if name.endswith("_token") and name not in NAMES and _is_token(value):
            named[name] = _token(value, where, name)
    named.update({name: _token(value, where, name) for name, value in own.items()})
    _add(loaded, tokens, named, others)
    return {name: str(token) for name, token in named.items()}


def _with_own_names(values: dict[str, Any]) -> dict[str, Any]:
    """The tokens with a name of their own, such as image_token; they are taken out of values."""
    own = {
        name: value
        for name, value in values.items()
        if name.endswith("_token") and name not in NAMES and isinstance(value, str)
    }
    for name in own:
        del values[name]
    if isinstance(values.get("extra_special_tokens"), dict):
        own.update(values.pop("extra_special_tokens"))
    return own


def _named(
    values: Mapping[str, Any], by_text: Mapping[str, AddedToken], loaded: Loaded, where: Path
) -> dict[str, Token]:
    """The tokens with a standard name, in the order of the names."""
    named: dict[str, Token] = {}
    for name in NAMES:
        value = values.get(name)
        if name not in values:
            value = loaded.defaults.get(name)
        told = name in values or name in loaded.defaults
        if name == "pad_token" and not told and loaded.padding:
            value = loaded.padding["pad_token"]
        if value is not None:
            token = _token(value, where, name)
            named[name] = by_text.get(str(token), token) if name in values else token
    return named


def _add(
    loaded: Loaded,
    tokens: Mapping[int, AddedToken],
    named: Mapping[str, Token],
    others: list[Token],
) -> None:
    """Add the listed tokens by their ids, then those with a name; named ones become special.

    A listed token that the tokenizer has already is added again: it may have become special.
    """
    tokenizer = loaded.tokenizer
    known = tokenizer.get_added_tokens_decoder().values()
    missing: list[Token] = [token for _, token in sorted(tokens.items())]
    texts = {str(token) for token in (*known, *missing)}
    for token in (*named.values(), *others):
        if str(token) not in texts and token not in missing:
            missing.append(token)
    names = {str(token) for token in named.values()}
    added = []
    for token in missing:
        if isinstance(token, str):
            token = AddedToken(token, special=True)
        elif not token.special and str(token) in names:
            token.special = True
        added.append(token)
    tokenizer.add_tokens(added)
    if loaded.again:
        special = dict.fromkeys(str(token) for token in (*named.values(), *others))
        tokenizer.add_tokens([AddedToken(text, special=True) for text in special])


def _is_token(value: object) -> bool:
    """True for a token; other values of a key that ends with _token are not read."""
    is_object = isinstance(value, dict) and value.get("__type") == "AddedToken"
    return isinstance(value, (str, AddedToken)) or is_object


def _token(value: object, where: Path, name: str = "a special token") -> Token:
    """A token of a JSON file: its text, or an object with its text and how it is found."""
    if isinstance(value, (str, AddedToken)):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        try:
            return AddedToken(**{key: each for key, each in value.items() if key != "__type"})
        except TypeError as error:
            raise UserError(f"{where}: {name} is {shown(value)} ({error})") from None
    raise UserError(f"{where}: {name} is {shown(value)}; expected one of the tokenizer's tokens")


def _listed(value: object, where: Path) -> dict[int, AddedToken]:
    """added_tokens_decoder: {id: token}."""
    tokens = {}
    for number, each in (value if isinstance(value, dict) else {}).items():
        token = _token(each, where, f"added_tokens_decoder {number}")
        if not str(number).isdecimal() or isinstance(token, str):
            raise UserError(
                f"{where}: added_tokens_decoder {number} is {shown(each)}; expected an id with an "
                "object that describes its token"
            )
        tokens[int(number)] = token
    if not isinstance(value, dict):
        raise UserError(f"{where}: added_tokens_decoder is {shown(value)}; expected an object")
    return tokens


def _add_special_tokens_map(directory: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Put special_tokens_map.json into values; returns the tokens with a name of their own."""
    path = directory / "special_tokens_map.json"
    if not path.exists():
        return {}
    found = read_json(path)
    others = {key: value for key, value in found.items() if not key.endswith("_token")}
    SPECIAL_TOKENS_MAP.check(others, path)
    for name, value in found.items():
        if name == "extra_special_tokens" and isinstance(value, list):
            tokens = list(values.get(name) or [])
            for each in value:
                token = _special(each, path, name) if isinstance(each, dict) else each
                if token not in tokens:
                    tokens.append(token)
            values[name] = tokens
        elif isinstance(value, dict) and name != "extra_special_tokens":
            values[name] = _special(value, path, name)
        else:
            values[name] = value
    extra = values.get("extra_special_tokens")
    return values.pop("extra_special_tokens") if isinstance(extra, dict) else {}


def _special(value: dict[str, Any], where: Path, name: str) -> Token:
    """The special token that an object of special_tokens_map.json describes."""
    return _token({**value, "special": True}, where, name)


def _added_tokens(directory: Path, values: Mapping[str, Any]) -> dict[int, AddedToken]:
    """The tokens of added_tokens.json; special if they have a name."""
    path = directory / "added_tokens.json"
    if not path.exists():
        return {}
    special = {str(values[name]) for name in NAMES if values.get(name)}
    special |= {str(token) for token in values.get("extra_special_tokens") or []}
    tokens = {}
    for text, number in read_json(path).items():
        if type(number) is not int:
            raise UserError(f"{path}: {text} is {shown(number)}; expected the token's id")
        is_special = text in special
        tokens[number] = AddedToken(text, normalized=not is_special, special=is_special)
    return tokens
