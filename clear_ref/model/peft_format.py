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
           ("vision_tower.", "model.vision_tower."), ("multi_modal_projector.", "model.multi_modal_projector."))


def peft_name(name: str) -> str:
    """A layer's name in a PEFT file."""
    for ours, theirs in RENAMES:
        if name.startswith(ours):
            return "base_model.model." + theirs + name.removeprefix(ours)
    raise UserError(f"layer {name!r} has no place in a PEFT file; expected one of the model's linear layers")


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
        "target_modules": sorted(peft_name(name).removeprefix("base_model.model.") for name in found)})


def load(model, directory) -> list[str]:
    """Put the adapters of a PEFT directory on the model, which must have none; returns the adapted layers' names.

    raises  UserError for a kind of adapter that is not computed here, a target that names no layer, tensors that do not fit
    """
    path = Path(directory) / CONFIG
    config = read_json(path)
    for key, expected in (("peft_type", "LORA"), ("bias", "none"), ("use_rslora", False), ("fan_in_fan_out", False)):
        if config.get(key, expected) != expected:
            raise UserError(f"{path}: {key} is {config[key]!r}; expected {expected!r}")
    if config.get("lora_dropout"):
        raise UserError(f"{path}: lora_dropout is {config['lora_dropout']}; expected 0, dropout is not computed here")
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets:
        raise UserError(f"{path}: target_modules is {targets!r}; expected a list of layer names")
    ours = [next((new + target.removeprefix(old) for new, old in RENAMES if target.startswith(old)), target)
            for target in targets]
    names = lora.add(model, config["r"], config["lora_alpha"], ours)
    fill(tensors(model), read_tensors(Path(directory) / WEIGHTS), Path(directory) / WEIGHTS)
    return names
