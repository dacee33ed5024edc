"""The table of shapes: sizes, special tokens and chat templates of real models.

source  the hub's config.json, tokenizer_config.json and generation_config.json files (llava-hf,
        Qwen, meta-llama, mistralai), the instruct models'. llava-78m is this project's own: a small
        LLaVA that keeps LLaVA's 576 image tokens and its vocabulary.
"""

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]  # a config.json as it is read or written

LLAMA: Config = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP: Config = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
QWEN: Config = {
    "model_type": "qwen2_vl",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "max_window_layers": 28,
    "use_sliding_window": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "num_heads": 16,
        "mlp_ratio": 4,
        "in_chans": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
QWEN25: Config = {
    **QWEN,
    "model_type": "qwen2_5_vl",
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "max_window_layers": 70,
    "sliding_window": 32768,
    "max_position_embeddings": 128000,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
}
QWEN_7B: Config = {  # what the 7B models have in common
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_window_layers": 28,
    "tie_word_embeddings": False,
}
QWEN_VL = ("qwen2_vl", "qwen2_5_vl")


LLAMA_3: Config = {
    **LLAMA,
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}
LLAMA_32: Config = {  # what the small models of Llama-3.2 have in common
    **LLAMA_3,
    "intermediate_size": 8192,
    "rope_scaling": LLAMA_3["rope_scaling"] | {"factor": 32.0},
    "tie_word_embeddings": True,
}
QWEN25_TEXT: Config = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "sliding_window": 32768,
    "max_window_layers": 21,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}


def _llava(vision: Config | None = None, **text: int) -> Config:
    """A LLaVA config: LLAMA with the sizes in `text`, CLIP with those in `vision`."""
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": LLAMA | {"vocab_size": 32064, **text},
        "vision_config": CLIP | (vision or {}),
    }


SHAPES: dict[str, Config] = {
    "llava-78m": _llava(
        {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    ),
    "llava-1.5-7b": _llava(),
    "llava-1.5-13b": _llava(
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
    ),
    "qwen2-vl-2b": {**QWEN, "architectures": ["Qwen2VLForConditionalGeneration"]},
    "qwen2-vl-7b": {
        **QWEN,
        **QWEN_7B,
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vision_config": {**QWEN["vision_config"], "hidden_size": 3584},
    },
    "qwen2.5-vl-3b": QWEN25,
    "qwen2.5-vl-7b": {
        **QWEN25,
        **QWEN_7B,
        "vision_config": {**QWEN25["vision_config"], "out_hidden_size": 3584},
    },
    "llama-2-7b": {**LLAMA, "architectures": ["LlamaForCausalLM"]},
    "llama-3.1-8b": LLAMA_3,
    "llama-3.2-1b": {
        **LLAMA_32,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
    },
    "llama-3.2-3b": {
        **LLAMA_32,
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
    },
    "qwen2.5-0.5b": QWEN25_TEXT,
    "qwen2.5-1.5b": {
        **QWEN25_TEXT,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "qwen2.5-7b": {**QWEN25_TEXT, **QWEN_7B, "sliding_window": 131072},
    "mistral-7b": {
        **LLAMA,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
}


@dataclass(frozen=True)
class Tokens:
    """What a real tokenizer and its chat have.

    special   {token: id}
    roles     the special tokens that tokenizer_config.json names
    size      number of ids
    stop      eos_token_id of generation_config.json
    template  a chat template that renders what the real one renders; "": the family's default
    """

    special: dict[str, int]
    roles: dict[str, str]
    size: int
    stop: int | list[int]
    template: str = ""


_LLAMA_2 = {"<unk>": 0, "<s>": 1, "</s>": 2}
_LLAMA_2_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
LLAMA_2_TOKENS = Tokens(_LLAMA_2, _LLAMA_2_ROLES, 32000, 2)
LLAVA_TOKENS = Tokens(
    _LLAMA_2 | {"<image>": 32000, "<pad>": 32001}, _LLAMA_2_ROLES | {"pad_token": "<pad>"}, 32002, 2
)
LLAMA_3_TOKENS = Tokens(
    {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|finetune_right_pad_id|>": 128004,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eom_id|>": 128008,
        "<|eot_id|>": 128009,
        "<|python_tag|>": 128010,
    },
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    128256,
    [128001, 128008, 128009],
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
)
_QWEN = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
_QWEN_ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
QWEN_VL_TOKENS = Tokens(_QWEN, _QWEN_ROLES, 151657, 151645)
QWEN25_TOKENS = Tokens(
    _QWEN,
    _QWEN_ROLES,
    151665,
    [151645, 151643],
    "<|im_start|>system\n"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)


def tokens_of(config: Config) -> Tokens:
    """The tokens of the tokenizer that belongs to a config.json of SHAPES."""
    kind = config["model_type"]
    if kind in QWEN_VL:
        return QWEN_VL_TOKENS
    if kind == "qwen2":
        return QWEN25_TOKENS
    if kind == "llava":
        return LLAVA_TOKENS
    return LLAMA_3_TOKENS if config["vocab_size"] == 128256 else LLAMA_2_TOKENS
