"""The keys that change generated text: of generation_config.json or, without it, of config.json.

The standard is the call `model.generate(**inputs, max_new_tokens=n, do_sample=False)` of
transformers 5.23. Every key of its GenerationConfig is listed.
"""

from collections.abc import Iterable

from clear_ref.common.file_keys import Fate, KeyTable, NoEffect, Only, Used

REFERENCE = "transformers 5.23, GenerationConfig and GenerationMixin.generate"

USED: dict[str, Fate] = {
    "eos_token_id": Used("the ids that end a text, one or a list; without it no text ends early"),
    "pad_token_id": Used(
        "the id behind an ended text in the reference's output (its first eos_token_id if omitted);"
        " ours there is the tokenizer's pad token, and the decoded text is the same",
        "an id that is not special in the tokenizer: it would be read as text",
    ),
    "repetition_penalty": Used("tokens of the prompt and the text so far become less likely"),
    "encoder_repetition_penalty": Used("tokens of the prompt, padding included, become likelier"),
    "no_repeat_ngram_size": Used("no n-gram occurs twice; prompt and padding count"),
    "encoder_no_repeat_ngram_size": Used("no n-gram of the prompt and its padding occurs"),
    "bad_words_ids": Used("sequences of ids that never occur"),
    "sequence_bias": Used("added to the logit of a sequence's last id: [[[ids], number], ...]"),
    "min_length": Used("no stop id while prompt, padding and text are shorter"),
    "min_new_tokens": Used("no stop id while the text is shorter; min_length is not read then"),
    "forced_bos_token_id": Used("the first token after a prompt of one id"),
    "forced_eos_token_id": Used("the last of max_new_tokens"),
    "remove_invalid_values": Used("NaN and infinite logits become finite"),
    "exponential_decay_length_penalty": Used("[start, factor]: stop ids become likelier"),
    "suppress_tokens": Used("ids that never occur"),
    "begin_suppress_tokens": Used("ids that are not the first of a text"),
    "renormalize_logits": Used("log-probabilities in place of logits: rounding may make two equal"),
}

SAMPLER = NoEffect("read by a sampler only; do_sample=False")
BEAMS = NoEffect("read by beam search only")
ASSISTANT = NoEffect("read with an assistant model only")
OUTPUT = NoEffect("decides what is returned beside the ids")
SPEED = NoEffect("decides how fast the ids come, not which")
LENGTH = NoEffect("max_new_tokens of the call counts")
METADATA = NoEffect("says where the file comes from")
CALL = Only((), "the reference takes it for an argument of generate and fails; remove it")

NO_EFFECT: dict[str, Fate] = {
    "do_sample": NoEffect("do_sample=False of the call counts"),
    **dict.fromkeys(("max_length", "max_new_tokens"), LENGTH),
    **dict.fromkeys(
        (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "top_h",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
        ),
        SAMPLER,
    ),
    **dict.fromkeys(
        ("early_stopping", "length_penalty", "diversity_penalty", "num_beam_groups"), BEAMS
    ),
    "low_memory": NoEffect("read by contrastive search only"),
    **dict.fromkeys(
        (
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "assistant_confidence_threshold",
            "assistant_lookbehind",
            "target_lookbehind",
            "assistant_ensemble_weight",
            "max_matching_ngram_size",
            "speculation_type",
        ),
        ASSISTANT,
    ),
    **dict.fromkeys(
        (
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "output_logits",
            "return_dict_in_generate",
        ),
        OUTPUT,
    ),
    **dict.fromkeys(
        (
            "use_cache",
            "max_cache_len",
            "cache_config",
            "disable_compile",
            "prefill_chunk_size",
            "continuous_batching_config",
        ),
        SPEED,
    ),
    "bos_token_id": NoEffect("read for an empty prompt only"),
    "decoder_start_token_id": NoEffect("read for encoder-decoder models only"),
    **dict.fromkeys(
        ("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"),
        METADATA,
    ),
}

SEARCH = "the reference does not generate greedily then; remove it"
REFUSED: dict[str, Fate] = {
    "num_beams": Only((None, 1), "beam search is not computed here; set it to 1"),
    "num_return_sequences": Only((None, 1), "one text for each prompt is computed; set it to 1"),
    "constraints": Only((None,), SEARCH),
    "force_words_ids": Only((None,), SEARCH),
    "penalty_alpha": Only((None, 0), "contrastive search is not computed here; remove it"),
    "dola_layers": Only((None,), SEARCH),
    "use_mtp": Only((None, False), SEARCH),
    "prompt_lookup_num_tokens": Only((None,), SEARCH),
    "assistant_early_exit": Only((None,), SEARCH),
    "is_assistant": Only((None, False), SEARCH),
    "guidance_scale": Only((None, 1), "classifier-free guidance is not computed here; set it to 1"),
    "watermarking_config": Only((None,), "watermarks are not computed here; remove it"),
    "token_healing": Only((None, False), "the reference then needs a tokenizer in the call"),
    "stop_strings": Only((None,), "the reference then needs a tokenizer in the call; remove it"),
    "max_time": Only((None,), "the text would depend on the machine's speed; remove it"),
    "cache_implementation": Only(
        (
            None,
            "dynamic",
            "static",
            "offloaded",
            "offloaded_static",
            "sliding_window",
            "hybrid",
            "hybrid_chunked",
            "offloaded_hybrid",
            "offloaded_hybrid_chunked",
            "paged",
        ),
        "a quantized cache changes the logits; remove it",
    ),
    "compile_config": Only((None,), "the reference does not take it from a file; remove it"),
    "force_bos_token_to_be_generated": Only(
        (None, False), "an old name; name the token in forced_bos_token_id"
    ),
}

GENERATE_ARGUMENTS: dict[str, Fate] = dict.fromkeys(
    (
        "logits_processor",
        "stopping_criteria",
        "prefix_allowed_tokens_fn",
        "synced_gpus",
        "assistant_model",
        "streamer",
        "negative_prompt_ids",
        "negative_prompt_attention_mask",
        "input_ids",
        "attention_mask",
        "position_ids",
        "pixel_values",
        "image_grid_thw",
        "mm_token_type_ids",
    ),
    CALL,
)

SETTINGS: dict[str, Fate] = USED | NO_EFFECT | REFUSED
FILE = KeyTable(
    "generation_config.json",
    "all families",
    REFERENCE,
    SETTINGS | GENERATE_ARGUMENTS,
    others="the reference stores a key that it does not know and never reads it",
)
LEGACY = KeyTable(
    "config.json",
    "generation, read without a generation_config.json only: first the top level, then text_config",
    REFERENCE + " (from_model_config)",
    SETTINGS,
    others="see the other tables of config.json",
)
TABLES: tuple[KeyTable, ...] = (FILE, LEGACY)


def legacy_keys() -> Iterable[str]:
    """The keys of config.json that are read for generation alone, or not at all."""
    return SETTINGS.keys()
