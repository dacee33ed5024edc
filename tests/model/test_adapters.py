"""Adapters: which layers, what they compute, and the exchange with PEFT under every generation's
names.

Tolerance of logits: 5e-5 absolute in fp32, as in test_parity.py.
"""

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.model import expression, lora, peft_format
from tests.helpers.transformers_models import hub_name, transformers_model

ATOL = 5e-5
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DECODER = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def randomise(parameters, spread=0.1):
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.normal_(0, spread, generator=torch.Generator().manual_seed(number))


@pytest.fixture
def records():
    from PIL import Image

    return [
        Record("Who is it?", "a name", Image.radial_gradient("L")),
        Record("What is that?", "nothing at all", None),
    ]


# ---- what is adapted


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


# ---- what it computes


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


# ---- the exchange with PEFT

FULL = "model.language_model.layers.1.mlp.gate_proj"
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


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_writes_computes_the_same_here_and_goes_back(
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


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "llama", "mistral", "qwen2"])
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


def skeleton(shapes):
    """A module with a linear layer at each dotted name."""
    root = torch.nn.Module()
    for name, (rows, columns) in shapes.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        place.add_module(last, lora.Linear(columns, rows, bias=False))
    return root


# The same adapters under the names of three generations of transformers' classes, and the regular
# expressions for these names.
GENERATIONS = {
    "4.45": (
        "language_model.model.layers.0.self_attn.q_proj",
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1",
        "multi_modal_projector.linear_1",
        "language_model.lm_head",
        r"language_model\.(model\.layers\.0\.self_attn\.q_proj|lm_head)|vision_tower\.vision_model.*1\.mlp\.fc1|multi.*_1",
    ),
    "4.52": (
        "model.language_model.layers.0.self_attn.q_proj",
        "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1",
        "model.multi_modal_projector.linear_1",
        "lm_head",
        r"model\.language_model\.layers\.0\.self_attn\.q_proj|lm_head|model\.vision_tower\.vision_model.*1\.mlp\.fc1|.*_1",
    ),
    "5": (
        "model.language_model.layers.0.self_attn.q_proj",
        "model.vision_tower.encoder.layers.1.mlp.fc1",
        "model.multi_modal_projector.linear_1",
        "lm_head",
        r"model\.language_model\.layers\.0\.self_attn\.q_proj|lm_head|model\.vision_tower\.encoder.*1\.mlp\.fc1|.*linear_1",
    ),
}
OURS = GENERATIONS["4.45"][:4]


def adapter(directory, model, layers, **config):
    """A PEFT directory by hand: rank 2 on these layers (ours -> name in the file)."""
    directory.mkdir()
    linear = lora.linear_layers(model)
    tensors = {}
    for number, (ours, name) in enumerate(layers.items()):
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.full(
            (2, linear[ours].in_features), number + 1.0
        )
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.full(
            (linear[ours].out_features, 2), number + 0.5
        )
    save_file(tensors, directory / WEIGHTS)
    full = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": sorted(layers.values()),
        **config,
    }
    (directory / CONFIG).write_text(json.dumps(full))
    return directory


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("form", ["names", "expression"])
def test_adapters_of_every_generation_load_and_are_written_under_todays_names(
    tiny, tmp_path, generation, form
):
    *stored, expression = GENERATIONS[generation]
    layers = dict(zip(OURS, stored, strict=True))
    config = {"target_modules": expression} if form == "expression" else {}
    tiny.load_adapter(adapter(tmp_path / "theirs", tiny.model, layers, **config))
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
    """PEFT writes the layers that it stands for; a config by hand may say the word."""
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
        directory = adapter(
            tmp_path / str(len(layers)),
            bare,
            {name: name for name in layers},
            target_modules="all-linear",
        )
        if fits:
            assert peft_format.load(bare, "llama", directory) == layers
        else:
            with pytest.raises(UserError, match="target_modules chooses 2 layers, .* has [13]"):
                peft_format.load(bare, "llama", directory)


# ---- what is refused

Q, K = (f"language_model.model.layers.0.self_attn.{part}_proj" for part in "qk")
TODAY = {name: name.replace("language_model.model", "model.language_model") for name in (Q, K)}
BAD = {
    "another kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected 'LORA'"),
    "no kind": ({"peft_type": None}, "peft_type is None"),
    "no rank": ({"r": None}, "r is None; expected a whole number above 0"),
    "rank 0": ({"r": 0}, "r is 0"),
    "rank true": ({"r": True}, "r is True"),
    "another rank": ({"r": 3}, r"misshapen 4: .*\[2, 24\], expected \[3, 24\]"),
    "a rank that no memory holds": ({"r": 10**12}, "misshapen 4"),
    "alpha a text": ({"lora_alpha": "4"}, "lora_alpha is '4'; expected a number"),
    "alpha not finite": ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    "no targets": ({"target_modules": None}, "target_modules is None"),
    "empty targets": ({"target_modules": []}, r"target_modules is \[\]"),
    "targets of numbers": ({"target_modules": [1]}, r"target_modules is \[1\]"),
    "no expression": (
        {"target_modules": "(q_proj"},
        "target_modules is '.q_proj', no regular expression",
    ),
    "fewer targets than tensors": (
        {"target_modules": ["q_proj"], "exclude_modules": ".*vision.*|.*[12].self_attn.*"},
        "target_modules chooses 1 layers, .* has 2; .* differ in .*k_proj",
    ),
    "more targets than tensors": (
        {"target_modules": ["q_proj", "k_proj"]},
        "target_modules chooses 12 layers, .* has 2",
    ),
    "pattern not an object": ({"rank_pattern": [1]}, "rank_pattern is"),
    "pattern of no rank": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern is"),
    "pattern no expression": (
        {"alpha_pattern": {"(": 1}},
        "alpha_pattern is .*no regular expression",
    ),
    "bias": ({"bias": "all"}, "bias is 'all'; expected 'none'"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*not computed here"),
    "dora": ({"use_dora": True}, "use_dora is True, which is not computed here"),
    "some layers": ({"layers_to_transform": [0]}, "layers_to_transform is"),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
    "biases of adapters": ({"lora_bias": True}, "lora_bias is True"),
    "an option of tomorrow": ({"use_tomorrow": 3}, "use_tomorrow is 3"),
    "changed base weights": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "start of another type": ({"init_lora_weights": []}, "init_lora_weights is"),
}


def refused(tiny, directory, expected):
    trainable = {name: parameter.requires_grad for name, parameter in tiny.model.named_parameters()}
    with pytest.raises(UserError, match=expected) as caught:
        tiny.load_adapter(directory)
    assert str(caught.value).isprintable() and str(directory) in str(caught.value)
    assert not lora.adapters(tiny.model)
    assert trainable == {
        name: parameter.requires_grad for name, parameter in tiny.model.named_parameters()
    }


@pytest.mark.parametrize("kind", BAD)
def test_a_config_that_is_not_computed_here_is_refused_and_nothing_is_put_on(tiny, tmp_path, kind):
    change, expected = BAD[kind]
    refused(tiny, adapter(tmp_path / "a", tiny.model, TODAY, **change), expected)


TENSORS = {
    "one half": (
        lambda t: {n: v for n, v in t.items() if "k_proj.lora_B" not in n},
        "missing 1: .*k_proj.lora_B",
    ),
    "misshapen": (lambda t: {n: v[:, :1].clone() for n, v in t.items()}, "misshapen 4"),
    "another model's": (
        lambda t: {n.replace("layers.0", "layers.9"): v for n, v in t.items()},
        "layers.9.*no linear layer",
    ),
    "a saved module": (
        lambda t: t | {"base_model.model.lm_head.weight": torch.ones(2, 2)},
        "holds base_model.model.lm_head.weight",
    ),
    "an embedding": (
        lambda t: (
            t
            | {
                "base_model.model.model.language_model.embed_tokens.lora_embedding_A": torch.ones(
                    2, 2
                )
            }
        ),
        "holds",
    ),
    "a norm": (
        lambda t: (
            t | {"base_model.model.model.language_model.norm.lora_A.weight": torch.ones(2, 2)}
        ),
        "no linear layer",
    ),
    "none": (lambda t: {}, "holds no tensor"),
    "whole numbers": (lambda t: {n: v.long() for n, v in t.items()}, "is I64; expected one of F32"),
    "two generations": (
        lambda t: {
            n.replace("model.language_model", "language_model.model") if "q_proj" in n else n: v
            for n, v in t.items()
        },
        "several generations",
    ),
    "one layer twice": (
        lambda t: (
            t
            | {
                n.replace("model.language_model", "language_model.model"): v + 0
                for n, v in t.items()
            }
        ),
        "several generations",
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_put_on(tiny, tmp_path, kind):
    change, expected = TENSORS[kind]
    directory = adapter(tmp_path / "a", tiny.model, TODAY)
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS)
    refused(tiny, directory, expected)


def test_missing_and_broken_files_are_named(tiny, tmp_path):
    refused(tiny, tmp_path, f"{CONFIG}: no such file")
    directory = adapter(tmp_path / "a", tiny.model, TODAY)
    for data, expected in ((b"", "not a whole safetensors file"), (None, "no such file")):
        (directory / WEIGHTS).unlink() if data is None else (directory / WEIGHTS).write_bytes(data)
        refused(tiny, directory, f"{WEIGHTS}: {expected}")
    for text, expected in (
        ("[]", "holds list"),
        ("{", "not JSON"),
        ('{"r": 1, "r": 2}', "the key r is given twice"),
    ):
        (directory / CONFIG).write_text(text)
        refused(tiny, directory, f"{CONFIG}: {expected}")


def test_an_adapter_of_a_tied_head_is_refused(tmp_path):
    """Merged, it would move the embedding with the head."""
    bare = skeleton({"model.layers.0.self_attn.q_proj": (4, 4), "lm_head": (8, 4)})
    bare.embed = torch.nn.Embedding(8, 4)
    bare.embed.weight = bare.lm_head.weight
    directory = adapter(tmp_path / "a", bare, {"lm_head": "lm_head"})
    with pytest.raises(UserError, match="adapts lm_head, which the config ties to the embedding"):
        peft_format.load(bare, "qwen2", directory)


def test_a_copy_of_the_base_head_has_to_be_the_models_own(tiny, tmp_path):
    """PEFT stores the head's base weight beside an adapter of the head.

    When PEFT loads the adapter, it replaces the model's weight with this copy.
    """
    head, name = "language_model.lm_head", "base_model.model.lm_head.base_layer.weight"
    directory = adapter(tmp_path / "a", tiny.model, {head: "lm_head"})
    tensors, weight = (
        load_file(directory / WEIGHTS),
        lora.linear_layers(tiny.model)[head].weight.detach(),
    )
    for change, expected in (
        (lambda w: w + 1, "base_layer.weight is not the model's"),
        (lambda w: w[1:].clone(), "misshapen 1"),
    ):
        save_file(tensors | {name: change(weight)}, directory / WEIGHTS)
        refused(tiny, directory, expected)
    save_file(tensors | {name.replace("lm_head", FULL): weight.clone()}, directory / WEIGHTS)
    refused(tiny, directory, "unexpected 1: base_model.model.model.language_model.*base_layer")
    save_file(tensors | {name: weight.clone()}, directory / WEIGHTS)
    assert tiny.load_adapter(directory) == [head]


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": "(.*)*(.*)*(.*)*x"},
        {"exclude_modules": "(.*)*(.*)*(.*)*x"},
        {"rank_pattern": {"(.*)*(.*)*(.*)*x": 3}},
    ],
)
def test_an_expression_without_end_is_an_error_in_time(tiny, tmp_path, change, monkeypatch):
    """Backtracking would try every way to split a name, which takes more than a century here.

    A timer that was set before is set again afterwards.
    """
    monkeypatch.setattr(expression, "TIME_LIMIT_S", 0.05)
    heard, before = [], signal.signal(signal.SIGVTALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_VIRTUAL, 3600)
    try:
        started = time.monotonic()
        refused(
            tiny,
            adapter(tmp_path / "a", tiny.model, TODAY, **change),
            f"{next(iter(change))} is .*, not matched with .*_proj within 0.05 s; "
            "expected a simpler expression",
        )
        assert (
            time.monotonic() - started < 5
            and signal.getsignal(signal.SIGVTALRM)(0, None) is None
            and heard == [1]
        )
        assert 3500 < signal.getitimer(signal.ITIMER_VIRTUAL)[0] < 3601
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_expressions_match_whole_names_in_any_thread():
    """Off the main thread no timer can be set, and none is needed for this one."""
    wanted = expression.Expression.of(r".*\.(q|v)_proj", "targets")
    with ThreadPoolExecutor(1) as pool:
        for name, expected in (("a.q_proj", True), ("a.k_proj", False), ("a.q_proj.b", False)):
            assert wanted.matches(name) is expected is pool.submit(wanted.matches, name).result()


def test_a_second_adapter_is_refused(tiny, tmp_path):
    directory = adapter(tmp_path / "a", tiny.model, TODAY)
    tiny.load_adapter(directory)
    with pytest.raises(UserError, match="already carries LoRA adapters"):
        tiny.load_adapter(directory)


def test_checkpointed_layers_with_adapters_give_the_same_gradients(tiny):
    """Bit for bit; without the parity extra too."""
    from clear_ref import Record

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
