"""Adapters in PEFT's format, written by hand, and what is checked about them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from clear_ref.common.errors import UserError
from clear_ref.model import lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FULL = "model.language_model.layers.1.mlp.gate_proj"
# Two layers: {our name: its name in transformers 5}.
Q = "language_model.model.layers.0.self_attn.q_proj"
K = "language_model.model.layers.0.self_attn.k_proj"
TODAY = {name: name.replace("language_model.model", "model.language_model") for name in (Q, K)}


def randomise(parameters, spread=0.1):
    """Fill parameters with seeded normal numbers."""
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.normal_(0, spread, generator=torch.Generator().manual_seed(number))


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


def write_adapter(directory, model, layers, **config):
    """A PEFT directory written by hand: rank 2 on these layers.

    layers  {our name: its name in the file}; config: what differs in adapter_config.json
    """
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


def check_refused(tiny, directory, expected):
    """Loading the adapter raises a one-line UserError and changes nothing."""
    trainable = {name: parameter.requires_grad for name, parameter in tiny.model.named_parameters()}
    with pytest.raises(UserError, match=expected) as caught:
        tiny.load_adapter(directory)
    assert str(caught.value).isprintable() and str(directory) in str(caught.value)
    assert not lora.adapters(tiny.model)
    assert trainable == {
        name: parameter.requires_grad for name, parameter in tiny.model.named_parameters()
    }
