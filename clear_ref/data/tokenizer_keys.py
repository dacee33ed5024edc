"""The keys of tokenizer_config.json, special_tokens_map.json and tokenizer.json, and their fates.

The processor of a vision-language model takes keys of tokenizer_config.json as options of its call,
those of its image processor too; a language model's tokenizer does not. So there are two tables.
"""

from clear_ref.common.file_keys import Fate, KeyTable, NoEffect, Only, Used

_FILE = "tokenizer_config.json"
_REFERENCE = "transformers 5.23.0, {}PreTrainedTokenizerBase, TokenizersBackend, AutoTokenizer"
_ABSENT = Only((None,), "it replaces a part of the tokenizer; remove it")
_NOT_READ = NoEffect("not read beside a tokenizer.json, or only to save the tokenizer")
_OUTPUT = NoEffect("says what a call returns beside the ids")
_SPECIAL = Used("a special token: never split, left out of decoded text")
_CALL = "the processor takes it as an option of its call, which then changes the ids; remove it"

_EVERYWHERE: dict[str, Fate] = {
    "tokenizer_class": Used(
        "whether tokenizer.json's parts are kept or replaced by those of LlamaTokenizer, "
        "Qwen2Tokenizer or GPT2Tokenizer",
        "other classes that replace parts",
    ),
    "chat_template": Used("the prompt; see data/README.md", "a template that is none of ours"),
    "bos_token": _SPECIAL,
    "eos_token": _SPECIAL,
    "unk_token": _SPECIAL,
    "sep_token": _SPECIAL,
    "pad_token": _SPECIAL,
    "cls_token": _SPECIAL,
    "mask_token": _SPECIAL,
    "extra_special_tokens": _SPECIAL,
    "additional_special_tokens": Used("extra_special_tokens where that is absent or empty"),
    "added_tokens_decoder": Used(
        "tokens to add to tokenizer.json's; with it special_tokens_map.json and added_tokens.json "
        "are not read"
    ),
    "model_specific_special_tokens": _ABSENT,
    "add_prefix_space": Used("the blank before a text of the classes that replace parts"),
    "legacy": Used("LlamaTokenizer's blank: before every part of a text, or the first one alone"),
    "split_special_tokens": Only((False, None), "special tokens in a prompt would be split"),
    "clean_up_tokenization_spaces": Used(
        "nothing for a BPE tokenizer", "true for another kind: it removes blanks of decoded text"
    ),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": Only(
        (False, None), "it removes blanks of decoded text"
    ),
    "fix_mistral_regex": Only((False, None), "it replaces tokenizer.json's pre-tokenizer"),
    "auto_map": Only((None,), "the tokenizer is a program of the directory; no program is run"),
    "fast_tokenizer_files": Only((), "another file than tokenizer.json may be read"),
    "init_inputs": Only(([],), "it sets arguments of the class"),
    "tokenizer_object": _ABSENT,
    "post_processor": _ABSENT,
    "tokenizer_truncation": _ABSENT,
    "tokenizer_padding": _ABSENT,
    "_json_truncation": _ABSENT,
    "_json_padding": _ABSENT,
    "add_bos_token": NoEffect("dropped beside a tokenizer.json: its post-processor decides"),
    "add_eos_token": NoEffect("dropped beside a tokenizer.json: its post-processor decides"),
    "model_max_length": NoEffect("only a warning: nothing is cut without truncation=True"),
    "max_len": NoEffect("the old name of model_max_length"),
    "padding_side": NoEffect("padding is masked; here it is always on the left"),
    "truncation_side": NoEffect("nothing is cut"),
    "truncation_strategy": NoEffect("not read"),
    "pad_token_type_id": NoEffect("no model here has token types"),
    "model_input_names": NoEffect("no model here has token types"),
    "use_default_system_prompt": NoEffect("only stored since templates are files"),
    "sp_model_kwargs": NoEffect("options of SentencePiece, which is not used"),
    "spaces_between_special_tokens": NoEffect("not read by tokenizers of tokenizer.json"),
    "errors": NoEffect("not read by tokenizers of tokenizer.json"),
    "unk_id": _NOT_READ,
    "gguf_file": _NOT_READ,
    "tokenizer_file": _NOT_READ,
    "vocab_file": _NOT_READ,
    "merges_file": _NOT_READ,
    "vocab": _NOT_READ,
    "merges": _NOT_READ,
    "name_or_path": _NOT_READ,
    "is_local": _NOT_READ,
    "local_files_only": _NOT_READ,
    "processor_class": _NOT_READ,
    "backend": _NOT_READ,
    "files_loaded": _NOT_READ,
    "verbose": NoEffect("only messages"),
    "response_template": NoEffect("parses answers into messages; answers are compared as text"),
    "response_schema": NoEffect("not read"),
    "chat_control_tokens": NoEffect("read only for sanitize_control_tokens=True"),
    "_spm_precompiled_charsmap": _NOT_READ,
}
_OTHERS = (
    "the reference stores it and does not read it; a text under a key that ends with _token is one "
    "more special token"
)
# Options of a call that are methods or attributes of the tokenizer: the reference refuses the file.
_IN_THE_WAY = Only((), "the reference library refuses a file with it")

TOKENIZER_CONFIG = KeyTable(
    _FILE,
    "tokenizer of a language model",
    _REFERENCE.format(""),
    {
        **_EVERYWHERE,
        "max_length": NoEffect("read by processors only"),
        "stride": NoEffect("read by processors only"),
        "pad_to_multiple_of": NoEffect("read by processors only"),
        "add_special_tokens": _IN_THE_WAY,
    },
    _OTHERS,
)
# Options of an image processor, a video processor and a feature extractor.
_OF_PICTURES = (
    "crop_size device disable_grouping do_center_crop do_convert_rgb do_normalize do_pad "
    "do_rescale do_resize do_sample_frames default_to_square fps image_mean image_seq_length "
    "image_std input_data_format max_frames max_pixels merge_size min_frames min_pixels num_frames "
    "pad_size patch_size resample rescale_factor return_metadata return_row_col_info size "
    "size_divisor temporal_patch_size video_metadata data_format load_audio_backend sampling_rate "
    "raw_speech"
).split()

VISION_TOKENIZER_CONFIG = KeyTable(
    _FILE,
    "tokenizer of a vision-language model",
    _REFERENCE.format("ProcessorMixin, "),
    {
        **_EVERYWHERE,
        "max_length": Used("the most tokens of a prompt", "a longer prompt: it would be cut"),
        "stride": NoEffect("the overlap of parts that are cut off and not used"),
        "truncation": Only((False, None), _CALL),
        "padding": Only((False, None), _CALL),
        "text_pair": Only((None,), _CALL),
        "text_target": Only((None,), _CALL),
        "text_pair_target": Only((None,), _CALL),
        "is_split_into_words": Only((False, None), _CALL),
        "return_overflowing_tokens": Only((False, None), _CALL),
        "sanitize_control_tokens": Only((False, None), _CALL),
        "add_special_tokens": _IN_THE_WAY,
        "pad_to_multiple_of": NoEffect("padding is masked"),
        "return_tensors": _OUTPUT,
        "return_token_type_ids": _OUTPUT,
        "return_attention_mask": _OUTPUT,
        "return_special_tokens_mask": _OUTPUT,
        "return_offsets_mapping": _OUTPUT,
        "return_length": _OUTPUT,
        "return_mm_token_type_ids": Only((True, None), "plain positions would be used"),
        "return_text_replacement_offsets": _OUTPUT,
        **{key: Only((), _CALL.replace("ids", "pixels")) for key in _OF_PICTURES},
    },
    _OTHERS,
)
SPECIAL_TOKENS_MAP = KeyTable(
    "special_tokens_map.json",
    "special tokens; read where tokenizer_config.json has no added_tokens_decoder",
    _REFERENCE.format(""),
    {
        key: fate
        for key, fate in _EVERYWHERE.items()
        if fate is _SPECIAL or key == "additional_special_tokens"
    },
    # Keys that end with _token are not looked up here: each is one more special token.
)
TOKENIZER_JSON = KeyTable(
    "tokenizer.json",
    "the tokenizer",
    "tokenizers 0.23.3; transformers 5.23.0, TokenizersBackend",
    {
        "version": NoEffect("the library refuses a version that it does not know"),
        "truncation": Used(
            "nothing for a language model; the most tokens of a prompt with a processor",
            "a longer prompt: it would be cut",
        ),
        "padding": Used("the pad token where none is named; padding itself is masked"),
        "added_tokens": Used("tokens that are never split, and which of them are special"),
        "normalizer": Used("the ids, unless the tokenizer class replaces it"),
        "pre_tokenizer": Used("the ids, unless the tokenizer class replaces it"),
        "post_processor": Used(
            "the BOS token of a prompt whose template does not write one",
            "other tokens around a processor's text",
        ),
        "decoder": Used("decoded text, unless the tokenizer class replaces it"),
        "model": Used("the ids"),
    },
)
TABLES = (TOKENIZER_CONFIG, VISION_TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, TOKENIZER_JSON)
