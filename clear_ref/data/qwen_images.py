"""Qwen2-VL's and Qwen2.5-VL's picture preprocessing with Pillow: resize, normalise, patches.

The resize keeps the picture's shape (the ratio of its sides).

source  Wang et al. 2024 (Qwen2-VL), section 2.1; numbers of transformers' Qwen2VLImageProcessor,
        Pillow path
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from . import picture_keys
from .images import MOST_PIXELS, Picture, check_size
from .picture_settings import (
    COMMON_DEFAULTS,
    ImageClass,
    PictureFamily,
    PixelValues,
    Settings,
    is_number,
    read_settings,
)

MAX_RATIO = 200
LEAST_AREA = 56 * 56
GREATEST_AREA = 28 * 28 * 1280
DEFAULTS: dict[str, Any] = COMMON_DEFAULTS | {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
}
FAMILY = PictureFamily(
    (ImageClass("Qwen2VLImageProcessor", picture_keys.QWEN2_VL, DEFAULTS),),
    ("Qwen2VLProcessor", "Qwen2_5_VLProcessor"),
    picture_keys.QWEN2_VL_PROCESSOR,
)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: float, max_pixels: float
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


def pixel_bounds(settings: Settings) -> tuple[float, float]:
    """(least, greatest) height * width after the resize.

    They are min_pixels and max_pixels; where one is absent, size.shortest_edge or
    size.longest_edge, which count pixels too.

    raises  UserError if one is missing or no positive number, or the least is above the greatest
    """
    size = settings.values.get("size")
    if size is None:
        size = {"shortest_edge": LEAST_AREA, "longest_edge": GREATEST_AREA}
    if not isinstance(size, dict):
        raise settings.wrong("size", "shortest_edge and longest_edge, both in pixels of area")
    bounds: dict[str, Any] = {}
    unread = set(size) - {"shortest_edge", "longest_edge"}
    for key, in_size in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        value = settings.values.get(key)
        if value is not None:
            unread.discard(key)
        bounds[key] = size.get(in_size) if value is None else value
        if not is_number(bounds[key]) or bounds[key] <= 0:
            raise UserError(
                f"{settings.where}: {key} (or size.{in_size}) is {shown(bounds[key])}; expected a "
                "positive number of pixels"
            )
    if unread:
        raise settings.wrong("size", "shortest_edge and longest_edge, and no other key")
    if bounds["min_pixels"] > bounds["max_pixels"]:
        raise UserError(
            f"{settings.where}: min_pixels is {bounds['min_pixels']}, above max_pixels "
            f"{bounds['max_pixels']}; swap them (size.shortest_edge and size.longest_edge are the "
            "same settings)"
        )
    return bounds["min_pixels"], bounds["max_pixels"]


@dataclass(frozen=True)
class Qwen2VLImages:
    """Qwen2-VL's image processor, which is Qwen2.5-VL's too.

    patch_size           side of a patch in pixels
    temporal_patch_size  number of frames in a patch
    merge_size           side, in patches, of the block that becomes one token
    min_pixels           least height * width after the resize
    max_pixels           greatest height * width after the resize; lower it for fewer tokens
    values               rescale and normalise
    resample             the resize's filter; None: no resize
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: float
    max_pixels: float
    values: PixelValues
    resample: Image.Resampling | None = Image.Resampling.BICUBIC

    @classmethod
    def from_directory(cls, directory: PathName) -> "Qwen2VLImages":
        """The processor that a model directory describes; see read_settings.

        raises  UserError for a value that is not computed here
        """
        settings, _, _ = read_settings(directory, FAMILY)
        return cls(
            settings.whole("patch_size"),
            settings.whole("temporal_patch_size"),
            settings.whole("merge_size"),
            *pixel_bounds(settings),
            PixelValues.from_settings(settings),
            settings.resample() if settings.flag("do_resize") else None,
        )

    def __call__(self, image: Image.Image) -> Picture:
        """The patches of an RGB picture.

        Its pixels are [h * w, 3 * temporal * patch * patch], its grid is (1, h, w).
        """
        image = self.resized(image)
        pixels = patches(
            self.values(np.asarray(image, dtype=np.uint8)),
            self.patch_size,
            self.merge_size,
            self.temporal_patch_size,
        )
        grid = (1, image.height // self.patch_size, image.width // self.patch_size)
        return Picture(torch.from_numpy(pixels), grid, len(pixels) // self.merge_size**2)

    def resized(self, image: Image.Image) -> Image.Image:
        """The picture with sides that are multiples of patch_size * merge_size.

        raises  UserError if the settings have no resize and the picture has other sides
        """
        factor = self.patch_size * self.merge_size
        if self.resample is None:
            if image.height % factor or image.width % factor:
                raise UserError(
                    f"picture is {image.width} x {image.height} pixels, and do_resize of the "
                    f"picture settings is false; expected sides that are multiples of {factor}"
                )
            return image
        height, width = smart_resize(
            image.height, image.width, factor, self.min_pixels, self.max_pixels
        )
        # Of each pixel the patches have three numbers for each frame.
        check_size(image.size, (width, height), MOST_PIXELS // (2 * self.temporal_patch_size))
        return image.resize((width, height), self.resample)
