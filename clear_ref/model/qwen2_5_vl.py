"""Qwen2.5-VL: Qwen2-VL's decoder, picture tokens and positions behind a tower with windows.

source  Bai et al. 2025 (Qwen2.5-VL); structure, hub names and numbers of transformers'
        Qwen2_5_VLForConditionalGeneration
"""

from dataclasses import dataclass
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .config_values import part_of, whole_number
from .qwen2_5_keys import QWEN2_5_VL_VISION
from .qwen2_5_vision import Qwen25VisionConfig, Qwen25VisionTower
from .qwen2_vision import ALIASES, check_head_dim, check_heads, tower_theta
from .qwen2_vl import Qwen2VL, Qwen2VLConfig, check_widths, language_part

# The values that transformers' Qwen2_5_VLVisionConfig uses for a key that vision_config omits.
DEFAULTS: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
SIZES = [key for key in DEFAULTS if key != "fullatt_block_indexes"]


@dataclass(frozen=True)
class Qwen25VLConfig(Qwen2VLConfig):
    """The decoder's config, the tower's, and the ids of special tokens."""

    vision: Qwen25VisionConfig

    @classmethod
    def from_json(cls, config: dict[str, Any], where: PathName) -> "Qwen25VLConfig":
        """From a config.json; the decoder's keys are in text_config, or at the top level.

        raises  UserError for a structure that this code does not compute
        """
        text, tokens = language_part(config, where, "qwen2_5_vl")
        tower = tower_config(part_of(config, "vision_config", where), f"{where}: vision_config")
        check_widths("out_hidden_size", tower, text, where)
        return cls(text=text, vision=tower, **tokens)


def tower_config(config: dict[str, Any], where: PathName) -> Qwen25VisionConfig:
    """The tower that a vision_config describes; UserError for one that is not computed here."""
    QWEN2_5_VL_VISION.check(config, where)
    values = DEFAULTS | config
    for key, alias in ALIASES.items():
        values[key] = values.get(alias, values[key])
    sizes = {key: whole_number(values, key, where) for key in SIZES}
    width, heads = sizes["hidden_size"], sizes["num_heads"]
    check_heads("hidden_size", width, heads, where)
    check_head_dim(values.get("head_dim"), width // heads, where)
    window = sizes["window_size"] // sizes["spatial_merge_size"] // sizes["patch_size"]
    if not window:
        raise UserError(
            f"{where}: window_size is {sizes['window_size']}; expected at least the side of a "
            f"token, spatial_merge_size {sizes['spatial_merge_size']} times patch_size "
            f"{sizes['patch_size']}"
        )
    full_blocks = values["fullatt_block_indexes"]
    if not isinstance(full_blocks, list) or not all(type(each) is int for each in full_blocks):
        raise UserError(
            f"{where}: fullatt_block_indexes is {shown(full_blocks)}; expected a list of numbers"
        )
    return Qwen25VisionConfig(
        hidden_size=width,
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=heads,
        in_channels=sizes["in_channels"],
        patch_size=sizes["patch_size"],
        temporal_patch_size=sizes["temporal_patch_size"],
        spatial_merge_size=sizes["spatial_merge_size"],
        output_size=sizes["out_hidden_size"],
        rope_theta=tower_theta(values, where),
        window=window,
        full_blocks=frozenset(full_blocks),
    )


class Qwen25VL(Qwen2VL):
    """A language model with a vision tower."""

    tower = Qwen25VisionTower
