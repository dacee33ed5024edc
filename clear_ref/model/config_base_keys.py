"""What happens to the keys of config.json that transformers reads in every part of every family."""

from clear_ref.common.file_keys import Fate, NoEffect, Only, Used

NAMED = NoEffect("it names or describes the model; nothing is computed from it")
CLASSIFIER = NoEffect("for classifiers, of which these families' classes here are none")
RANDOM = NoEffect("it is about random weights; here all weights come from the file")
MORE_OUTPUTS = NoEffect("it decides what a call returns beside the logits")
SPEED = NoEffect("the same sums by another kernel or with other use of memory")
GENERATION = NoEffect("on logits; see the tables of generation settings")
DROPOUT = NoEffect("dropout acts in training only, and this package trains without it")
PRECISION = NoEffect("--dtype decides")
ALTERNATIVE = NoEffect("another tokenizer or processor class; the files of those decide")
ANOTHER_MODEL = Only((None,), "it describes another model; use the model's original config.json")
WEIGHTS_FILE = Only((None,), "weights of another file name or layout; rename or convert them")

# Keys that transformers reads in every part of the file.
COMMON: dict[str, Fate] = {
    **dict.fromkeys(
        (
            "architectures",
            "auto_map",
            "_commit_hash",
            "_name_or_path",
            "name_or_path",
            "transformers_version",
        ),
        NAMED,
    ),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "problem_type"), CLASSIFIER),
    **dict.fromkeys(("init_std", "initializer_factor", "initializer_range"), RANDOM),
    **dict.fromkeys(
        (
            "output_attentions",
            "output_hidden_states",
            "return_dict",
            "tie_last_hidden_states",
            "use_cache",
            "use_return_dict",
        ),
        MORE_OUTPUTS,
    ),
    **dict.fromkeys(
        (
            "_attn_implementation",
            "_attn_implementation_internal",
            "_experts_implementation",
            "_experts_implementation_internal",
            "attn_implementation",
            "chunk_size_feed_forward",
            "distributed_config",
            "experts_implementation",
            "gradient_checkpointing",
            "pretraining_tp",
        ),
        SPEED,
    ),
    **dict.fromkeys(
        (
            "assistant_confidence_threshold",
            "assistant_lookbehind",
            "bad_words_ids",
            "begin_suppress_tokens",
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_scores",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict_in_generate",
            "suppress_tokens",
            "target_lookbehind",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
        ),
        GENERATION,
    ),
    **dict.fromkeys(("dtype", "torch_dtype"), PRECISION),
    **dict.fromkeys(
        (
            "allow_global_per_layer_attribute_access",
            "serialize_explicit_per_layer_config",
        ),
        NoEffect("it is about per_layer_config, which is refused"),
    ),
    "per_layer_config": Only((None,), "layers of unequal structure are not computed here"),
    "is_encoder_decoder": Only((False,), "a model with an encoder is not computed here"),
    "is_causal": Only((), "it switches the causal mask; remove it"),
    "quantization_config": Only(
        (None,),
        "quantised weights are not computed here; fetch the original weights, or load the model "
        "with transformers, call dequantize() and save_pretrained()",
    ),
    "fusion_config": Only((None,), "fused layers are not computed here; remove it"),
    "transformers_weights": WEIGHTS_FILE,
    **dict.fromkeys(("decoder", "generator", "text_encoder"), ANOTHER_MODEL),
}
# Keys that transformers' loaders of tokenizers and processors read at the top level.
TOP: dict[str, Fate] = {
    "model_type": Used("the family"),
    **dict.fromkeys(
        (
            "feature_extractor_type",
            "image_processor_type",
            "processor_class",
            "tokenizer_class",
            "video_processor_type",
        ),
        ALTERNATIVE,
    ),
}
