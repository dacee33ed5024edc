"""Adapters on disk as PEFT writes them: adapter_config.json and adapter_model.safetensors.

Names are those of the transformers classes that PEFT wrapped, of whichever generation (names.py); today's are written.
"""

import math
import re
from pathlib import Path

import torch

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, read_json, write_json

from . import lora
from .expression import Expression
from .names import GENERATIONS, MODULES_TODAY, ours, spelled
from .weights import check_fit, fill, read_tensors, weights_of, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
COPY = re.compile(
    r"base_model\.model\.(.+)\.base_layer\.weight"
)  # PEFT adds the base weight of a head that it adapted
READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "bias",
    "init_lora_weights",
}
# Where the adapter comes from and how it was trained. lora_dropout acts in training alone: it is no part of a finished adapter.
NOT_OF_THE_RESULT = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "eva_config",
    "megatron_core",
    "qalora_group_size",
}
STARTS = (
    True,
    False,
    None,
    "gaussian",
    "orthogonal",
    "eva",
)  # initial values that leave the base weights as they are


def _tensor(layer: str, part: str) -> str:
    return f"base_model.model.{layer}.lora_{part}.weight"


def tensors(model, family: str) -> dict[str, torch.Tensor]:
    """The adapters' tensors under PEFT's names of today. family: config.json's model_type."""
    return {
        _tensor(spelled(name, family), part): getattr(adapter, f"lora_{part}")
        for name, adapter in lora.adapters(model).items()
        for part in "AB"
    }


def save(model, family: str, directory, base: str) -> None:
    """Write the adapters; UserError if the model has none. base: what adapter_config.json calls the base model."""
    found = {spelled(name, family): adapter for name, adapter in lora.adapters(model).items()}
    if not found:
        raise UserError(
            "the model carries no LoRA adapters; add_lora() first, or save() the whole model"
        )
    first = next(iter(found.values()))
    write_tensors(Path(directory) / WEIGHTS, tensors(model, family))
    write_json(
        Path(directory) / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": base,
            "r": first.rank,
            "lora_alpha": first.alpha,
            "rank_pattern": {
                re.escape(name): a.rank for name, a in found.items() if a.rank != first.rank
            },
            "alpha_pattern": {
                re.escape(name): a.alpha for name, a in found.items() if a.alpha != first.alpha
            },
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": first.stabilised,
            "inference_mode": True,
            "target_modules": sorted(found),
        },
    )


def read_config(path) -> dict:
    """The adapter_config.json with every value that `load` uses checked; UserError for a kind of adapter not computed here."""
    config = {
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "bias": "none",
        "exclude_modules": None,
        "init_lora_weights": True,
        "r": None,
        "lora_alpha": None,
        "target_modules": None,
    }
    config |= {key: value for key, value in read_json(path).items() if value is not None}

    def is_number(value):
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        )

    def is_rank(value):
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def is_names(value):
        return (
            isinstance(value, str)
            or isinstance(value, list)
            and all(isinstance(name, str) for name in value)
        )

    def each(check):
        return lambda value: isinstance(value, dict) and all(map(check, value.values()))

    for key, good, expected in (
        ("peft_type", lambda value: value == "LORA", "'LORA'"),
        ("r", is_rank, "a whole number above 0"),
        ("rank_pattern", each(is_rank), "layer names with whole numbers above 0"),
        ("lora_alpha", is_number, "a number"),
        ("alpha_pattern", each(is_number), "layer names with numbers"),
        (
            "target_modules",
            lambda value: is_names(value) and value,
            "layer names, or one regular expression",
        ),
        (
            "exclude_modules",
            lambda value: value is None or is_names(value),
            "layer names, or one regular expression",
        ),
        ("use_rslora", lambda value: isinstance(value, bool), "true or false"),
        ("bias", lambda value: value == "none", "'none'"),
        (
            "init_lora_weights",
            lambda value: value in STARTS,
            f"one of {STARTS}; other starts change the base weights",
        ),
    ):
        if not good(config.get(key)):
            raise UserError(
                f"{path}: {key} is {one_line(repr(config.get(key)), 100)}; expected {expected}"
            )
    for key in sorted(set(config) - READ - NOT_OF_THE_RESULT):
        if config[key]:
            raise UserError(
                f"{path}: {one_line(key, 60)} is {one_line(repr(config[key]), 100)}, which is not computed here; "
                "expected it absent or false, train the adapter without it"
            )
    return config


def _by_pattern(patterns: dict, name: str, default, where):
    """PEFT's rule: the first key that matches the whole name or its last parts."""
    for key, value in patterns.items():
        if Expression.of(rf"(.*\.)?({key})", where).matches(name):
            return value
    return default


def _meant(config: dict, known: dict[str, str], path) -> set[str]:
    """Of {our layer name: its name where PEFT ran}, the layers that the config chooses."""

    def wanted(key):
        return (
            Expression.of(config[key], f"{path}: {key}")
            if isinstance(config[key], str)
            else config[key] or []
        )

    targets = config["target_modules"]
    if isinstance(targets, str) and targets.lower() == "all-linear":
        chosen = {name for name in known if not lora.is_head(name)}
    else:
        chosen = {
            name for name, theirs in known.items() if lora.matches(theirs, wanted("target_modules"))
        }
    return {name for name in chosen if not lora.matches(known[name], wanted("exclude_modules"))}


def _known(config: dict, theirs: set[str], layers, family: str, path) -> dict[str, str]:
    """{our layer name: its name in the generation that wrote the adapter}: the one in which config and tensors agree.

    raises  UserError where there is none; it says what the config chooses and the file lacks, or the other way round
    """
    stored = {ours(name, family) for name in theirs}
    if stored - set(layers):
        raise UserError(
            f"{path.parent / WEIGHTS}: adapts {one_line(min(stored - set(layers)), 100)}, which is no linear layer "
            "of the model; is this adapter for another model?"
        )
    fault = f"{path.parent / WEIGHTS}: its layers have names of several generations of transformers; expected those of one"
    for generation in sorted(GENERATIONS, key=lambda column: column != MODULES_TODAY):
        known = {name: spelled(name, family, generation) for name in layers}
        if theirs <= set(known.values()):
            meant = _meant(config, known, path)
            if meant == stored:
                return known
            fault = (
                f"{path}: target_modules chooses {len(meant)} layers, {WEIGHTS} has {len(stored)}; expected the same, they "
                f"differ in {one_line(min(meant ^ stored), 100)}"
            )
    raise UserError(fault)


def load(model, family: str, directory) -> list[str]:
    """Put the adapters of a PEFT directory on the model, which must have none; returns the adapted layers' names.

    An adapter on the output head loads too, unless the head is the embedding; a copy of the base weight in its file has to be
    the model's own. Nothing is put on unless everything fits.
    raises  UserError for a kind of adapter that is not computed here, a layer that is no linear layer, tensors that do not fit
    """
    path, file = Path(directory) / CONFIG, Path(directory) / WEIGHTS
    config, stored, layers = read_config(path), weights_of(file), lora.linear_layers(model)
    copies = {name: stored.pop(name) for name in list(stored) if COPY.fullmatch(name)}
    odd = [name for name in stored if not TENSOR.fullmatch(name)]
    if odd or not stored:
        raise UserError(
            f"{file}: holds {one_line(min(odd), 100) if odd else 'no tensor'}; expected "
            "base_model.model.LAYER.lora_A.weight and lora_B.weight, of linear layers"
        )
    known = _known(config, {TENSOR.fullmatch(name)[1] for name in stored}, layers, family, path)
    names = [
        name
        for name in layers
        if _tensor(known[name], "A") in stored or _tensor(known[name], "B") in stored
    ]
    parameters = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name in names:
        if sum(parameter is layers[name].weight for parameter in parameters) > 1:
            raise UserError(
                f"{path}: adapts {name}, which the config ties to the embedding; expected an adapter of other layers"
            )
    ranks = {
        name: _by_pattern(config["rank_pattern"], known[name], config["r"], f"{path}: rank_pattern")
        for name in names
    }
    alphas = {
        name: _by_pattern(
            config["alpha_pattern"], known[name], config["lora_alpha"], f"{path}: alpha_pattern"
        )
        for name in names
    }
    shapes = {_tensor(known[name], "A"): (ranks[name], layers[name].in_features) for name in names}
    shapes |= {
        _tensor(known[name], "B"): (layers[name].out_features, ranks[name]) for name in names
    }
    originals = {
        f"base_model.model.{known[name]}.base_layer.weight": layers[name].weight for name in names
    }
    shapes |= {name: originals[name].shape for name in copies if name in originals}
    check_fit(shapes, {name: tensor.shape for name, tensor in (stored | copies).items()}, file)
    values = read_tensors(file)
    for name in copies:
        if not torch.equal(values.pop(name).to(originals[name]), originals[name]):
            raise UserError(
                f"{file}: {one_line(name, 100)} is not the model's; this adapter is for another base model"
            )
    lora.put(model, ranks, alphas, stabilised=config["use_rslora"])
    found = lora.adapters(model)
    fill(
        {
            _tensor(known[name], part): getattr(found[name], f"lora_{part}")
            for name in names
            for part in "AB"
        },
        values,
        file,
    )
    return names
