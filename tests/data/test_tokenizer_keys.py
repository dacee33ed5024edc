"""Every key of tokenizer files that transformers reads is in a table, found in its source text."""

import inspect
import re

import pytest

from clear_ref.data.tokenizer_keys import (
    SPECIAL_TOKENS_MAP,
    TABLES,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VISION_TOKENIZER_CONFIG,
)
from tests.helpers import tiny_tokenizers

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
READS = re.compile(
    r"(?:init_kwargs|local_kwargs|kwargs|tokenizer_config)"
    r"(?:\.(?:pop|get|setdefault)\(\s*|\[)[\"'](\w+)[\"']"
    r"|[\"'](\w+)[\"'] (?:not )?in (?:init_kwargs|kwargs|tokenizer_config)\b"
)
# Options of from_pretrained, which no file gives; what a reader hands to the next one.
OPTIONS = set(
    "config use_fast tokenizer_type trust_remote_code code_revision mistral_format _from_auto "
    "_commit_hash revision cache_dir token proxies subfolder _from_pipeline force_download "
    "local_files_only tokenizer".split()
)


def sources():
    """The functions that read tokenizer_config.json or the arguments made of it."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    base = transformers.PreTrainedTokenizerBase
    backend = transformers.tokenization_utils_tokenizers.TokenizersBackend
    return (
        AutoTokenizer.from_pretrained,
        base.__init__,
        base.from_pretrained,
        base._from_pretrained,
        backend.__init__,
        backend.convert_to_native_format,
    )


def test_every_key_that_the_reference_reads_has_a_fate():
    found = set()
    for function in sources():
        for match in READS.finditer(inspect.getsource(function)):
            found.add(match.group(1) or match.group(2))
    assert len(found) > 40
    for cls in (transformers.LlamaTokenizer, transformers.Qwen2Tokenizer):
        found |= set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    found |= set(transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
    for table in (TOKENIZER_CONFIG, VISION_TOKENIZER_CONFIG):
        assert found - OPTIONS - set(table.keys) == set()


def test_every_option_of_a_processors_call_has_a_fate():
    """A processor takes options of every part from tokenizer_config.json."""
    from transformers.processing_utils import AudioKwargs, ImagesKwargs, TextKwargs, VideosKwargs

    found = set()
    for options in (TextKwargs, ImagesKwargs, VideosKwargs, AudioKwargs):
        found |= set(options.__annotations__)
    for cls in (
        transformers.CLIPImageProcessorPil,
        transformers.LlavaImageProcessorPil,
        transformers.Qwen2VLImageProcessorPil,
    ):
        found |= set(cls.valid_kwargs.__annotations__)
    assert len(found) > 40
    assert found - set(VISION_TOKENIZER_CONFIG.keys) == set()


def test_every_key_of_a_tokenizer_file_has_a_fate():
    for kind in tiny_tokenizers.KINDS:
        assert set(tiny_tokenizers.files_of(kind)["tokenizer.json"]) == set(TOKENIZER_JSON.keys)


def test_special_tokens_map_has_the_special_tokens_alone():
    named = set(transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
    assert set(SPECIAL_TOKENS_MAP.keys) == named | {
        "extra_special_tokens",
        "additional_special_tokens",
    }
    assert SPECIAL_TOKENS_MAP in TABLES
