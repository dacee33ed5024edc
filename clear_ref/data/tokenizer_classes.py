"""The tokenizer that transformers makes of a tokenizer.json, by the model type and the class.

Most directories get the tokenizer of the file. Three classes keep only its vocabulary, merges,
post-processor and added tokens, and bring their own normaliser, pre-tokeniser and decoder.

source  transformers 5.23.0, models/auto/tokenization_auto.py (AutoTokenizer.from_pretrained),
        models/llama/tokenization_llama.py, models/qwen2/tokenization_qwen2.py,
        models/gpt2/tokenization_gpt2.py
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import note_read, read_json, read_text

from .tokenizer_errors import library_errors

# Model types whose class is always the file's, and always Qwen2Tokenizer.
_OF_THE_FILE = ("", "llava", "mistral")
_OF_QWEN = ("qwen2",)
# Model types that take Qwen2Tokenizer where no class is named.
_QWEN_BY_DEFAULT = ("qwen2_vl", "qwen2_5_vl")
_CLASSES = {
    "LlamaTokenizer": "llama",
    "Qwen2Tokenizer": "qwen2",
    "GPT2Tokenizer": "gpt2",
    "TokenizersBackend": "file",
    "PreTrainedTokenizer": "file",
    "PythonBackend": "file",
}
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Loaded:
    """A tokenizer before tokenizer_config.json's special tokens are added.

    tokenizer    the tokenizer
    file_tokens  {id: added token} of tokenizer.json
    padding      the padding of tokenizer.json, or None; truncation likewise
    defaults     special tokens by name that the class has without being told; None: it has no such
                 token, and padding names none either
    again        True: the class adds its special tokens a second time, as special ones
    """

    tokenizer: tokenizers.Tokenizer
    file_tokens: dict[int, tokenizers.AddedToken]
    padding: dict[str, Any] | None
    truncation: dict[str, Any] | None
    defaults: dict[str, str | None] = field(default_factory=dict)
    again: bool = False


def load_class(path: Path, config: Mapping[str, Any], model_type: str, class_name: str) -> Loaded:
    """The tokenizer of a tokenizer.json as the class makes it.

    config      tokenizer_config.json
    model_type  of config.json; "": the file's tokenizer
    class_name  tokenizer_class of tokenizer_config.json or config.json; "": none
    raises      UserError for a class that is not known here
    """
    note_read(path)
    with library_errors(path, "not a tokenizer file"):
        of_file = tokenizers.Tokenizer.from_file(str(path))
    kind = _kind(path, model_type, class_name)
    tokenizer = of_file
    defaults: dict[str, str | None] = {}
    if kind != "file":
        model = _model(path, class_name)
        with library_errors(path, "its vocabulary and merges are no BPE"):
            tokenizer, defaults = _CLASS_MAKERS[kind](model, config)
            if of_file.post_processor is not None:
                tokenizer.post_processor = of_file.post_processor
    loaded = Loaded(
        tokenizer,
        of_file.get_added_tokens_decoder(),
        of_file.padding,
        of_file.truncation,
        defaults,
        kind == "qwen2",
    )
    return loaded


def _kind(path: Path, model_type: str, class_name: str) -> str:
    """Which tokenizer the reference makes: of the file, or of the class llama, qwen2 or gpt2."""
    name = class_name.removesuffix("Fast")
    if model_type in _OF_THE_FILE:
        return "file"
    if model_type in _OF_QWEN:
        return "qwen2"
    if not name:
        return "qwen2" if model_type in _QWEN_BY_DEFAULT else "file"
    if name == "LlamaTokenizer" and '"ByteLevel"' in read_text(path):
        return "file"
    if name not in _CLASSES:
        raise UserError(
            f"{path.parent}: tokenizer_class is {shown(class_name)}, which is not known here; "
            f"expected one of {', '.join(_CLASSES)}, or PreTrainedTokenizerFast to take "
            "tokenizer.json as it is"
        )
    return _CLASSES[name]


def _model(path: Path, class_name: str) -> dict[str, Any]:
    """The vocabulary and merges of a tokenizer.json, for a class that keeps only these."""
    model = read_json(path).get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise UserError(
            f"{path}: its model is not BPE, and tokenizer_class {shown(class_name)} is; set "
            "tokenizer_class to PreTrainedTokenizerFast to take the file as it is"
        )
    # tokenizers has read the file before, so its model has a vocabulary and merges.
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        for merge in model["merges"]
    ]
    return {"vocab": model["vocab"], "merges": merges}


def _llama(
    model: dict[str, Any], config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
    """LlamaTokenizer: SentencePiece's BPE with bytes for unknown signs; a blank is "▁"."""
    with_prefix = config.get("add_prefix_space")
    with_prefix = True if with_prefix is None else bool(with_prefix)
    tokenizer = tokenizers.Tokenizer(models.BPE(**model, fuse_unk=True, byte_fallback=True))
    scheme = "never"
    if with_prefix:
        scheme = "always" if config.get("legacy") else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if with_prefix:
        steps.append(decoders.Strip(" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def _qwen2(
    model: dict[str, Any], config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
    """Qwen2Tokenizer: byte-level BPE of text in Unicode form C, every digit a word."""
    tokenizer = tokenizers.Tokenizer(
        models.BPE(**model, continuing_subword_prefix="", end_of_word_suffix="")
    )
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(tokenizers.Regex(_QWEN_WORDS), "isolated")
    with_prefix = bool(config.get("add_prefix_space"))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=with_prefix, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return tokenizer, {"unk_token": end, "eos_token": end, "pad_token": end}


def _gpt2(
    model: dict[str, Any], config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
    """GPT2Tokenizer: byte-level BPE of GPT-2's words; a number is one word."""
    tokenizer = tokenizers.Tokenizer(
        models.BPE(**model, continuing_subword_prefix="", end_of_word_suffix="")
    )
    with_prefix = bool(config.get("add_prefix_space"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=with_prefix)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return tokenizer, {"unk_token": end, "bos_token": end, "eos_token": end, "pad_token": None}


_CLASS_MAKERS = {"llama": _llama, "qwen2": _qwen2, "gpt2": _gpt2}
