"""Adapters on disk as PEFT writes them: adapter_config.json and adapter_model.safetensors."""

from pathlib import Path

import torch

from ..errors import UserError
from ..files import read_json, write_json
from . import lora
from .weights import fill, read_tensors, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Our module names (the hub's checkpoint names) and those of the transformers classes that PEFT wraps.
RENAMES = (("language_model.model.", "model.language_model."), ("language_model.lm_head", "lm_head"),
           ("vision_tower.vision_model.", "model.vision_tower."), ("multi_modal_projector.", "model.multi_modal_projector."))
# What earlier generations of transformers called the same places.
EARLIER = (("model.vision_tower.vision_model.", "model.vision_tower."), ("language_model.model.", "model.language_model."),
           ("vision_tower.vision_model.", "model.vision_tower."), ("multi_modal_projector.", "model.multi_modal_projector."))
PREFIX = "base_model.model."


def peft_name(name: str) -> str:
    """A layer's name in a PEFT file."""
    for ours, theirs in RENAMES:
        if name.startswith(ours):
            return PREFIX + theirs + name.removeprefix(ours)
    raise UserError(f"layer {name!r} has no place in a PEFT file; expected one of the model's linear layers")


def today(name: str) -> str:
    """A name from a PEFT file, as the present generation of transformers would write it."""
    for before, now in EARLIER:
        if name.removeprefix(PREFIX).startswith(before):
            return PREFIX + now + name.removeprefix(PREFIX).removeprefix(before)
    return name


def tensors(model) -> dict[str, torch.Tensor]:
    """The adapters' tensors under PEFT's names."""
    found = {}
    for name, adapter in lora.adapters(model).items():
        found[peft_name(name) + ".lora_A.weight"] = adapter.lora_A
        found[peft_name(name) + ".lora_B.weight"] = adapter.lora_B
    return found


def save(model, directory, base: str) -> None:
    """Write the adapters; UserError if the model has none. base: what adapter_config.json calls the base model."""
    found = lora.adapters(model)
    if not found:
        raise UserError("the model carries no LoRA adapters; add_lora() first, or save() the whole model")
    first = next(iter(found.values()))
    write_tensors(Path(directory) / WEIGHTS, tensors(model))
    write_json(Path(directory) / CONFIG, {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "r": first.rank, "lora_alpha": first.alpha,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "inference_mode": True,
        "target_modules": sorted(peft_name(name).removeprefix(PREFIX) for name in found)})


def load(model, directory) -> list[str]:
    """Put the adapters of a PEFT directory on the model, which must have none; returns the adapted layers' names.

    raises  UserError for a kind of adapter that is not computed here, a target that names no layer, tensors that do not fit
    """
    path = Path(directory) / CONFIG
    config = read_json(path)
    for key, expected in (("peft_type", "LORA"), ("bias", "none"), ("use_rslora", False), ("fan_in_fan_out", False),
                          ("alpha_pattern", {}), ("rank_pattern", {}), ("use_dora", False)):
        if config.get(key) not in (expected, None):
            raise UserError(f"{path}: {key} is {config[key]!r}; expected {expected!r}")
    if config.get("lora_dropout"):
        raise UserError(f"{path}: lora_dropout is {config['lora_dropout']}; expected 0, dropout is not computed here")
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if not isinstance(rank, int) or not isinstance(alpha, (int, float)):
        raise UserError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}; expected a whole number and a number")
    if not isinstance(targets, list) or not targets:
        raise UserError(f"{path}: target_modules is {targets!r}; expected a list of layer names")
    stored = {today(name): tensor for name, tensor in read_tensors(Path(directory) / WEIGHTS).items()}
    known = {name: peft_name(name).removeprefix(PREFIX) for name in lora.linear_layers(model)}
    ours = set()
    for target in (today(PREFIX + target).removeprefix(PREFIX) for target in targets):
        found = {name for name, theirs in known.items() if theirs == target or theirs.endswith("." + target)}
        if not found:
            raise UserError(f"{path}: target {target!r} names no linear layer of the model; is this adapter for another model?")
        ours |= found
    names = lora.add(model, rank, alpha, sorted(ours))
    fill(tensors(model), stored, Path(directory) / WEIGHTS)
    return names
