"""Qwen2-VL's picture preprocessing with Pillow: a resize that keeps the picture's shape, rescale, normalise, cut into patches.

source  Wang et al. 2024 (Qwen2-VL) 2.1; numbers of transformers' Qwen2VLImageProcessor, Pillow path
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from clear_ref.common.errors import UserError

from .images import FIXED, Picture, moments, normalised, processor_settings

MAX_RATIO = 200
DEFAULTS = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 56 * 56,
    "max_pixels": 28 * 28 * 1280,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width), both multiples of `factor`, nearest to the picture's own (half to even); where their product is above
    max_pixels the largest of the same shape below it, where it is below min_pixels the smallest above.

    raises  UserError if one side is more than 200 times the other
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise UserError(
            f"picture is {width} x {height} pixels; expected sides that differ by at most {MAX_RATIO} times, crop it"
        )
    high, wide = (round(side / factor) * factor for side in (height, width))
    if high * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return tuple(
            max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)
        )
    if high * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
    return high, wide


def patches(pixels: np.ndarray, patch: int, merge: int, temporal: int) -> np.ndarray:
    """[h * w, C * temporal * patch * patch] of pixels [C, H, W], a still picture repeated `temporal` times.

    Patches stand in blocks of merge x merge (the ones that become one token), blocks row by row, patches row by row within.
    A patch's values stand in the order channel, time, row, column.
    """
    C, H, W = pixels.shape
    blocks = pixels.reshape(
        C, H // (merge * patch), merge, patch, W // (merge * patch), merge, patch
    )
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    return blocks.repeat(temporal, axis=5).reshape(-1, C * temporal * patch * patch)


@dataclass(frozen=True)
class Qwen2VLImages:
    """patch_size: side of a patch in pixels; merge_size: side of the block of patches that becomes one token; min_pixels and
    max_pixels: bounds of height * width after the resize (lower max_pixels for fewer tokens); mean and std per channel."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_directory(cls, directory) -> "Qwen2VLImages":
        """The settings in preprocessor_config.json (or the image_processor part of processor_config.json).

        The bounds are min_pixels and max_pixels, or else size.shortest_edge and size.longest_edge, which count pixels too.
        raises  UserError for a value that is not computed here
        """
        config, path = processor_settings(directory, {**FIXED, "do_convert_rgb": True})
        size = config.get("size") or {
            "shortest_edge": DEFAULTS["min_pixels"],
            "longest_edge": DEFAULTS["max_pixels"],
        }
        if not isinstance(size, dict):
            raise UserError(
                f"{path}: size is {size!r}; expected shortest_edge and longest_edge, both in pixels of area"
            )
        found = {
            **DEFAULTS,
            "min_pixels": size.get("shortest_edge"),
            "max_pixels": size.get("longest_edge"),
            **{key: config[key] for key in DEFAULTS if config.get(key) is not None},
        }
        for key, value in found.items():
            if not key.startswith("image_") and not (isinstance(value, int) and value > 0):
                raise UserError(f"{path}: {key} is {value!r}; expected a positive whole number")
        if found["min_pixels"] > found["max_pixels"]:
            raise UserError(
                f"{path}: min_pixels is {found['min_pixels']}, above max_pixels {found['max_pixels']}; swap them"
            )
        return cls(
            found["patch_size"],
            found["temporal_patch_size"],
            found["merge_size"],
            found["min_pixels"],
            found["max_pixels"],
            *moments(found, path),
        )

    def __call__(self, image: Image.Image) -> Picture:
        """The patches of an RGB picture: pixels [h * w, 3 * temporal * patch * patch], grid (1, h, w)."""
        width, height = image.size
        high, wide = smart_resize(
            height, width, self.patch_size * self.merge_size, self.min_pixels, self.max_pixels
        )
        resized = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC), dtype=np.uint8)
        pixels = patches(
            normalised(resized, self.mean, self.std),
            self.patch_size,
            self.merge_size,
            self.temporal_patch_size,
        )
        grid = (1, high // self.patch_size, wide // self.patch_size)
        return Picture(torch.from_numpy(pixels), grid, len(pixels) // self.merge_size**2)
