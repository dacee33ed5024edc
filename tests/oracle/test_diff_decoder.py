"""diff names what is wrong in a decoder: a model of transformers with one rule changed is found at
its hidden states, by name.

Run: python -m pytest tests/oracle/test_diff_decoder.py
"""

import copy
import json

import pytest
import torch

from clear_ref.model.vlm import load
from clear_ref.oracle.diff import dump_helper
from tests.helpers.diff_dumps import llava_step, qwen_step, said
from tests.helpers.letter_models import write_model
from tests.helpers.tiny_model import write_tiny

pytestmark = pytest.mark.slow
HEAD_DIM = 6  # of the tiny LLaVA: 4 query heads, 2 key and value heads


@pytest.fixture(scope="module")
def step(tiny_directory):
    """One record with a picture."""
    return llava_step(tiny_directory, 0)


@pytest.fixture(scope="module")
def vlm(tiny_directory):
    """Our model of the same directory."""
    return load(tiny_directory, "float64")


def layers(change):
    """A change of every decoder layer."""

    def of_model(model):
        with torch.no_grad():
            for layer in model.model.language_model.layers:
                change(layer)

    return of_model


def norms(change):
    """A change of every norm of the decoder."""

    def of_model(model):
        for module in model.model.language_model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                with torch.no_grad():
                    change(module)

    return of_model


def rotary(change):
    """A change of the rotary frequencies [head_dim / 2]."""

    def of_model(model):
        embedding = model.model.language_model.rotary_emb
        embedding.inv_freq = change(embedding.inv_freq)

    return of_model


def swap_heads(layer):
    weight = layer.self_attn.q_proj.weight
    weight.copy_(weight.view(4, HEAD_DIM, -1)[[1, 0, 2, 3]].reshape(weight.shape).clone())


def swap_gate_and_up(layer):
    layer.mlp.gate_proj, layer.mlp.up_proj = layer.mlp.up_proj, layer.mlp.gate_proj


def drop_layer(model):
    model.model.language_model.layers = model.model.language_model.layers[:-1]


def drop_norm(model):
    # The helper reads the output of this module.
    model.model.language_model.norm = torch.nn.Identity()


CHANGES = {
    "other_rope_base": rotary(lambda f: 5e5 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)),
    "rotary_missing": rotary(torch.zeros_like),
    "rotary_backwards": rotary(torch.neg),
    "heads_swapped": layers(swap_heads),
    "attention_not_scaled": layers(lambda layer: setattr(layer.self_attn, "scaling", 1.0)),
    "other_norm_eps": norms(lambda norm: setattr(norm, "variance_epsilon", 1e-3)),
    "norm_weight_plus_one": norms(lambda norm: norm.weight.add_(1)),
    "last_norm_missing": drop_norm,
    "gelu_for_silu": layers(lambda layer: setattr(layer.mlp, "act_fn", torch.nn.GELU())),
    "gate_up_swapped": layers(swap_gate_and_up),
    "layers_missing": drop_layer,
}
DETAILS = {
    "other_rope_base": "it is 500000",
    "heads_swapped": "query heads 0 and 1",
    "other_norm_eps": "it is 0.001",
    "layers_missing": "1 of 3",
}


def changed_step(step, change):
    """The step with a changed copy of its model."""
    other = copy.copy(step)
    other.model = copy.deepcopy(step.model)
    change(other.model)
    return other


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_rule_is_named_and_located_at_the_hidden_states(step, vlm, tmp_path, name):
    path = changed_step(step, CHANGES[name]).write(tmp_path / "d")
    stage, causes, text = said(path, vlm)
    assert (stage, set(causes)) == ("hidden", {name})
    assert DETAILS.get(name, "") in causes[name] and "record 0, position" in text


def test_the_model_is_whole_again_after_the_causes_were_tried(step, vlm, tmp_path):
    wrong = changed_step(step, CHANGES["gelu_for_silu"]).write(tmp_path / "wrong")
    assert said(wrong, vlm)[0] == "hidden"
    assert said(step.write(tmp_path / "right"), vlm)[0] == ""


def test_tiled_key_heads_are_named(tiny_directory, vlm, tmp_path, monkeypatch):
    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama, "repeat_kv", lambda x, n: x.repeat(1, n, 1, 1))
    step = llava_step(tiny_directory, 0, attention="eager")
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("hidden", {"kv_heads_tiled"})


def test_rotary_pairs_of_neighbours_are_named(step, vlm, tmp_path, monkeypatch):
    """A pair is a complex number: (x_2i + j x_2i+1) e^(j angle)."""
    from transformers.models.llama import modeling_llama

    def rotate_pairs(q, k, cos, sin, *rest, **more):
        half = cos.shape[-1] // 2
        turn = torch.complex(cos[..., :half], sin[..., :half]).unsqueeze(1)
        return tuple(
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
            for x in (q.contiguous(), k.contiguous())
        )

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", rotate_pairs)
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("hidden", {"rotary_pairs_interleaved"})


def test_adapters_without_effect_are_named(step, tiny_directory, tmp_path):
    vlm = load(tiny_directory, "float64")
    vlm.add_lora(targets="language")
    for name, parameter in vlm.model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    stage, causes, _ = said(step.write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("hidden", {"adapters_are_off"})


def test_without_hidden_states_the_cause_is_named_at_the_logits(step, vlm, tmp_path):
    wrong = changed_step(step, CHANGES["norm_weight_plus_one"])
    stage, causes, _ = said(wrong.write(tmp_path / "d", shown={"hidden": None}), vlm)
    assert (stage, set(causes)) == ("logits", {"norm_weight_plus_one"})


@pytest.mark.parametrize(
    "tensor, stage, name, change",
    [
        ("logits", "logits", "times_a_constant", lambda x: x / 0.7),
        ("logits", "logits", "logp_for_logits", lambda x: x.log_softmax(-1)),
        ("embeddings", "embeddings", "times_a_constant", lambda x: x * 24**0.5),
        ("hidden", "hidden", "rounded_to_bfloat16", lambda x: x.bfloat16().double()),
        ("embeddings", "embeddings", "rounded_to_float16", lambda x: x.half().double()),
    ],
)
def test_numbers_of_another_scale_or_dtype_are_named(
    step, vlm, tmp_path, tensor, stage, name, change
):
    found, causes, _ = said(step.write(tmp_path / "d", shown={tensor: change}), vlm)
    assert (found, set(causes)) == (stage, {name})


def test_another_change_has_a_place_and_no_cause(step, vlm, tmp_path):
    stage, causes, text = said(
        step.write(tmp_path / "d", shown={"hidden": lambda x: x + (x > 1) * 0.01}), vlm
    )
    assert stage == "hidden" and not causes and "no known mistake explains it" in text


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A Step of a small Qwen2-VL and our model of its directory."""
    directory = tmp_path_factory.mktemp("qwen")
    return qwen_step("qwen2_vl", directory), load(directory, "float64")


def test_missing_biases_are_named(qwen, tmp_path):
    def without(layer):
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            part.bias.zero_()

    stage, causes, _ = said(changed_step(qwen[0], layers(without)).write(tmp_path / "d"), qwen[1])
    assert (stage, set(causes)) == ("hidden", {"qkv_bias_missing"})


def test_interleaved_sections_are_named(qwen, tmp_path):
    """Frequency i of 8 belongs to time, height, width in turn (i modulo 3)."""

    def interleave(model):
        embedding = model.model.language_model.rotary_emb

        def forward(x, positions):
            angles = positions[..., None].to(x.dtype) * embedding.inv_freq.to(x.dtype)
            angle = torch.stack([angles[i % 3, ..., i] for i in range(8)], -1)
            angle = torch.cat((angle, angle), -1)
            return angle.cos(), angle.sin()

        embedding.forward = forward

    stage, causes, _ = said(changed_step(qwen[0], interleave).write(tmp_path / "d"), qwen[1])
    assert (stage, set(causes)) == ("hidden", {"mrope_interleaved"})


def test_rotary_scaling_that_is_not_read_is_named(tmp_path):
    """The model's frequencies are divided by 4; the other implementation's are not."""
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    directory = write_tiny(tmp_path / "tiny", text={"rope_scaling": scaling})
    step, vlm = llava_step(directory, 0), load(directory, "float64")
    assert said(step.write(tmp_path / "right"), vlm)[0] == ""
    plain = rotary(lambda f: f * 4)
    stage, causes, _ = said(changed_step(step, plain).write(tmp_path / "d"), vlm)
    assert (stage, set(causes)) == ("hidden", {"rope_scaling_ignored"})


def test_a_window_that_is_ignored_or_in_every_layer_is_named(tmp_path):
    """Of Qwen2's two layers the second has a window of 3 positions."""
    from transformers import AutoModelForCausalLM

    def with_layers(name, *kinds):
        directory = tmp_path / name
        directory.mkdir()
        write_model("qwen2", directory)
        config = json.loads((directory / "config.json").read_text())
        config |= {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
        config["layer_types"] = [f"{kind}_attention" for kind in kinds]
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    ids = torch.arange(12, 24)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    right = with_layers("right", "full", "sliding")
    vlm = load(right, "float64", template="qwen2")
    for directory, found in (
        (right, ("", set())),
        (with_layers("none", "full", "full"), ("hidden", {"window_ignored"})),
        (with_layers("both", "sliding", "sliding"), ("hidden", {"window_everywhere"})),
    ):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
        tensors = dump_helper.batch_tensors(model, inputs, ids)
        dump_helper.write_dump(tmp_path / "d", {"forget": tensors}, method="grad_ascent")
        stage, causes, _ = said(tmp_path / "d", vlm)
        assert (stage, set(causes)) == found


def test_positions_that_do_not_count_on_by_one_are_named(step, vlm, tmp_path):
    """The answer is counted from one further; transformers computes with these positions."""
    T = step.inputs["input_ids"].shape[1]
    positions = torch.arange(T)[None] + (torch.arange(T) > T - 5).long()
    stage, causes, _ = said(step.write(tmp_path / "d", {"position_ids": positions}), vlm)
    assert (stage, set(causes)) == ("position_ids", {"positions_with_gaps"})
