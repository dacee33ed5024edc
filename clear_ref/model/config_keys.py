"""What happens to each key of config.json: top level, text_config, vision_config, rotary settings.

One table for each class of the reference that reads a part of the file; those of Qwen2-VL's and
Qwen2.5-VL's vision_config are in qwen2_5_keys.py. The readers of this room
check a file with its table first (see `KeyTable` in common/file_keys.py).
"""

from clear_ref.common.file_keys import Fate, KeyTable, NoEffect, Only, Used

from .config_base_keys import COMMON, DROPOUT, GENERATION, TOP

FILE = "config.json"
LIBRARY = "transformers 5.23"
OTHERS = f"{LIBRARY} stores it and no code of these families reads it"

EOS = Used("where generation ends, in a directory without generation_config.json")
# Keys of every decoder.
DECODER: dict[str, Fate] = {
    "vocab_size": Used("rows of the embedding and of the head"),
    "hidden_size": Used("width of the hidden states"),
    "intermediate_size": Used("width inside the feed-forward network"),
    "num_hidden_layers": Used("number of layers"),
    "num_attention_heads": Used("number of query heads"),
    "num_key_value_heads": Used("number of key-value heads"),
    "rms_norm_eps": Used("the norms' epsilon", "0 and negative numbers"),
    "hidden_act": Used("the feed-forward network's function", "all but silu and swish"),
    "tie_word_embeddings": Used("whether the head is the embedding"),
    "rope_parameters": Used("rotary positions, see the table of its keys"),
    "rope_scaling": Used("replaces rope_parameters whole, unless null or empty"),
    "rope_theta": Used("base of the rotary frequencies, if the rotary settings name none"),
    "partial_rotary_factor": Used(
        "nothing with rope_type default", "with another rope_type, all but 1.0"
    ),
    "max_position_embeddings": Used(
        "yarn and llama3, if original_max_position_embeddings is missing; otherwise nothing"
    ),
    "original_max_position_embeddings": Used("yarn and llama3: replaces the rotary settings' own"),
    "attention_dropout": DROPOUT,
    "bos_token_id": NoEffect("the tokenizer decides whether a text begins with it"),
    "eos_token_id": EOS,
    "pad_token_id": NoEffect("padding is masked; the row's weights come from the file"),
    "sep_token_id": NoEffect("it decides whether a warning is shown"),
    "is_causal": Only((True,), "attention to later tokens is not computed here"),
    "attention_chunk_size": Only((None,), "it cuts what a generated token attends to; remove it"),
    "kv_sharing_modes": Only((None,), "layers that share keys are not computed here"),
    **dict.fromkeys(
        ("mlp_layer_types", "mtp_layer_types", "mtp_mlp_layer_types", "mtp_per_layer_config"),
        NoEffect("it describes experts or further heads, which these families do not have"),
    ),
    "number_of_conv_states": NoEffect("for layers that are convolutions, which are refused"),
    "num_mtp_layers": NoEffect("heads that predict further tokens are not used in a forward pass"),
}
HEAD_DIM = Used("width of one head", "odd numbers")
ALL_FULL = Used("nothing", "all but full_attention (the reference reads it in generation only)")
WINDOW = Used("positions that a token attends to; null: all", "numbers below 1")
QWEN2_WINDOWS: dict[str, Fate] = {
    "sliding_window": WINDOW,
    "use_sliding_window": Used("false: sliding_window is not read"),
    "max_window_layers": Used("the first of the layers with a window, without layer_types"),
    "layer_types": Used("which layers have a window", "all but full and sliding attention"),
}


def table(part: str, reader: str, *keys: dict[str, Fate], others: str = OTHERS) -> KeyTable:
    """The table of one part of config.json that the reference's class `reader` reads."""
    merged: dict[str, Fate] = dict(COMMON)
    for each in keys:
        merged |= each
    return KeyTable(FILE, part, f"{LIBRARY}, {reader}", merged, others)


LLAMA = table(
    "llama; text_config of llava",
    "LlamaConfig",
    TOP,
    DECODER,
    {
        "head_dim": HEAD_DIM,
        "attention_bias": Used("whether q, k, v and o have a bias"),
        "mlp_bias": Used("whether the feed-forward network's layers have a bias"),
        "sliding_window": Used(
            "nothing in a forward pass; in generation the reference's cache forgets older tokens",
            "in generation, a text longer than it",
        ),
        "layer_types": ALL_FULL,
    },
)
MISTRAL = table(
    "mistral",
    "MistralConfig",
    TOP,
    DECODER,
    {
        "head_dim": HEAD_DIM,
        "sliding_window": WINDOW,
        "layer_types": Used(
            "nothing", "all but sliding_attention (full_attention if sliding_window is null)"
        ),
    },
)
QWEN2 = table("qwen2", "Qwen2Config", TOP, DECODER, QWEN2_WINDOWS, {"head_dim": HEAD_DIM})
QWEN2_VL_DECODER: dict[str, Fate] = (
    DECODER
    | QWEN2_WINDOWS
    | {"head_dim": Used("nothing", "all but hidden_size / num_attention_heads")}
)
QWEN2_VL_TEXT = table(
    "text_config of qwen2_vl and qwen2_5_vl",
    "Qwen2VLTextConfig and Qwen2_5_VLTextConfig",
    TOP,
    QWEN2_VL_DECODER,
)

VLM_TOP: dict[str, Fate] = {
    **TOP,
    "text_config": Used("the decoder"),
    "vision_config": Used("the vision tower"),
    "tie_word_embeddings": Used("true here or in text_config: the head is the embedding"),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), GENERATION),
}
IN_TEXT: dict[str, Fate] = dict.fromkeys(
    ("rope_scaling", "rope_theta"), NoEffect("read in text_config alone")
)
LLAVA = table(
    "top level of llava",
    "LlavaConfig",
    VLM_TOP,
    IN_TEXT,
    {
        "image_token_index": Used("the token that a picture's features replace"),
        "image_token_id": Used("the same, and beats image_token_index"),
        "image_seq_length": NoEffect("the tower's picture size decides"),
        "projector_hidden_act": Used(
            "the projector's function", "all but gelu (also called gelu_python)"
        ),
        "multimodal_projector_bias": Used("whether the projector's layers have a bias"),
        "vision_feature_layer": Used("which of the tower's states are used", "several layers"),
        "vision_feature_select_strategy": Only(
            ("default",), "features with the class token are not computed here"
        ),
    },
)
TOWER: dict[str, Fate] = {
    "model_type": Only(("clip_vision_model",), "no other tower is computed here"),
    "attention_dropout": DROPOUT,
    "hidden_act": Only(("quick_gelu",), "no other function is computed here"),
}
CLIP = table(
    "vision_config of llava",
    "CLIPVisionConfig",
    TOWER,
    IN_TEXT,
    {
        "hidden_size": Used("width of the tower"),
        "intermediate_size": Used("width inside the feed-forward network"),
        "num_hidden_layers": Used("number of layers"),
        "num_attention_heads": Used("number of heads"),
        "image_size": Used("side of a picture in pixels", "a list"),
        "patch_size": Used("side of a patch in pixels", "a list"),
        "layer_norm_eps": Used("the norms' epsilon", "0 and negative numbers"),
        "num_channels": Only((3,), "pictures have three colours here"),
        "projection_dim": NoEffect("the width of CLIP's own projection, which LLaVA does not use"),
    },
)
QWEN2_VL_TOKENS: dict[str, Fate] = {
    "image_token_id": Used("the token that a picture's features replace"),
    "video_token_id": Used("refused in a text: videos are not computed here"),
    "vision_start_token_id": NoEffect("the template writes it; positions do not depend on it"),
    "vision_end_token_id": NoEffect("the template writes it; positions do not depend on it"),
}
QWEN2_VL = table(
    "top level of qwen2_vl and qwen2_5_vl",
    "Qwen2VLConfig and Qwen2_5_VLConfig",
    VLM_TOP,
    IN_TEXT,
    QWEN2_VL_TOKENS,
)
KEPT_AT_TOP = (
    "attention_chunk_size",
    "head_dim",
    "kv_sharing_modes",
    "original_max_position_embeddings",
    "partial_rotary_factor",
)
QWEN2_VL_FLAT = table(
    "top level of qwen2_vl and qwen2_5_vl, without text_config",
    "Qwen2VLConfig and Qwen2_5_VLConfig",
    QWEN2_VL_DECODER,
    VLM_TOP,
    QWEN2_VL_TOKENS,
    {
        "eos_token_id": EOS,
        "is_causal": COMMON["is_causal"],
        **dict.fromkeys(
            KEPT_AT_TOP, NoEffect("without text_config it does not reach the decoder's class")
        ),
    },
)
QWEN2_VL_FROM_TOP = set(QWEN2_VL_DECODER) - {*KEPT_AT_TOP, "is_causal", "tie_word_embeddings"}
LONGROPE = NoEffect("read with rope_type longrope alone, which is refused")
LAYER_TYPE = Only((), "rotary settings for each kind of layer are not computed here")
ROPE = KeyTable(
    FILE,
    "rope_parameters and rope_scaling of a decoder",
    f"{LIBRARY}, modeling_rope_utils.py",
    {
        "rope_type": Used(
            "how frequencies are scaled", "all but default, linear, llama3, yarn (Qwen-VL: mrope)"
        ),
        "type": Used("the same, without rope_type"),
        "rope_theta": Used("base of the frequencies; beats the one beside the rotary settings"),
        "factor": Used("linear, llama3, yarn: divides frequencies", "0 and negative numbers"),
        "original_max_position_embeddings": Used(
            "llama3, yarn: positions before scaling; the one beside the rotary settings beats it"
        ),
        "low_freq_factor": Used("llama3: where frequencies begin to be divided"),
        "high_freq_factor": Used("llama3: where they are no more", "up to low_freq_factor"),
        "attention_factor": Used("yarn: cos and sin are multiplied by it", "0 and below"),
        "beta_fast": Used("yarn: rotations from which frequencies are kept"),
        "beta_slow": Used("yarn: rotations below which frequencies are divided"),
        "mscale": Used("yarn: the default of attention_factor", "0 and below"),
        "mscale_all_dim": Used("yarn: the default of attention_factor", "0 and below"),
        "truncate": Used("yarn: false keeps the borders between whole frequencies"),
        "partial_rotary_factor": Used(
            "nothing with rope_type default", "with another rope_type, all but 1.0"
        ),
        "mrope_section": Used("Qwen-VL: frequencies of each axis, in turn; otherwise nothing"),
        "short_factor": LONGROPE,
        "long_factor": LONGROPE,
        **dict.fromkeys(
            (
                "full_attention",
                "sliding_attention",
                "chunked_attention",
            ),
            LAYER_TYPE,
        ),
    },
    f"{LIBRARY} names it in a warning and does not read it",
)
# The table of a decoder, by the model_type whose class reads it.
DECODERS: dict[str, KeyTable] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen2_vl": QWEN2_VL_TEXT,
    "qwen2_5_vl": QWEN2_VL_TEXT,
}
TABLES: tuple[KeyTable, ...] = (
    LLAVA,
    CLIP,
    QWEN2_VL,
    QWEN2_VL_FLAT,
    QWEN2_VL_TEXT,
    LLAMA,
    MISTRAL,
    QWEN2,
    ROPE,
)
