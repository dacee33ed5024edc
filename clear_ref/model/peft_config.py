"""PEFT's adapter_config.json: every key is used, without effect or refused (peft_keys.py)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import one_line, read_json, write_json

from . import lora
from .expression import Expression
from .peft_keys import ADAPTER_CONFIG

CONFIG = "adapter_config.json"
Value = TypeVar("Value", int, float)
# {model_type: PEFT's target_modules if the file has null}; of other families it refuses the file.
DEFAULT_TARGETS = {family: ["q_proj", "v_proj"] for family in ("llama", "mistral", "qwen2")}
# The layer's number in a name if layers_pattern does not say what stands before it: the first one
# behind two parts of the name.
ANY_LAYER = r".*?[.][^.]*[.](?P<idx>[0-9]+)[.]"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_names(value: object) -> bool:
    """A regular expression, or a list of layer names."""
    if isinstance(value, list):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, str)


def _is_layers(value: object) -> bool:
    """A layer's number, or a list of numbers."""
    if isinstance(value, list):
        return all(_is_whole(number) for number in value)
    return _is_whole(value)


def _values_are(check: Callable[[object], bool]) -> Callable[[object], bool]:
    """A check that a value is an object whose values pass `check`."""

    def is_object(value: object) -> bool:
        return isinstance(value, dict) and all(check(each) for each in value.values())

    return is_object


def _or_null(check: Callable[[object], bool]) -> Callable[[object], bool]:
    """A check that a value is null or passes `check`."""
    return lambda value: value is None or check(value)


# {key: (PEFT's value if it is omitted, check, what is expected)}, in the order of the checks.
KEYS: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "r": (8, _is_rank, "a whole number above 0"),
    "rank_pattern": ({}, _values_are(_is_rank), "layer names with whole numbers above 0"),
    "lora_alpha": (8, is_number, "a number"),
    "alpha_pattern": ({}, _values_are(is_number), "layer names with numbers"),
    "target_modules": (
        None,
        lambda value: _is_names(value) and bool(value),
        "layer names, or one regular expression",
    ),
    "exclude_modules": (None, _or_null(_is_names), "layer names, or one regular expression"),
    "use_rslora": (False, _or_null(lambda value: isinstance(value, bool)), "true or false"),
    "bias": ("none", lambda value: value in ("none", "all", "lora_only"), "none"),
    "layers_to_transform": (None, _or_null(_is_layers), "layer numbers"),
    "layers_pattern": (None, _or_null(_is_names), "the names before a layer's number"),
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
    numbers          of the layers that are adapted; (): all
    before_number    regular expressions for the part of a name before the layer's number
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    stabilised: bool
    target_modules: str | list[str]
    exclude_modules: str | list[str]
    numbers: tuple[int, ...]
    before_number: tuple[str, ...]

    @property
    def choosing(self) -> str:
        """The keys that decide which layers are adapted, for error messages."""
        exclude = ", exclude_modules" if self.exclude_modules else ""
        numbers = ", layers_to_transform" if self.numbers else ""
        return f"target_modules{exclude}{numbers}"

    def rank_of(self, layer: str) -> int:
        """The rank of a layer."""
        return _by_pattern(self.rank_pattern, layer, self.rank, f"{self.path}: rank_pattern")

    def alpha_of(self, layer: str) -> float:
        """The alpha of a layer."""
        return _by_pattern(self.alpha_pattern, layer, self.alpha, f"{self.path}: alpha_pattern")

    def chosen(self, layers: dict[str, str]) -> set[str]:
        """Our names of the layers that the config chooses.

        layers  {our layer name: its name in the generation that wrote the config}
        """
        targets = self.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            names = {name for name in layers if not lora.is_head(name)}
        else:
            wanted = self._names_or_expression("target_modules", targets)
            names = {name for name, theirs in layers.items() if lora.matches(theirs, wanted)}
        if self.numbers:
            names = {name for name in names if self._has_number(layers[name])}
        excluded = self._names_or_expression("exclude_modules", self.exclude_modules)
        return {name for name in names if not lora.matches(layers[name], excluded)}

    def _names_or_expression(self, key: str, value: str | list[str]) -> list[str] | Expression:
        if isinstance(value, str) and value:
            return Expression.of(value, f"{self.path}: {key}")
        return list(value)

    def _has_number(self, layer: str) -> bool:
        """True if layers_to_transform has the number of a layer that target_modules chooses.

        raises  UserError if target_modules has its whole name and the number is another: PEFT then
                adapts the layer or not, as the length of target_modules is
        """
        found = self._number(layer) in self.numbers
        if not found and layer in self.target_modules:
            raise UserError(
                f"{self.path}: layers_to_transform is {list(self.numbers)} and leaves out "
                f"{one_line(layer, 100)}, which target_modules names; expected one or the other"
            )
        return found

    def _number(self, layer: str) -> int | None:
        """The number that layers_to_transform means; None if the name has none."""
        where = f"{self.path}: layers_pattern"
        patterns = [rf"(?:^|.*?[.]){before}[.](?P<idx>[0-9]+)[.]" for before in self.before_number]
        for pattern in patterns or [ANY_LAYER]:
            match = Expression.of(pattern, where).match_of(layer)
            if match is not None:
                return None if match["idx"] is None else int(match["idx"])
        return None


def _by_pattern(patterns: dict[str, Value], layer: str, default: Value, where: str) -> Value:
    """The value of the first pattern that matches the layer's whole name or its last parts.

    source  PEFT's rule
    """
    for pattern, value in patterns.items():
        if Expression.of(rf"(.*\.)?({pattern})", where).matches(layer):
            return value
    return default


def read_config(path: Path, family: str) -> AdapterConfig:
    """The checked config; UserError for a kind of adapter that is not computed here.

    family  config.json's model_type
    """
    stored = read_json(path)
    if "peft_type" not in stored:
        raise UserError(f"{path}: has no peft_type; expected 'LORA'")
    ADAPTER_CONFIG.check(stored, path)
    config = {key: stored.get(key, default) for key, (default, _, _) in KEYS.items()}
    if config["target_modules"] is None:
        config["target_modules"] = DEFAULT_TARGETS.get(family)
    for key, (_, is_valid, expected) in KEYS.items():
        if not is_valid(config[key]):
            raise UserError(
                f"{path}: {key} is {one_line(repr(config[key]), 100)}; expected {expected}"
            )
    for key in sorted(set(stored) - set(ADAPTER_CONFIG.keys)):
        if stored[key]:
            raise UserError(
                f"{path}: {one_line(key, 60)} is {one_line(repr(stored[key]), 100)}, a key that "
                "PEFT 0.21.2 does not know; expected it absent, train the adapter without it"
            )
    numbers = config["layers_to_transform"]
    before = config["layers_pattern"] or []
    if isinstance(config["target_modules"], str) and (numbers is not None or before):
        key = "layers_pattern" if numbers is None else "layers_to_transform"
        raise UserError(
            f"{path}: {key} is {one_line(repr(config[key]), 60)}, and target_modules is an "
            "expression; expected a list of names in target_modules, as PEFT does"
        )
    if before and numbers is None:
        raise UserError(
            f"{path}: layers_pattern is {one_line(repr(before), 60)} without layers_to_transform; "
            "expected both, as PEFT does"
        )
    return AdapterConfig(
        path=path,
        rank=config["r"],
        alpha=config["lora_alpha"],
        rank_pattern=config["rank_pattern"],
        alpha_pattern=config["alpha_pattern"],
        stabilised=bool(config["use_rslora"]),
        target_modules=config["target_modules"],
        exclude_modules=config["exclude_modules"] or [],
        numbers=(numbers,) if isinstance(numbers, int) else tuple(numbers or ()),
        before_number=(before,) if isinstance(before, str) else tuple(before),
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
