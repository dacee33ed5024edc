"""Adapters in PEFT's file format: adapter_config.json and adapter_model.safetensors.

The files have the layer names of the transformers classes that PEFT wrapped. The names of every
generation are read (names.py); those of the current generation are written.
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line

from . import lora
from .names import CURRENT_MODULES, GENERATIONS, name_in_generation, our_name
from .peft_config import CONFIG, AdapterConfig, read_config, write_config
from .weights import (
    Shape,
    StoredTensor,
    check_fit,
    fill,
    read_tensors,
    weights_of,
    write_tensors,
)

WEIGHTS = "adapter_model.safetensors"
LORA_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
# PEFT also stores the base weight of a head that it adapted.
BASE_COPY = re.compile(r"base_model\.model\.(.+)\.base_layer\.weight")


def _tensor_name(layer: str, part: str) -> str:
    """PEFT's name of a layer's tensor; part: A or B."""
    return f"base_model.model.{layer}.lora_{part}.weight"


def tensors(model: nn.Module, family: str) -> dict[str, Tensor]:
    """The adapters' tensors under PEFT's current names. family: config.json's model_type."""
    found: dict[str, Tensor] = {}
    for name, adapter in lora.adapters(model).items():
        layer = name_in_generation(name, family)
        found[_tensor_name(layer, "A")] = adapter.lora_A
        found[_tensor_name(layer, "B")] = adapter.lora_B
    return found


def save(model: nn.Module, family: str, directory: PathName, base: str) -> None:
    """Write the adapters; UserError if the model has none.

    base  the name of the base model in adapter_config.json
    """
    adapters = {
        name_in_generation(name, family): adapter for name, adapter in lora.adapters(model).items()
    }
    if not adapters:
        raise UserError(
            "the model carries no LoRA adapters; add_lora() first, or save() the whole model"
        )
    write_tensors(Path(directory) / WEIGHTS, tensors(model, family))
    write_config(Path(directory) / CONFIG, adapters, base)


def _split_tensors(stored: dict[str, StoredTensor], file: Path) -> tuple[dict[str, str], list[str]]:
    """({name of a LoRA tensor: its layer}, names of base weight copies) of a file's tensors.

    raises  UserError if there is no LoRA tensor, or a tensor of another kind
    """
    layer_of: dict[str, str] = {}
    copies: list[str] = []
    others: list[str] = []
    for name in stored:
        lora_tensor = LORA_TENSOR.fullmatch(name)
        if lora_tensor is not None:
            layer_of[name] = lora_tensor[1]
        elif BASE_COPY.fullmatch(name):
            copies.append(name)
        else:
            others.append(name)
    if others or not layer_of:
        raise UserError(
            f"{file}: holds {one_line(min(others), 100) if others else 'no tensor'}; expected "
            "base_model.model.LAYER.lora_A.weight and lora_B.weight, of linear layers"
        )
    return layer_of, copies


def _their_names(
    config: AdapterConfig,
    adapted: set[str],
    layers: dict[str, lora.Linear],
    family: str,
    file: Path,
) -> dict[str, str]:
    """{our layer name: its name in the generation that wrote the adapter}.

    It is the generation in which the config chooses exactly the layers that have tensors.
    adapted  the names of these layers in the file
    raises   UserError if there is no such generation; the message says how config and tensors
             differ
    """
    stored = {our_name(name, family) for name in adapted}
    if stored - set(layers):
        raise UserError(
            f"{file}: adapts {one_line(min(stored - set(layers)), 100)}, which is no linear layer "
            "of the model; is this adapter for another model?"
        )
    problem = (
        f"{file}: its layers have names of several generations of transformers; "
        "expected those of one"
    )
    current_first = sorted(GENERATIONS, key=lambda column: column != CURRENT_MODULES)
    for generation in current_first:
        their_names = {name: name_in_generation(name, family, generation) for name in layers}
        if adapted <= set(their_names.values()):
            chosen = config.chosen(their_names)
            if chosen == stored:
                return their_names
            problem = (
                f"{config.path}: target_modules chooses {len(chosen)} layers, {WEIGHTS} has "
                f"{len(stored)}; expected the same, they differ in "
                f"{one_line(min(chosen ^ stored), 100)}"
            )
    raise UserError(problem)


def _check_not_tied(
    model: nn.Module, layers: dict[str, lora.Linear], names: list[str], path: Path
) -> None:
    """UserError if a layer's weight is shared with another part of the model."""
    parameters = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name in names:
        if sum(parameter is layers[name].weight for parameter in parameters) > 1:
            raise UserError(
                f"{path}: adapts {name}, which the config ties to the embedding; "
                "expected an adapter of other layers"
            )


def load(model: nn.Module, family: str, directory: PathName) -> list[str]:
    """Attach the adapters of a PEFT directory to a model without any; returns the layers' names.

    An adapter on the output head is loaded too, unless the head is the embedding. If the file
    holds a copy of the head's base weight, it must equal the model's.
    raises  UserError for a kind of adapter that is not computed here, a layer that is no linear
            layer, tensors that do not fit; then nothing has been attached
    """
    path = Path(directory) / CONFIG
    file = Path(directory) / WEIGHTS
    config = read_config(path)
    stored = weights_of(file)
    layer_of, copies = _split_tensors(stored, file)
    adapted = set(layer_of.values())
    layers = lora.linear_layers(model)
    their_names = _their_names(config, adapted, layers, family, file)
    names = [name for name in layers if their_names[name] in adapted]
    _check_not_tied(model, layers, names, path)
    ranks = {name: config.rank_of(their_names[name]) for name in names}
    alphas = {name: config.alpha_of(their_names[name]) for name in names}
    base_weights = {
        f"base_model.model.{their_names[name]}.base_layer.weight": layers[name].weight
        for name in names
    }
    expected: dict[str, Shape] = {}
    for name in names:
        layer = layers[name]
        expected[_tensor_name(their_names[name], "A")] = (ranks[name], layer.in_features)
        expected[_tensor_name(their_names[name], "B")] = (layer.out_features, ranks[name])
    expected |= {name: base_weights[name].shape for name in copies if name in base_weights}
    check_fit(expected, {name: tensor.shape for name, tensor in stored.items()}, file)
    values = read_tensors(file)
    for name in copies:
        if not torch.equal(values.pop(name).to(base_weights[name]), base_weights[name]):
            raise UserError(
                f"{file}: {one_line(name, 100)} is not the model's; "
                "this adapter is for another base model"
            )
    lora.attach(model, ranks, alphas, stabilised=config.stabilised)
    targets: dict[str, Tensor] = {}
    for name, adapter in lora.adapters(model).items():
        targets[_tensor_name(their_names[name], "A")] = adapter.lora_A
        targets[_tensor_name(their_names[name], "B")] = adapter.lora_B
    fill(targets, values, file)
    return names
