"""Valid values of the keys of config.json, for small models, and small valid files to change."""

import copy
from typing import Any

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN2_TOWER = {"embed_dim": 16, "depth": 2, "num_heads": 2, "hidden_size": 16, "patch_size": 4}
QWEN2_5_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "out_hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
MROPE = {"type": "mrope", "mrope_section": [1, 1, 2]}
TOKENS = {
    "image_token_id": 50,
    "video_token_id": 51,
    "vision_start_token_id": 52,
    "vision_end_token_id": 53,
}
# Files of the hub's sparse form. A model_type may have two forms.
SPARSE: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SIZES},
    "mistral": {"model_type": "mistral", **SIZES, "sliding_window": 8},
    "qwen2": {"model_type": "qwen2", **SIZES},
    "llava": {
        "model_type": "llava",
        "image_token_index": 50,
        "text_config": SIZES,
        "vision_config": CLIP,
    },
    "qwen2_vl": {
        "model_type": "qwen2_vl",
        **TOKENS,
        "text_config": {**SIZES, "rope_scaling": MROPE},
        "vision_config": QWEN2_TOWER,
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        **TOKENS,
        "text_config": {**SIZES, "rope_scaling": MROPE},
        "vision_config": QWEN2_5_TOWER,
    },
    "qwen2_5_vl, flat": {
        "model_type": "qwen2_5_vl",
        **TOKENS,
        **SIZES,
        "rope_scaling": MROPE,
        "vision_config": QWEN2_5_TOWER,
    },
    "qwen2_vl, flat": {
        "model_type": "qwen2_vl",
        **TOKENS,
        **SIZES,
        "rope_scaling": MROPE,
        "vision_config": QWEN2_TOWER,
    },
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ROPES: list[Any] = [
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_theta": 300.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 4, "rope_theta": 500.0},
    {"rope_type": "linear", "type": "yarn", "factor": 0.5},
    {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    LLAMA3,
    {**LLAMA3, "rope_theta": 500.0, "factor": 32.0},
    {key: value for key, value in LLAMA3.items() if "original" not in key},
    {**LLAMA3, "high_freq_factor": 0.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"type": "yarn", "factor": 2.0, "beta_fast": 16, "beta_slow": 2, "truncate": False},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "rope_theta": 500.0},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.5},
    {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "proportional", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0},
    {"type": "mrope", "mrope_section": [2, 1, 1]},
    {"type": "mrope", "mrope_section": [1, 1, 1, 1]},
    {"rope_type": "linear", "factor": 2.0, "mrope_section": [1, 1, 2]},
    {"type": "default", "mrope_section": [1, 1, 2], "rope_theta": 500.0},
    {"full_attention": {"rope_type": "default", "rope_theta": 500.0}},
    {"rope_type": "default", "unknown": 3},
    {"rope_type": "axial", "rope_theta": 50.0},
    {"type": "axial", "partial_rotary_factor": 0.5},
    None,
    {},
]
IDS: list[Any] = [0, 3, None, -1, 1000, [2, 3]]
FLAGS: list[Any] = [True, False, None]
DTYPES: list[Any] = ["float32", "bfloat16", "float16", None]
# A name stands for "every name of an activation function of the reference".
ACTIVATIONS = "activations"
VALUES: dict[str, Any] = {
    "vocab_size": [80],
    "hidden_size": [32, 24],
    "intermediate_size": [40],
    "num_hidden_layers": [1, 3],
    "num_attention_heads": [4, 1],
    "num_key_value_heads": [2, None],
    "head_dim": [None, 8, 4, 12, 6],
    "hidden_act": ACTIVATIONS,
    "projector_hidden_act": ACTIVATIONS,
    "max_position_embeddings": [64, 8, 4096],
    "rms_norm_eps": [1e-5, 0.1, 1, 0.0],
    "layer_norm_eps": [1e-6, 0.1, 0.0],
    "rope_theta": [10000.0, 500, 1e6, None],
    "rope_parameters": ROPES,
    "rope_scaling": ROPES,
    "sliding_window": [None, 4, 8, 100, 0],
    "use_sliding_window": FLAGS,
    "max_window_layers": [0, 1, 2, 28, None],
    "layer_types": [
        None,
        ["full_attention"] * 2,
        ["sliding_attention"] * 2,
        ["full_attention", "sliding_attention"],
        ["attention", "sliding_attention"],
        ["chunked_attention"] * 2,
        ["full_attention"] * 3,
    ],
    "attention_dropout": [0.0, 0.5, None],
    "bos_token_id": IDS,
    "eos_token_id": IDS,
    "pad_token_id": IDS,
    "sep_token_id": IDS,
    "attention_chunk_size": [None, 4, 8],
    "kv_sharing_modes": [None, ["store", "reuse"]],
    "partial_rotary_factor": [0.5, 1.0, None],
    "original_max_position_embeddings": [16, 32, None],
    "per_layer_config": [None, {"0": {"intermediate_size": 40}}, {}],
    "quantization_config": [None, {"quant_method": "bitsandbytes", "load_in_8bit": True}],
    "dtype": DTYPES,
    "torch_dtype": DTYPES,
    "attn_implementation": ["eager", "sdpa", None],
    "architectures": [["LlamaForCausalLM"], [], None],
    "transformers_version": ["4.37.0", None],
    "id2label": [{"0": "A", "1": "B"}, None],
    "label2id": [{"A": 0, "B": 1}, None],
    "num_labels": [3],
    "problem_type": ["regression", None],
    "chunk_size_feed_forward": [4],
    "pretraining_tp": [2, None],
    "initializer_range": [0.5],
    "initializer_factor": [2.0],
    "image_size": [42, [28, 28], None],
    "patch_size": [7, [14, 14], 2],
    "num_channels": [3, 1],
    "projection_dim": [8],
    "image_token_index": [49, 1000],
    "image_token_id": [49, 50, None],
    "video_token_id": [51, 49, -1],
    "vision_start_token_id": [49, -1],
    "vision_end_token_id": [49, -1],
    "image_seq_length": [4, 100],
    "vision_feature_layer": [-2, -1, 0, 1, 2, 3, -3, -4, [-2], [-1], [-2, -1], [0]],
    "vision_feature_select_strategy": ["default", "full"],
    "out_hidden_size": [32],
    "window_size": [8, 16, 24, 31, 112, 4, 0],
    "fullatt_block_indexes": [[], [0], [0, 1], [7], [-1, 1, 1], None],
    "tokens_per_second": [2, 4.0],
    "embed_dim": [32, 24, 12],
    "depth": [1, 3],
    "mlp_ratio": [2, 3],
    "num_heads": [1, 4],
    "in_channels": [1],
    "in_chans": [1, 3],
    "spatial_patch_size": [7],
    "spatial_merge_size": [1, 4],
    "temporal_patch_size": [1, 2, [2, 2]],
    "model_type": ["clip_vision_model", "llama", "mistral", "qwen2", "qwen2_vl", None],
    "text_encoder": [None, {}],
    "tokenizer_class": ["LlamaTokenizer", None],
    "fusion_config": [None],
    "transformers_weights": [None],
    "mlp_layer_types": [["dense", "dense"], None],
    "unknown_key": [1, None],
}
# Keys without which the model would be of a real model's size.
KEPT = {"model_type", "text_config", "vision_config", "patch_size", "image_size", *SIZES, *CLIP}
KEPT |= {*QWEN2_TOWER, *QWEN2_5_TOWER, *TOKENS, "image_token_index"}


def changed(config: dict[str, Any], changes: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """A copy of config.json with other values.

    changes  (part, key, value); part "" is the top level; value DELETE removes the key
    """
    config = copy.deepcopy(config)
    for part, key, value in changes:
        place = config[part] if part else config
        if value is DELETE:
            place.pop(key, None)
        else:
            place[key] = copy.deepcopy(value)
    return config


class Delete:
    """The value that stands for a removed key."""

    def __repr__(self) -> str:
        return "absent"


DELETE = Delete()
