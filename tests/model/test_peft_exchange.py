"""Adapters are exchanged with PEFT, under the names of every generation of transformers.

Tolerance of logits: 5e-5 absolute in fp32, as in test_parity.py.
"""

import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.model import lora, peft_format
from tests.helpers.peft_files import (
    FULL,
    WEIGHTS,
    randomise,
    skeleton,
    write_adapter,
)
from tests.helpers.transformers_models import hub_name, transformers_model

ATOL = 5e-5


@pytest.fixture
def records():
    return [
        Record("Who is it?", "a name", Image.radial_gradient("L")),
        Record("What is that?", "nothing at all", None),
    ]


CONFIGS = {
    "list": {"target_modules": ["q_proj", "v_proj", "fc1", "linear_2"]},
    "whole names": {
        "target_modules": [FULL, "model.vision_tower.encoder.layers.0.self_attn.q_proj"]
    },
    "one name unused": {"target_modules": ["q_proj", "no_such_layer"]},
    "expression": {"target_modules": r".*language_model.*\.(q_proj|down_proj)"},
    "expression with a negative": {"target_modules": r"^(?!.*vision_tower).*(?:linear_1|o_proj)$"},
    "all-linear": {"target_modules": "all-linear"},
    "excluded list": {
        "target_modules": "all-linear",
        "exclude_modules": ["fc1", "linear_1", "0.self_attn.q_proj"],
    },
    "excluded expression": {
        "target_modules": ["q_proj", "k_proj"],
        "exclude_modules": r".*vision_tower.*",
    },
    "rank-stabilised": {"target_modules": ["q_proj", "up_proj"], "use_rslora": True},
    "ranks and alphas by layer": {
        "target_modules": ["q_proj", "up_proj", "fc2"],
        "rank_pattern": {"q_proj": 2, r"1\.mlp\.up_proj": 5},
        "alpha_pattern": {r"language_model.*\.q_proj": 7, "fc2": 1.5},
    },
    "both": {
        "target_modules": ["q_proj", "k_proj"],
        "use_rslora": True,
        "rank_pattern": {r".*layers\.1\..*": 6},
    },
    "dropout in training": {"target_modules": ["q_proj", "fc2"], "lora_dropout": 0.3},
    "gaussian start": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "the head": {"target_modules": ["q_proj", "lm_head"]},
}


def wrapped(directory, **config):
    """PEFT's model of a directory with random adapters, in fp32."""
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    base = transformers.LlavaForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32
    ).eval()
    model = peft.get_peft_model(base, peft.LoraConfig(**{"r": 3, "lora_alpha": 5, **config})).eval()
    randomise(parameter for name, parameter in model.named_parameters() if "lora_" in name)
    return model


def logits_of(model, batch):
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
        ).logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_writes_computes_the_same_here_and_is_written_back(
    tiny_directory, tmp_path, records, kind
):
    model = wrapped(tiny_directory, **CONFIGS[kind])
    model.save_pretrained(tmp_path / "theirs")
    ours = load(tiny_directory)
    batch = ours.encode(records)
    real = batch.attention_mask.bool()
    before = ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    names = ours.load_adapter(tmp_path / "theirs")
    found, expected = (
        ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values),
        logits_of(model, batch),
    )
    assert (
        float((found - expected)[real].abs().max())
        < ATOL
        < float((found - before)[real].abs().max())
    )
    with ours.adapters_off():
        assert torch.equal(
            ours.forward(batch.input_ids, batch.attention_mask, batch.pixel_values), before
        )
    adapted = {
        name.removeprefix("base_model.model.").split(".lora_A")[0]
        for name, _ in model.named_parameters()
        if "lora_A" in name
    }
    assert set(names) == {hub_name("llava", name) for name in adapted}

    ours.save_adapter(tmp_path / "ours")
    theirs_stored, ours_stored = (
        load_file(tmp_path / "theirs" / WEIGHTS),
        load_file(tmp_path / "ours" / WEIGHTS),
    )
    extra = (
        {"base_model.model.lm_head.base_layer.weight"} if kind == "the head" else set()
    )  # a copy of the base model's
    assert theirs_stored.keys() == ours_stored.keys() | extra
    assert all(torch.equal(tensor, theirs_stored[name]) for name, tensor in ours_stored.items())
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = transformers.LlavaForConditionalGeneration.from_pretrained(
        tiny_directory, dtype=torch.float32
    ).eval()
    again = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    assert float((logits_of(again, batch) - expected)[real].abs().max()) < ATOL

    ours.merge_lora()
    merged = {
        hub_name("llava", name): tensor
        for name, tensor in model.merge_and_unload().named_parameters()
    }
    for (
        name,
        tensor,
    ) in (
        ours.weights().items()
    ):  # both round a sum of fp32 products of order 1: a few units of 2^-24
        assert torch.allclose(tensor, merged[name], rtol=0, atol=2e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen2_5_vl", "llama", "mistral", "qwen2"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "fc1", "0.mlp.up_proj", "lm_head"]])
def test_adapters_of_every_family_reach_the_layers_that_peft_adapted(tmp_path, family, targets):
    """The layers without the rest of a model; names and shapes are those of transformers.

    The values are compared tensor by tensor.
    """
    model = transformers_model(family)
    peft = pytest.importorskip("peft", reason="the parity extra is not installed")
    bare = skeleton(
        {
            hub_name(family, name): layer.weight.shape
            for name, layer in model.named_modules()
            if isinstance(layer, torch.nn.Linear)
        }
    )
    bare.load_state_dict(
        {
            hub_name(family, name): tensor
            for name, tensor in model.state_dict().items()
            if hub_name(family, name) in dict(bare.named_parameters())
        }
    )
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    randomise(parameter for name, parameter in model.named_parameters() if "lora_" in name)
    model.save_pretrained(tmp_path)
    peft_format.load(bare, family, tmp_path)
    values = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            layer, part = re.fullmatch(
                r"base_model\.model\.(.+)\.(lora_[AB])\.default\.weight", name
            ).groups()
            values[f"{hub_name(family, layer)}.adapter.{part}"] = parameter
    adapters = {name: tensor for name, tensor in bare.named_parameters() if ".adapter." in name}
    assert adapters.keys() == values.keys() and all(
        torch.equal(tensor, values[name]) for name, tensor in adapters.items()
    )


# The same adapters under the names of three generations of transformers' classes, and the regular
# expressions for these names.
GENERATIONS = {
    "4.45": (
        "language_model.model.layers.0.self_attn.q_proj",
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1",
        "multi_modal_projector.linear_1",
        "language_model.lm_head",
        r"language_model\.(model\.layers\.0\.self_attn\.q_proj|lm_head)|"
        r"vision_tower\.vision_model.*1\.mlp\.fc1|multi.*_1",
    ),
    "4.52": (
        "model.language_model.layers.0.self_attn.q_proj",
        "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1",
        "model.multi_modal_projector.linear_1",
        "lm_head",
        r"model\.language_model\.layers\.0\.self_attn\.q_proj|lm_head|"
        r"model\.vision_tower\.vision_model.*1\.mlp\.fc1|.*_1",
    ),
    "5": (
        "model.language_model.layers.0.self_attn.q_proj",
        "model.vision_tower.encoder.layers.1.mlp.fc1",
        "model.multi_modal_projector.linear_1",
        "lm_head",
        r"model\.language_model\.layers\.0\.self_attn\.q_proj|lm_head|"
        r"model\.vision_tower\.encoder.*1\.mlp\.fc1|.*linear_1",
    ),
}
OURS = GENERATIONS["4.45"][:4]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("form", ["names", "expression"])
def test_adapters_of_every_generation_load_and_are_written_under_todays_names(
    tiny, tmp_path, generation, form
):
    *stored, expression = GENERATIONS[generation]
    layers = dict(zip(OURS, stored, strict=True))
    config = {"target_modules": expression} if form == "expression" else {}
    tiny.load_adapter(write_adapter(tmp_path / "theirs", tiny.model, layers, **config))
    found = lora.adapters(tiny.model)
    assert set(found) == set(OURS)
    for number, name in enumerate(OURS):
        assert (found[name].lora_A == number + 1).all() and (
            found[name].lora_B == number + 0.5
        ).all()
    tiny.save_adapter(tmp_path / "ours")
    today = {
        f"base_model.model.{name}.lora_{part}.weight"
        for name in GENERATIONS["5"][:4]
        for part in "AB"
    }
    assert set(load_file(tmp_path / "ours" / WEIGHTS)) == today


def test_all_linear_as_a_word_is_every_layer_but_the_head(tmp_path):
    """PEFT writes the list of layers; a config written by hand may contain the word."""
    shapes = {
        "model.layers.0.self_attn.q_proj": (4, 4),
        "model.layers.0.mlp.up_proj": (6, 4),
        "lm_head": (8, 4),
    }
    for layers, fits in (
        (list(shapes)[:2], True),
        (list(shapes), False),
        (list(shapes)[:1], False),
    ):
        bare = skeleton(shapes)
        directory = write_adapter(
            tmp_path / str(len(layers)),
            bare,
            {name: name for name in layers},
            target_modules="all-linear",
        )
        if fits:
            assert peft_format.load(bare, "llama", directory) == layers
        else:
            with pytest.raises(UserError, match="target_modules: chosen are 2 layers, .* has [13]"):
                peft_format.load(bare, "llama", directory)
