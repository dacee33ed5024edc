"""Adapters in PEFT's file format: adapter_config.json and adapter_model.safetensors.

The files have the layer names of the transformers classes that PEFT wrapped. The names of every
generation are read (names.py); those of the current generation are written.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line

from . import lora
from .finite import finite_checks
from .names import CURRENT_MODULES, GENERATIONS, name_in_generation, our_name
from .peft_config import CONFIG, AdapterConfig, read_config, write_config
from .weights import Shape, StoredTensor, check_fit, fill, read_tensors, weights_of
from .write_weights import write_tensors

WEIGHTS = "adapter_model.safetensors"
LORA_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
PREFIX = "base_model.model."
# In the name of a copy of a base weight: the layer is an adapted one.
BASE_LAYER = ".base_layer."


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


def _split_tensors(
    stored: dict[str, StoredTensor], base: Mapping[str, Tensor], family: str, file: Path
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """({name of a LoRA tensor: its layer}, {name of another tensor: the base weight it copies}).

    PEFT stores copies of the embedding and the head if it adapted the head or was told to
    (save_embedding_layers), and with them replaces the base weights when it loads the adapter.
    base    the model's own weights by our names
    raises  UserError if there is no LoRA tensor, or a tensor of another kind
    """
    layer_of: dict[str, str] = {}
    copies: dict[str, Tensor] = {}
    others: list[str] = []
    for name in stored:
        lora_tensor = LORA_TENSOR.fullmatch(name)
        if lora_tensor is not None:
            layer_of[name] = lora_tensor[1]
            continue
        original = name.removeprefix(PREFIX).replace(BASE_LAYER, ".")
        weight = base.get(our_name(original, family))
        if weight is None:
            others.append(name)
        else:
            copies[name] = weight
    if others or not layer_of:
        raise UserError(
            f"{file}: holds {one_line(min(others), 100) if others else 'no tensor'}; expected "
            f"{PREFIX}LAYER.lora_A.weight and lora_B.weight, of linear layers (target_modules)"
        )
    return layer_of, copies


def _base_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's own weights by our names; a head that is the embedding has its name too."""
    weights: dict[str, Tensor] = {
        name: tensor
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if ".adapter." not in name
    }
    for name in list(weights):
        if name.endswith("model.embed_tokens.weight"):
            head = name.replace("model.embed_tokens.", f"{lora.HEAD}.")
            weights.setdefault(head, weights[name])
    return weights


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
    _check_linear(stored, layers, file)
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
                f"{config.path}: {config.choosing}: chosen are {len(chosen)} layers, {WEIGHTS} has "
                f"{len(stored)}; expected the same, they differ in "
                f"{one_line(min(chosen ^ stored), 100)}"
            )
    raise UserError(problem)


def _check_linear(stored: set[str], layers: dict[str, lora.Linear], file: Path) -> None:
    """UserError if an adapted layer is no linear layer of the model, or is the embedding too.

    stored  our names of the adapted layers
    """
    heads = [name for name in stored if lora.is_head(name)]
    n_heads = sum(1 for name in layers if lora.is_head(name))
    if heads and not n_heads:
        raise UserError(
            f"{file}: adapts {heads[0]}, which is the embedding in this model "
            "(tie_word_embeddings); expected an adapter without it in target_modules"
        )
    if stored - set(layers):
        raise UserError(
            f"{file}: adapts {one_line(min(stored - set(layers)), 100)}, which is no linear layer "
            "of the model (target_modules); is this adapter for another model?"
        )


def load(model: nn.Module, family: str, directory: PathName) -> list[str]:
    """Attach the adapters of a PEFT directory to a model without any; returns the layers' names.

    An adapter on the output head is loaded too, unless the head is the embedding. Copies of base
    weights in the file must equal the model's.
    raises  UserError for a kind of adapter that is not computed here, a layer that is no linear
            layer, tensors that do not fit; then nothing has been attached
    """
    path = Path(directory) / CONFIG
    file = Path(directory) / WEIGHTS
    config = read_config(path, family)
    _check_safe(file)
    stored = weights_of(file)
    layer_of, copies = _split_tensors(stored, _base_weights(model), family, file)
    adapted = set(layer_of.values())
    layers = lora.linear_layers(model)
    their_names = _their_names(config, adapted, layers, family, file)
    names = [name for name in layers if their_names[name] in adapted]
    ranks = {name: config.rank_of(their_names[name]) for name in names}
    alphas = {name: config.alpha_of(their_names[name]) for name in names}
    expected: dict[str, Shape] = {}
    for name in names:
        layer = layers[name]
        expected[_tensor_name(their_names[name], "A")] = (ranks[name], layer.in_features)
        expected[_tensor_name(their_names[name], "B")] = (layer.out_features, ranks[name])
    expected |= {name: weight.shape for name, weight in copies.items()}
    check_fit(expected, {name: tensor.shape for name, tensor in stored.items()}, file)
    values = read_tensors(file)
    with finite_checks() as checks:
        for name, value in values.items():
            checks.add(file, name, value)
    for name, weight in copies.items():
        copy = values.pop(name)
        if not weight.is_meta and not torch.equal(copy.to(weight), weight):
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


def _check_safe(file: Path) -> None:
    """UserError if the adapter's weights are there in pickle form only."""
    pickle = file.with_suffix(".bin")
    if pickle.exists() and not file.exists():
        raise UserError(
            f"{pickle}: weights in pickle form, which can run code and is never opened here; "
            f"expected {WEIGHTS}, save the adapter again with PEFT"
        )
