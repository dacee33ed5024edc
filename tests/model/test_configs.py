"""config.json of every family, old and new, is read as transformers' classes read it.

The comparison needs the extra `parity`.
"""

import json

import pytest

from clear_ref.common.errors import UserError
from clear_ref.model.families import family
from clear_ref.model.language_config import language_config
from clear_ref.model.shape_table import SHAPES

# The keys of the hub's files that affect the computation. A sparse file omits the defaults of its
# class.
HUB = {
    "llava-1.5-7b, sparse": {
        "model_type": "llava",
        "image_token_index": 32000,
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "torch_dtype": "float16",
        "text_config": {
            "model_type": "llama",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "torch_dtype": "float16",
            "vocab_size": 32064,
        },
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
    },
    "llava, all but the vocabulary left out": {
        "model_type": "llava",
        "text_config": {"vocab_size": 32064},
    },
    "llava, rope_parameters": {
        "model_type": "llava",
        "text_config": {
            "model_type": "llama",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "head_dim": 20,
            "vocab_size": 32064,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
    },
    "llama-2-7b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "llama-2-70b": {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "vocab_size": 32000,
    },
    "vicuna-13b-16k": {
        "model_type": "llama",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 40,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 4.0, "type": "linear"},
        "vocab_size": 32000,
    },
    # With the harmless keys too that such files have.
    "llama-3.2-1b instruct": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "qwen2.5-7b instruct": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "initializer_range": 0.02,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "qwen2",
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "llama before grouped queries": {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    },
    "mistral-7b v0.1": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "mistral-7b v0.3": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "vocab_size": 32768,
    },
    "mistral, sparse": {"model_type": "mistral"},
    "qwen2-7b": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "qwen2-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "qwen2 with windows": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 3,
    },
    "qwen2, sparse": {"model_type": "qwen2"},
    "qwen2-vl-2b": SHAPES["qwen2-vl-2b"],
    "qwen2-vl-7b": SHAPES["qwen2-vl-7b"],
    "qwen2.5-vl-3b": SHAPES["qwen2.5-vl-3b"],
    "qwen2.5-vl-7b": SHAPES["qwen2.5-vl-7b"],
    **{name: config for name, config in SHAPES.items() if name.startswith(("llama-3", "qwen2.5-"))},
}


@pytest.mark.parametrize("name", HUB)
def test_decoders_are_what_transformers_reads_from_the_same_file(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    (tmp_path / "config.json").write_text(json.dumps(HUB[name]))
    whole = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs = whole.get_text_config()
    kind = family(HUB[name], name)
    ours = kind.config(HUB[name], name).text
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
    ):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.head_dim == (
        getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    )
    assert ours.tie_word_embeddings == bool(whole.tie_word_embeddings)
    rope = theirs.rope_parameters
    assert ours.rope.theta == rope["rope_theta"] and ours.rope.factor == rope.get("factor", 1.0)
    assert ours.mrope_section == (tuple(rope["mrope_section"]) if "mrope_section" in rope else None)
    types = getattr(theirs, "layer_types", None)
    window = getattr(theirs, "sliding_window", None)
    types = (
        types or ["sliding_attention" if window else "full_attention"] * theirs.num_hidden_layers
    )
    assert ours.windows == tuple(window if one == "sliding_attention" else None for one in types)


def test_towers_are_what_transformers_reads_from_the_same_file(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    for name in ("llava-1.5-7b, sparse", "llava, all but the vocabulary left out"):
        (tmp_path / "config.json").write_text(json.dumps(HUB[name]))
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        ours = family(HUB[name], name).config(HUB[name], name)
        for key, value in vars(ours.vision).items():
            assert value == getattr(theirs.vision_config, key), key
        assert (ours.image_token_id, ours.vision_feature_layer) == (
            theirs.image_token_id,
            theirs.vision_feature_layer,
        )


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu'"),
        ("llama", {"attention_bias": 1}, "attention_bias is 1; expected true or false"),
        (
            "llama",
            {"num_hidden_layers": 0},
            "num_hidden_layers is 0; expected a whole number above 0",
        ),
        (
            "llama",
            {"hidden_size": "wide"},
            "hidden_size is 'wide'; expected a whole number above 0",
        ),
        (
            "llama",
            {"num_key_value_heads": 3},
            "num_attention_heads 32, num_key_value_heads 3 and head_dim 128 do not go together",
        ),
        (
            "llama",
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000; expected a whole number above 0, at most 1000",
        ),
        (
            "llama",
            {"vocab_size": 10**30},
            "vocab_size is 10*; expected a whole number above 0, at most 16777216",
        ),
        ("llama", {"rope_theta": 10**400}, r"rope_theta is 10*\.\.\.; expected a number above 0"),
        ("qwen2", {"layer_types": [["a"]]}, "layer_types is .*; expected 32 of full_attention"),
        ("qwen2", {"layer_types": 5}, "layer_types is 5; expected 32 of full_attention"),
        ("llama", {"rms_norm_eps": -1}, "rms_norm_eps is -1; expected a number above 0"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            r"rope_type \(or type\) is 'dynamic'; expected default, linear, llama3, yarn",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear"}},
            "factor is None; expected a number above 0",
        ),
        (
            "llama",
            {"rope_scaling": "linear"},
            "rope_scaling is 'linear', rope parameters; expected",
        ),
        (
            "mistral",
            {"sliding_window": -4},
            "sliding_window is -4; expected a whole number above 0, or null",
        ),
        (
            "qwen2",
            {"layer_types": ["full_attention"], "use_sliding_window": True},
            "layer_types is .*; expected 32 of full_attention and sliding_attention",
        ),
        (
            "qwen2_vl",
            {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}},
            "mrope_section is .*three numbers that add up to 64",
        ),
    ],
)
def test_a_decoder_that_is_not_computed_here_is_refused(kind, change, message):
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        language_config(change, "config.json", kind)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"vision_feature_layer": [-2, -5]},
            "vision_feature_layer is .*; expected one whole number",
        ),
        ({"vision_feature_layer": 99}, "vision_feature_layer is 99"),
        (
            {"vision_feature_select_strategy": "full"},
            "vision_feature_select_strategy is 'full'; expected 'default'",
        ),
        (
            {"image_token_index": 32064},
            r"image_token_index is 32064; expected an id in \[0, 32000\)",
        ),
        ({"text_config": {"model_type": "mistral"}}, "model_type is 'mistral'; expected 'llama'"),
        (
            {"vision_config": {"model_type": "siglip_vision_model"}},
            "model_type is 'siglip_vision_model'",
        ),
        (
            {"vision_config": {"hidden_act": "gelu"}},
            "vision_config: hidden_act is 'gelu'; expected 'quick_gelu'",
        ),
        ({"text_config": "llama"}, "text_config is 'llama'; expected an object"),
        ({"vision_config": []}, r"vision_config is \[\]; expected an object"),
        ({"vision_config": {"hidden_size": 7}}, "vision sizes do not go together"),
        ({"model_type": ["llava"]}, r"model_type is \['llava'\]; expected one of llava"),
        (
            {"vision_config": {"num_hidden_layers": 10**9}},
            "num_hidden_layers is 1000000000; expected a whole number above 0",
        ),
        (
            {"model_type": "llava_next"},
            "model_type is 'llava_next'; expected one of llava, qwen2_vl, qwen2_5_vl, llama, ",
        ),
    ],
)
def test_a_llava_that_is_not_computed_here_is_refused(change, message):
    config = {"model_type": "llava"} | change
    with pytest.raises(UserError, match=message):
        family(config, "config.json").config(config, "config.json")
