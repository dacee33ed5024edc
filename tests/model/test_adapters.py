"""Adapters: which layers are adapted, and what an adapter computes."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clear_ref import Record
from clear_ref.common.errors import UserError
from clear_ref.model import lora
from tests.helpers.peft_files import (
    randomise,
)

DECODER = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def records():
    return [
        Record("Who is it?", "a name", Image.radial_gradient("L")),
        Record("What is that?", "nothing at all", None),
    ]


def last_parts(names):
    return {name.rsplit(".", 1)[-1] for name in names}


def test_all_is_every_linear_layer_but_the_head(tiny):
    """Three decoder layers of seven, three tower layers of six, two in the projector: 41."""
    names = tiny.add_lora(rank=2, targets="all")
    assert len(names) == 3 * 7 + 3 * 6 + 2 == 41
    assert last_parts(names) == DECODER | {"out_proj", "fc1", "fc2", "linear_1", "linear_2"}


def test_language_leaves_tower_and_projector_alone(tiny):
    names = tiny.add_lora(rank=2, targets="language")
    assert (
        len(names) == 21
        and last_parts(names) == DECODER
        and all(name.startswith("language_model.model.") for name in names)
    )


def test_a_list_names_last_parts_or_whole_layers_and_never_half_a_part(tiny):
    assert (
        len(
            tiny.add_lora(
                rank=2, targets=["q_proj", "1.mlp.up_proj", "multi_modal_projector.linear_2"]
            )
        )
        == 6 + 1 + 1
    )
    tiny.merge_lora()
    with pytest.raises(UserError, match="LoRA target 'proj' names no linear layer"):
        tiny.add_lora(rank=2, targets=["q_proj", "proj"])


def test_any_other_text_is_an_expression_for_the_whole_name(tiny):
    names = tiny.add_lora(rank=2, targets=r"language_model\..*\.[02]\..*(q|v)_proj")
    assert names == [
        f"language_model.model.layers.{n}.self_attn.{part}_proj" for n in (0, 2) for part in "qv"
    ]
    tiny.merge_lora()
    for bad in (r"q_proj", r"language_model", r"(", r"model\.layers\..*"):
        with pytest.raises(UserError, match="no linear layer|no regular expression"):
            tiny.add_lora(rank=2, targets=bad)
    assert not lora.adapters(tiny.model)


def test_training_never_adapts_the_head(tiny):
    for targets in (["lm_head"], r".*lm_head"):
        with pytest.raises(UserError, match="names no linear layer"):
            tiny.add_lora(rank=2, targets=targets)


def test_the_manifest_lists_what_is_trained(tiny):
    """Rank 2 on q_proj [24, 24] and down_proj [24, 40] of three layers.

    2 * (24 + 24) and 2 * (40 + 24) numbers each.
    """
    total = sum(parameter.numel() for parameter in tiny.model.parameters())
    assert lora.manifest(tiny.model) == {"tensors": [], "trainable": 0, "total": total}
    tiny.add_lora(rank=2, targets=["model.layers.0.self_attn.q_proj", "down_proj"])
    found = lora.manifest(tiny.model)
    assert (
        found["trainable"] == 96 + 3 * 128
        and found["total"] == total + 480
        and len(found["tensors"]) == 8
    )
    assert found["tensors"][0] == {
        "name": "language_model.model.layers.0.self_attn.q_proj.adapter.lora_A",
        "shape": [2, 24],
        "count": 48,
    }


@pytest.mark.parametrize("stabilised, scale", [(False, 6 / 4), (True, 6 / 2)])
def test_alpha_is_divided_by_the_rank_or_by_its_root(stabilised, scale):
    layer = lora.Linear(3, 2)
    layer.adapter = lora.Adapter(layer, 4, 6, torch.Generator().manual_seed(0), stabilised)
    with torch.no_grad():
        layer.adapter.lora_A.copy_(torch.arange(12.0).reshape(4, 3))
        layer.adapter.lora_B.fill_(1.0)
        x = torch.tensor([1.0, 0.0, -1.0])
        # A x = first minus third column = -2 in each of four rows; B sums them: -8.
        assert torch.allclose(
            layer(x) - torch.nn.functional.linear(x, layer.weight, layer.bias),
            torch.full((2,), -8 * scale),
        )


def test_a_merge_is_rounded_once():
    """W = 1 and B A = 2^-24 + 2^-50 (rank 2), just more than half of fp32's step at 1 (2^-23).

    So the sum rounds to 1 + 2^-23. B A rounded to fp32 first would be 2^-24, a tie, and the sum 1.
    """
    layer = lora.Linear(1, 1, bias=False)
    layer.adapter = lora.Adapter(layer, 2, 2, torch.Generator())
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.adapter.lora_A.copy_(torch.tensor([[2.0**-24], [2.0**-50]]))
        layer.adapter.lora_B.fill_(1.0)
    before = layer.weight.clone()
    assert lora.merged(layer).item() == 1 + 2**-23 and torch.equal(layer.weight, before)


def test_saving_merges_without_touching_the_model(tiny, tmp_path):
    tiny.add_lora(rank=2)
    randomise(adapter.lora_B for adapter in lora.adapters(tiny.model).values())
    weights = {name: tensor.clone() for name, tensor in tiny.model.named_parameters()}
    tiny.save(tmp_path / "merged")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tiny.model.named_parameters())
    tiny.merge_lora()
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert stored.keys() == tiny.weights().keys() and all(
        torch.equal(stored[n], t) for n, t in tiny.weights().items()
    )


def test_checkpointed_layers_with_adapters_give_the_same_gradients(tiny):
    """Bit for bit. This test does not need the extra `parity`."""
    tiny.add_lora(rank=2)
    batch, found = tiny.encode([Record("Who is this?", "Hina.")]), []
    for on in (False, True):
        tiny.checkpoint_layers(on)
        tiny.model.zero_grad()
        tiny.hidden(batch).square().sum().backward()
        found.append(
            [tensor.grad.clone() for tensor in tiny.model.parameters() if tensor.grad is not None]
        )
    assert found[0] and all(torch.equal(one, other) for one, other in zip(*found, strict=True))
