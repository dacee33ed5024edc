"""Rotary frequencies of every type are those of transformers, and llama3's those of its formula.

The comparison needs the extra `parity`.
"""

import copy
import math

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.model.language import rotary
from clear_ref.model.language_config import language_config
from clear_ref.model.rope import frequencies

SIZES = {
    "vocab_size": 32,
    "hidden_size": 256,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 131072,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def old(scaling, **more):
    """A config.json of the hub: rope_theta beside rope_scaling."""
    return {**SIZES, "rope_theta": 500000.0, "rope_scaling": scaling, **more}


def new(scaling, **more):
    """A config.json that transformers 5 writes: rope_parameters."""
    return {**SIZES, "rope_parameters": {"rope_theta": 500000.0, **scaling}, **more}


CASES = {
    "Llama-3.1": old(LLAMA3),
    "Llama-3.2": old({**LLAMA3, "factor": 32.0}),
    "llama3, written by transformers 5": new(LLAMA3),
    "llama3, type for rope_type": old({"type": "llama3", **dict(list(LLAMA3.items())[1:])}),
    "llama3, original length at the top": old(LLAMA3, original_max_position_embeddings=4096),
    "llama3, no original length": old(dict(list(LLAMA3.items())[:-1])),
    "yarn": old(YARN),
    "yarn, explicit attention_factor": new({**YARN, "attention_factor": 1.5}),
    "yarn, mscale": new({**YARN, "mscale": 0.7, "mscale_all_dim": 0.5}),
    "yarn, borders": new({**YARN, "beta_fast": 16, "beta_slow": 2, "truncate": False}),
    "yarn, null factor": new({**YARN, "factor": None}),
    "linear": old({"type": "linear", "factor": 4.0}),
    "default": old(None),
    "default with partial_rotary_factor": old(None, partial_rotary_factor=0.5),
    "partial_rotary_factor 1.0": old({"type": "linear", "factor": 2}, partial_rotary_factor=1.0),
    "rope_scaling without theta beside rope_parameters": {
        **new({"rope_type": "default"}),
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "theta beside and inside": {
        **old({"rope_type": "default", "rope_theta": 7000.0}),
        "rope_parameters": {"rope_theta": 9000.0},
    },
    "empty rope_scaling": {**new(LLAMA3), "rope_scaling": {}},
}


@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_those_of_transformers(name, tmp_path):
    T = pytest.importorskip("transformers", reason="the parity extra is not installed")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(T.LlamaConfig(**copy.deepcopy(CASES[name])))
    ours = language_config(CASES[name], "config.json", "llama")
    device = torch.device("cpu")
    found = frequencies(ours.rope, 64, torch.float32, device)
    assert torch.allclose(found, theirs.inv_freq, rtol=4e-7, atol=0)
    positions = torch.tensor([[0, 1, 7, 40, 511]])
    expected = theirs(torch.zeros(1, dtype=torch.bfloat16), positions)
    for mine, one in zip(rotary(positions, ours, torch.bfloat16), expected, strict=True):
        assert mine.dtype == torch.bfloat16
        # One unit in the last place of bfloat16 below 2: the angle is in float32 in both.
        assert (mine[:, 0].float() - one.float()).abs().max() <= 2**-8


def test_llama3_mixes_three_frequencies_of_llama_3_1_and_divides_fourteen():
    """By hand: pair i turns once in L = 2 pi 500000^(i/32) positions.

    L is below 8192/4 up to i = 14 (kept), above 8192/1 from i = 18 (divided by 8), and between
    (1 - s) f/8 + s f with s = (8192/L - 1) / 3.
    """
    ours = language_config(CASES["Llama-3.1"], "config.json", "llama")
    found = frequencies(ours.rope, 64, torch.float64, torch.device("cpu")).tolist()
    for number, value in enumerate(found):
        plain = 500000.0 ** (-number / 32)
        length = 2 * math.pi / plain
        if number <= 14:
            assert length < 8192 / 4 and value == pytest.approx(plain, rel=1e-12)
        elif number >= 18:
            assert length > 8192 and value == pytest.approx(plain / 8, rel=1e-12)
        else:
            share = (8192 / length - 1) / 3
            mixed = (1 - share) * plain / 8 + share * plain
            assert 0 < share < 1 and value == pytest.approx(mixed, rel=1e-12)


@pytest.mark.parametrize(
    "config, message",
    [
        (old({"type": "dynamic", "factor": 2.0}), "rope_type .or type. is 'dynamic'; expected"),
        (old({"rope_type": "longrope", "short_factor": [1.0]}), "is 'longrope'; expected default"),
        (old({"rope_type": "proportional"}), "is 'proportional'; expected default"),
        (old({"rope_type": "mrope"}), "is 'mrope'; expected default, linear, llama3, yarn"),
        (old({"rope_type": None, "type": "linear"}), "rope_type .or type. is None"),
        (
            old({"type": "linear", "factor": 2}, partial_rotary_factor=0.5),
            "partial_rotary_factor is 0.5; expected 1.0",
        ),
        (old({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor is None; expected a number"),
        (
            old({**LLAMA3, "high_freq_factor": 1.0}),
            "high_freq_factor is 1.0; expected more than low_freq_factor",
        ),
        (
            old(LLAMA3, original_max_position_embeddings=None),
            "original_max_position_embeddings is None; expected a number",
        ),
        (old({"rope_type": "yarn"}), "factor is missing"),
        ({**SIZES, "rope_theta": None}, "rope_theta is None; expected a num"),
        (old({"rope_type": "default", "rope_theta": None}), "rope_theta is None; expected a num"),
        (
            new({"full_attention": {"rope_type": "default"}}),
            "full_attention is .*; expected it abs",
        ),
    ],
)
def test_rotary_settings_that_are_not_computed_are_refused_by_name(config, message):
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        language_config(config, "config.json", "llama")
