"""PEFT's adapter_config.json: every value that is used is checked, every other one is rejected.

A value that changes what an adapter computes and is not known here is an error.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, read_json, write_json

from . import lora
from .expression import Expression

CONFIG = "adapter_config.json"
Value = TypeVar("Value", int, float)

# Keys about where the adapter comes from and how it was trained; they do not change what it
# computes. lora_dropout is one of them, because dropout is used in training only.
NO_EFFECT = {
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
# Ways to set the initial values that leave the base weights unchanged.
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_names(value: object) -> bool:
    """A regular expression, or a list of layer names."""
    if isinstance(value, list):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, str)


def _values_are(check: Callable[[object], bool]) -> Callable[[object], bool]:
    """A check that a value is an object whose values pass `check`."""

    def is_object(value: object) -> bool:
        return isinstance(value, dict) and all(check(each) for each in value.values())

    return is_object


# {key: (value if it is omitted, check, what is expected)}, in the order of the checks.
KEYS: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "peft_type": (None, lambda value: value == "LORA", "'LORA'"),
    "r": (None, _is_rank, "a whole number above 0"),
    "rank_pattern": ({}, _values_are(_is_rank), "layer names with whole numbers above 0"),
    "lora_alpha": (None, _is_number, "a number"),
    "alpha_pattern": ({}, _values_are(_is_number), "layer names with numbers"),
    "target_modules": (
        None,
        lambda value: _is_names(value) and bool(value),
        "layer names, or one regular expression",
    ),
    "exclude_modules": (
        None,
        lambda value: value is None or _is_names(value),
        "layer names, or one regular expression",
    ),
    "use_rslora": (False, lambda value: isinstance(value, bool), "true or false"),
    "bias": ("none", lambda value: value == "none", "'none'"),
    "init_lora_weights": (
        True,
        lambda value: value in STARTS,
        f"one of {STARTS}; other starts change the base weights",
    ),
}


@dataclass(frozen=True)
class AdapterConfig:
    """A checked adapter_config.json. Layer names are those of the generation that wrote it.

    path             the file, for error messages
    rank, alpha      of every layer that no pattern matches
    rank_pattern     {regular expression for the end of a name: rank}; alpha_pattern likewise
    stabilised       rank-stabilised scaling
    target_modules   regular expression for the whole name, or names or their last parts
    exclude_modules  the same, of layers that are not adapted
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    stabilised: bool
    target_modules: str | list[str]
    exclude_modules: str | list[str] | None

    def rank_of(self, layer: str) -> int:
        """The rank of a layer."""
        return _by_pattern(self.rank_pattern, layer, self.rank, f"{self.path}: rank_pattern")

    def alpha_of(self, layer: str) -> float:
        """The alpha of a layer."""
        return _by_pattern(self.alpha_pattern, layer, self.alpha, f"{self.path}: alpha_pattern")

    def chosen(self, layers: dict[str, str]) -> set[str]:
        """Our names of the layers that target_modules and exclude_modules choose.

        layers  {our layer name: its name in the generation that wrote the config}
        """
        targets = self.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            names = {name for name in layers if not lora.is_head(name)}
        else:
            wanted = self._names_or_expression("target_modules", targets)
            names = {name for name, theirs in layers.items() if lora.matches(theirs, wanted)}
        excluded = self._names_or_expression("exclude_modules", self.exclude_modules or [])
        return {name for name in names if not lora.matches(layers[name], excluded)}

    def _names_or_expression(self, key: str, value: str | list[str]) -> list[str] | Expression:
        if isinstance(value, str):
            return Expression.of(value, f"{self.path}: {key}")
        return value


def _by_pattern(patterns: dict[str, Value], layer: str, default: Value, where: str) -> Value:
    """The value of the first pattern that matches the layer's whole name or its last parts.

    source  PEFT's rule
    """
    for pattern, value in patterns.items():
        if Expression.of(rf"(.*\.)?({pattern})", where).matches(layer):
            return value
    return default


def read_config(path: Path) -> AdapterConfig:
    """The checked config; UserError for a kind of adapter that is not computed here."""
    config = {key: default for key, (default, _, _) in KEYS.items()}
    config |= {key: value for key, value in read_json(path).items() if value is not None}
    for key, (_, is_valid, expected) in KEYS.items():
        if not is_valid(config[key]):
            raise UserError(
                f"{path}: {key} is {one_line(repr(config[key]), 100)}; expected {expected}"
            )
    for key in sorted(set(config) - set(KEYS) - NO_EFFECT):
        if config[key]:
            raise UserError(
                f"{path}: {one_line(key, 60)} is {one_line(repr(config[key]), 100)}, which is not "
                "computed here; expected it absent or false, train the adapter without it"
            )
    return AdapterConfig(
        path=path,
        rank=config["r"],
        alpha=config["lora_alpha"],
        rank_pattern=config["rank_pattern"],
        alpha_pattern=config["alpha_pattern"],
        stabilised=config["use_rslora"],
        target_modules=config["target_modules"],
        exclude_modules=config["exclude_modules"],
    )


def write_config(path: Path, adapters: dict[str, lora.Adapter], base: str) -> None:
    """Write the config of adapters, given by the names that PEFT has for their layers.

    base  the name of the base model in the file
    """
    first = next(iter(adapters.values()))
    ranks = {re.escape(name): each.rank for name, each in adapters.items()}
    alphas = {re.escape(name): each.alpha for name, each in adapters.items()}
    write_json(
        path,
        {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": base,
            "r": first.rank,
            "lora_alpha": first.alpha,
            "rank_pattern": {name: rank for name, rank in ranks.items() if rank != first.rank},
            "alpha_pattern": {
                name: alpha for name, alpha in alphas.items() if alpha != first.alpha
            },
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": first.stabilised,
            "inference_mode": True,
            "target_modules": sorted(adapters),
        },
    )
