"""Qwen2-VL's picture preprocessing with Pillow: resize, rescale, normalise, cut into patches.

The resize keeps the picture's shape (the ratio of its sides).

source  Wang et al. 2024 (Qwen2-VL), section 2.1; numbers of transformers' Qwen2VLImageProcessor,
        Pillow path
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName

from .images import FIXED, Channels, Picture, mean_and_std, normalised, processor_settings

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
    """(height, width) after the resize, both multiples of `factor`.

    They are the multiples nearest to the picture's own sides (half to even). If their product is
    above max_pixels, they are the largest of the same shape below it; if it is below min_pixels,
    the smallest of the same shape above it.

    raises  UserError if one side is more than 200 times the other
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise UserError(
            f"picture is {width} x {height} pixels; expected sides that differ by at most "
            f"{MAX_RATIO} times, crop it"
        )
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return (
            math.ceil(height * grow / factor) * factor,
            math.ceil(width * grow / factor) * factor,
        )
    return new_height, new_width


def patches(pixels: np.ndarray, patch: int, merge: int, temporal: int) -> np.ndarray:
    """[h * w, C * temporal * patch * patch] of pixels [C, H, W]; a picture is `temporal` frames.

    The patches are ordered in blocks of merge x merge (the ones that become one token): blocks row
    by row, and patches row by row inside a block. The values of a patch are in the order channel,
    time, row, column.
    """
    C, H, W = pixels.shape
    blocks = pixels.reshape(
        C, H // (merge * patch), merge, patch, W // (merge * patch), merge, patch
    )
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    return blocks.repeat(temporal, axis=5).reshape(-1, C * temporal * patch * patch)


@dataclass(frozen=True)
class Qwen2VLImages:
    """Qwen2-VL's image processor.

    patch_size           side of a patch in pixels
    temporal_patch_size  number of frames in a patch
    merge_size           side, in patches, of the block that becomes one token
    min_pixels           least height * width after the resize
    max_pixels           greatest height * width after the resize; lower it for fewer tokens
    mean, std            per channel
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: Channels
    std: Channels

    @classmethod
    def from_directory(cls, directory: PathName) -> "Qwen2VLImages":
        """The processor that a model directory describes; see processor_settings.

        The bounds are min_pixels and max_pixels; if these are absent, size.shortest_edge and
        size.longest_edge, which count pixels too.

        raises  UserError for a value that is not computed here
        """
        config, path = processor_settings(directory, {**FIXED, "do_convert_rgb": True})
        size = config.get("size") or {
            "shortest_edge": DEFAULTS["min_pixels"],
            "longest_edge": DEFAULTS["max_pixels"],
        }
        if not isinstance(size, dict):
            raise UserError(
                f"{path}: size is {size!r}; expected shortest_edge and longest_edge, both in "
                "pixels of area"
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
                f"{path}: min_pixels is {found['min_pixels']}, above max_pixels "
                f"{found['max_pixels']}; swap them"
            )
        return cls(
            found["patch_size"],
            found["temporal_patch_size"],
            found["merge_size"],
            found["min_pixels"],
            found["max_pixels"],
            *mean_and_std(found, path),
        )

    def __call__(self, image: Image.Image) -> Picture:
        """The patches of an RGB picture.

        Its pixels are [h * w, 3 * temporal * patch * patch], its grid is (1, h, w).
        """
        width, height = image.size
        new_height, new_width = smart_resize(
            height, width, self.patch_size * self.merge_size, self.min_pixels, self.max_pixels
        )
        resized = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        pixels = patches(
            normalised(np.asarray(resized, dtype=np.uint8), self.mean, self.std),
            self.patch_size,
            self.merge_size,
            self.temporal_patch_size,
        )
        grid = (1, new_height // self.patch_size, new_width // self.patch_size)
        return Picture(torch.from_numpy(pixels), grid, len(pixels) // self.merge_size**2)
