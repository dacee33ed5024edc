"""The keys of a Qwen2.5-VL config.json: what happens to each."""

from clear_ref.common.file_keys import Fate, KeyTable, NoEffect, Only, Used

LAYERS = "every layer has the same sizes here"
PLAIN = "quantised weights are not read; expected plain ones, save the model without quantisation"
OUTPUTS = NoEffect("says what a call returns, not its values")
NOTES = NoEffect("a note, read by no computation")
LABELS = NoEffect("for classifiers")
TRAINING = NoEffect("for training only, and not computed here")
KERNEL = NoEffect("chooses the implementation; results are equal up to rounding")
IMPLEMENTED = Only(("silu", "swish"), "no other activation is computed here")

# What the base class of every config reads.
COMMON: dict[str, Fate] = {
    "architectures": NOTES,
    "model_type": Used("the top's: the family; the parts' is read by no computation"),
    "transformers_version": NOTES,
    "name_or_path": NOTES,
    "_name_or_path": NOTES,
    "_commit_hash": NOTES,
    "dtype": NoEffect("--dtype decides"),
    "torch_dtype": NoEffect("--dtype decides"),
    "return_dict": OUTPUTS,
    "output_hidden_states": OUTPUTS,
    "output_attentions": OUTPUTS,
    "use_cache": OUTPUTS,
    "attn_implementation": KERNEL,
    "_attn_implementation": KERNEL,
    "experts_implementation": KERNEL,
    "chunk_size_feed_forward": NoEffect("read by no layer of this family"),
    "is_encoder_decoder": Only((False,), "the family has no encoder for text"),
    "id2label": LABELS,
    "label2id": LABELS,
    "num_labels": LABELS,
    "problem_type": LABELS,
    "initializer_range": NoEffect("for weights that no file holds"),
    "per_layer_config": Only((None,), LAYERS),
    "quantization_config": Only((None,), PLAIN),
}
ROPE: dict[str, Fate] = {
    "rope_parameters": Used("the rotary positions; a rope_scaling beside it replaces it whole"),
    "rope_scaling": Used("the rotary positions; replaces rope_parameters whole"),
    "rope_theta": Used("base of the rotary frequencies, unless the object above names one"),
}
DECODER: dict[str, Fate] = {
    "vocab_size": Used("rows of embedding and head"),
    "hidden_size": Used("width"),
    "intermediate_size": Used("width inside the feed-forward network"),
    "num_hidden_layers": Used("layers"),
    "num_attention_heads": Used("query heads"),
    "num_key_value_heads": Used("key and value heads; null: as many as query heads"),
    "hidden_act": IMPLEMENTED,
    "rms_norm_eps": Used("epsilon of the norms"),
    "use_sliding_window": Used("false or null: no layer has a window"),
    "sliding_window": Used("positions that a window holds; null: no layer has a window"),
    "max_window_layers": Used("the first layer with a window"),
    "layer_types": Used("which layers have a window"),
    "bos_token_id": NoEffect("the template begins with no such token"),
    "eos_token_id": Used("the end of generated text, without a generation_config.json"),
    "pad_token_id": NoEffect("padding is masked"),
    "max_position_embeddings": Used("yarn and llama3: the default of the length before scaling"),
    "attention_dropout": TRAINING,
    **ROPE,
}
# Without text_config the decoder reads these keys at the top: those that its class declares.
FLAT = (
    *DECODER,
    *("architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder"),
    *("label2id", "output_hidden_states", "problem_type", "return_dict", "transformers_version"),
    "use_cache",
)
TOP = KeyTable(
    "config.json",
    "qwen2_5_vl, the top",
    "transformers 5.23.0, Qwen2_5_VLConfig",
    {
        **COMMON,
        "text_config": Used("the decoder; null or absent: its keys stand at the top"),
        "vision_config": Used("the tower; null or absent: its defaults"),
        "image_token_id": Used("the token that a picture's features replace"),
        "video_token_id": Used("a text with this token is refused"),
        "vision_start_token_id": NoEffect("the template writes this token by name"),
        "vision_end_token_id": NoEffect("the template writes this token by name"),
        "tie_word_embeddings": Used("true here or in text_config: the head is the embedding"),
        "auto_map": NoEffect("code of a checkpoint is never run"),
    },
    "without text_config the decoder's keys stand here (next table); any other key is kept as an "
    "attribute that no code of the family reads",
)
TEXT = KeyTable(
    "config.json",
    "qwen2_5_vl, text_config",
    "transformers 5.23.0, Qwen2_5_VLTextConfig",
    {
        **COMMON,
        **DECODER,
        "head_dim": Used("must be hidden_size / num_attention_heads; at the top: not read"),
        "tie_word_embeddings": Used("true here or at the top: the head is the embedding"),
        "partial_rotary_factor": Used("nothing with rope_type default", "otherwise all but 1.0"),
        "original_max_position_embeddings": Used("yarn and llama3: the length before scaling"),
    },
    "kept as an attribute that no code of the family reads",
)
VISION = KeyTable(
    "config.json",
    "qwen2_5_vl, vision_config",
    "transformers 5.23.0, Qwen2_5_VLVisionConfig",
    {
        **COMMON,
        **ROPE,
        "depth": Used("blocks"),
        "num_hidden_layers": Used("another name of depth; the one that counts if both are given"),
        "hidden_size": Used("width"),
        "intermediate_size": Used("width inside the feed-forward network"),
        "num_heads": Used("heads"),
        "num_attention_heads": Used("another name of num_heads, counts if both are given"),
        "head_dim": Used("must be hidden_size / num_heads"),
        "hidden_act": IMPLEMENTED,
        "in_channels": Used("colours"),
        "in_chans": NoEffect("in_channels is read instead"),
        "patch_size": Used("side of a patch in pixels"),
        "temporal_patch_size": Used("frames of a patch"),
        "spatial_patch_size": NoEffect("patch_size is read instead"),
        "spatial_merge_size": Used("side, in patches, of the block that becomes one token"),
        "window_size": Used("side of a window in pixels"),
        "fullatt_block_indexes": Used("blocks that attend to the whole picture"),
        "out_hidden_size": Used("the decoder's width"),
        "tokens_per_second": NoEffect("for videos"),
    },
    "kept as an attribute that no code of the family reads",
)
TABLES: tuple[KeyTable, ...] = (TOP, TEXT, VISION)
