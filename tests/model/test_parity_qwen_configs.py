"""Sparse config.json files of Qwen2-VL and Qwen2.5-VL are read as transformers reads them.

These tests need the extra `parity`.
"""

import json

import pytest
import torch

from clear_ref.model.families import FAMILIES
from clear_ref.model.shapes import config_of
from tests.helpers.qwen_parity import reference_class, short

# Our name of a tower's size, and transformers' for each family.
TOWER = {
    "qwen2_vl": {
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
        "num_attention_heads": "num_heads",
        "output_size": "hidden_size",
    },
    "qwen2_5_vl": {
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_hidden_layers": "depth",
        "num_attention_heads": "num_heads",
        "output_size": "out_hidden_size",
    },
}
SAME = ("in_channels", "patch_size", "temporal_patch_size", "spatial_merge_size")
# The keys of both families that give the tower's output the decoder's default width.
WIDTH = {"qwen2_vl": "hidden_size", "qwen2_5_vl": "out_hidden_size"}
HUB = {
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
}


def ours(config):
    """Our config of a config.json."""
    return FAMILIES[config["model_type"]].config(config, "config.json")


def theirs(config):
    """transformers' config of a config.json."""
    return reference_class(config["model_type"], 0).from_dict(json.loads(json.dumps(config)))


@pytest.mark.parametrize("family", WIDTH)
@pytest.mark.parametrize(
    "sparse", [{}, {"num_key_value_heads": None}, {"text_config": {"rms_norm_eps": 1e-6}}, HUB]
)
def test_what_a_sparse_config_omits_is_transformers_default(family, sparse):
    """Every complete config has the decoder's width: its default is not the tower's output."""
    width = sparse.get("hidden_size", 8192)
    vision = {WIDTH[family]: width, "in_chans": 3, "spatial_patch_size": 14}
    config = {"model_type": family, **sparse, "vision_config": vision}
    found = ours(config)
    expected = theirs(config)
    text = expected.text_config
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
    ):
        assert getattr(found.text, name) == getattr(text, name), name
    rope = text.rope_parameters
    assert found.text.rope.theta == rope["rope_theta"]
    assert list(found.text.mrope_section) == rope.get("mrope_section", [16, 24, 24])
    assert found.text.tie_word_embeddings == expected.tie_word_embeddings
    assert set(found.text.windows) == {text.sliding_window}
    tower = expected.vision_config
    for name, other in {**TOWER[family], **dict(zip(SAME, SAME, strict=True))}.items():
        assert getattr(found.vision, name) == getattr(tower, other), name
    if family == "qwen2_vl":
        assert found.vision.intermediate_size == tower.embed_dim * tower.mlp_ratio
    else:
        assert found.vision.window == tower.window_size // 28
        assert found.vision.full_blocks == set(tower.fullatt_block_indexes)
    for name in (
        "image_token_id",
        "video_token_id",
    ):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["qwen2-vl-2b", "qwen2-vl-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"])
def test_the_hubs_sizes_have_transformers_tensors(shape):
    """The hub's configs, built on the meta device: every name and shape."""
    config = {"sliding_window": 32768, **config_of(shape)}
    family = config["model_type"]
    with torch.device("meta"):
        found = FAMILIES[family].model(ours(config))
        expected = reference_class(family, 1)(theirs(config))
    assert {name: tensor.shape for name, tensor in found.named_parameters()} == {
        short(name): tensor.shape for name, tensor in expected.named_parameters()
    }
