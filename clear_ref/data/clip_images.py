"""CLIP's and LLaVA's picture preprocessing with Pillow: pad, resize, crop, rescale, normalise.

source  transformers 5.23: CLIPImageProcessorPil, LlavaImageProcessorPil, LlavaProcessor
"""

from collections.abc import Callable, Mapping
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
    SIDE_LIMIT,
    ImageClass,
    PictureFamily,
    PixelValues,
    Settings,
    read_settings,
)

DEFAULTS = COMMON_DEFAULTS | {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_pad": False,
    "pad_size": None,
}
FAMILY = PictureFamily(
    (
        ImageClass("LlavaImageProcessor", picture_keys.LLAVA, DEFAULTS),
        ImageClass("CLIPImageProcessor", picture_keys.CLIP, DEFAULTS),
    ),
    ("LlavaProcessor",),
    picture_keys.LLAVA_PROCESSOR,
)
Sides = tuple[int, int]
Colour = tuple[int, int, int]


def shorter_side(height: int, width: int, shortest: int) -> Sides:
    """(height, width) of the same shape; the shorter side is `shortest`, the other cut down."""
    longer = int(shortest * max(height, width) / min(height, width))
    return (longer, shortest) if width <= height else (shortest, longer)


def bounded_sides(height: int, width: int, shortest: int, longest: int) -> Sides:
    """(height, width) of the same shape: the shorter side `shortest`, the longer at most `longest`.

    If the longer side would be too long, the shorter is rounded, and the longer follows from the
    number before rounding.
    """
    low = float(min(height, width))
    high = float(max(height, width))
    side = shortest
    exact: float = shortest
    if high / low * shortest > longest:
        exact = longest * low / high
        side = round(exact)
    if min(height, width) == side:
        return height, width
    if width < height:
        return int(exact * height / width), side
    return side, int(exact * width / height)


def inside_box(height: int, width: int, most_high: int, most_wide: int) -> Sides:
    """(height, width) of the same shape, as large as the box allows."""
    scale = min(most_high / height, most_wide / width)
    return int(height * scale), int(width * scale)


# The keys of a size that the reference can resize to, and the rule.
SIZE_RULES: dict[tuple[str, ...], Callable[..., Sides]] = {
    ("shortest_edge",): shorter_side,
    ("shortest_edge", "longest_edge"): bounded_sides,
    ("max_height", "max_width"): inside_box,
    ("height", "width"): lambda height, width, new_height, new_width: (new_height, new_width),
}


def size_keys(settings: Settings, key: str, one_number: tuple[str, ...]) -> dict[str, int]:
    """A size in pixels as {key: number}.

    one_number  the keys of a size that is one number
    raises      UserError for a number that is no positive whole number below 65536, or a form that
                the reference cannot use
    """
    value = settings.values[key]
    if type(value) is int:
        value = dict.fromkeys(one_number, value)
    elif isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    found = {}
    if isinstance(value, dict):
        found = {name: number for name, number in value.items() if number is not None}
    numbers = all(type(n) is int and 0 < n < SIDE_LIMIT for n in found.values())
    if not found or not numbers or not any(set(found) == set(keys) for keys in SIZE_RULES):
        raise settings.wrong(
            key,
            "a number of pixels, or size.shortest_edge, or height and width (0 < pixels < 65536)",
        )
    area = found.get("shortest_edge", 0) ** 2 + found.get("height", 0) * found.get("width", 0)
    if area > MOST_PIXELS and "longest_edge" not in found:
        raise settings.wrong(key, f"pictures of at most {MOST_PIXELS} pixels")
    return found


def crop_sides(settings: Settings) -> Sides | None:
    """(height, width) of the centre crop; None: no crop."""
    if not settings.flag("do_center_crop"):
        return None
    crop = size_keys(settings, "crop_size", ("height", "width"))
    if set(crop) != {"height", "width"}:
        raise settings.wrong("crop_size", "a number of pixels, or height and width")
    return crop["height"], crop["width"]


def pad_colour(settings: Settings) -> Colour | None:
    """The colour of the padding to a square before the resize; None: no padding."""
    if not settings.flag("do_pad"):
        return None
    if settings.kind == "CLIPImageProcessor":
        if settings.values["pad_size"] is not None:
            raise settings.wrong(
                "pad_size", "it absent: do_pad is true, and nothing is padded here"
            )
        return None
    value = settings.values["image_mean"]
    if not value and not settings.flag("do_normalize"):
        return 0, 0, 0
    expected = "three numbers from 0 to 1, because do_pad is true"
    if not isinstance(value, (list, tuple)):
        raise settings.wrong("image_mean", expected)
    red, green, blue = (int(mean * 255) for mean in settings.channels("image_mean", -1e6, expected))
    if not all(0 <= level <= 255 for level in (red, green, blue)):
        raise settings.wrong("image_mean", expected)
    return red, green, blue


def number_of_tokens(processor: Mapping[str, Any], where: str, side: int, n_features: int) -> int:
    """The number of image tokens that a picture takes in the text.

    processor   processor_config.json's own values; without patch_size the number is the model's
    side        of the picture that the model takes, in pixels
    n_features  the model's number of image features
    raises      UserError if the two numbers differ
    """
    values: dict[str, Any] = {"num_additional_image_tokens": 0, **processor}
    patch = values.get("patch_size")
    if patch is None:
        return n_features
    for key, least in (("patch_size", 1), ("num_additional_image_tokens", 0)):
        if type(values[key]) is not int or values[key] < least:
            raise UserError(
                f"{where}: {key} is {shown(values[key])}; expected a whole number, at least {least}"
            )
    n_tokens = (side // patch) ** 2 + values["num_additional_image_tokens"]
    strategy = values.get("vision_feature_select_strategy")
    if strategy == "default":
        n_tokens -= 1
    if n_tokens != n_features:
        raise UserError(
            f"{where}: patch_size {patch}, num_additional_image_tokens "
            f"{values['num_additional_image_tokens']} and vision_feature_select_strategy "
            f"{shown(strategy)} make {n_tokens} image tokens; expected {n_features}, the number of "
            "features in config.json's model: correct them"
        )
    return n_tokens


@dataclass(frozen=True)
class ClipImages:
    """The image processor of a LLaVA directory.

    size       of the resize, as size_keys gives it; None: no resize
    crop       (height, width) of the centre crop; None: none
    values     rescale and normalise
    side       of the picture that the model takes, in pixels
    n_tokens   number of image tokens of a picture
    resample   the resize's filter
    padding    colour of the padding to a square before the resize; None: none
    """

    size: Mapping[str, int] | None
    crop: Sides | None
    values: PixelValues
    side: int
    n_tokens: int
    resample: Image.Resampling = Image.Resampling.BICUBIC
    padding: Colour | None = None

    @classmethod
    def from_directory(cls, directory: PathName, side: int, n_features: int) -> "ClipImages":
        """The processor that a model directory describes; see read_settings.

        side, n_features  of config.json's model
        raises            UserError for a value that is not computed here or does not fit the model
        """
        settings, processor, processor_path = read_settings(directory, FAMILY)
        crop = crop_sides(settings)
        if crop is not None and crop != (side, side):
            raise UserError(
                f"{settings.where}: crop_size is {crop[0]} x {crop[1]} pixels; expected "
                f"{side} x {side}, config.json's image_size"
            )
        size = None
        if settings.flag("do_resize"):
            square = settings.flag("default_to_square")
            size = size_keys(
                settings, "size", ("height", "width") if square else ("shortest_edge",)
            )
        return cls(
            size,
            crop,
            PixelValues.from_settings(settings),
            side,
            number_of_tokens(processor, processor_path, side, n_features),
            settings.resample() if size else Image.Resampling.BICUBIC,
            pad_colour(settings),
        )

    def __call__(self, image: Image.Image) -> Picture:
        """Pixels [3, side, side] of an RGB picture.

        raises  UserError if the settings make another size of this picture
        """
        found = f"picture is {image.width} x {image.height} pixels"
        if self.padding is not None:
            image = padded_to_square(image, self.padding)
        if self.size is not None:
            image = resized(image, self.size, self.resample, found)
        pixels = np.asarray(image, dtype=np.uint8)
        if self.crop is not None:
            pixels = centre_crop(pixels, *self.crop)
        if pixels.shape[:2] != (self.side, self.side):
            raise UserError(
                f"{found}, and size and crop_size of the picture settings make it "
                f"{pixels.shape[1]} x {pixels.shape[0]}; expected {self.side} x {self.side}, "
                "config.json's image_size"
            )
        return Picture(torch.from_numpy(self.values(pixels).copy()), None, self.n_tokens)


def padded_to_square(image: Image.Image, colour: Colour) -> Image.Image:
    """The picture in the middle of a square of its longer side; an odd rest is below or right."""
    side = max(image.size)
    check_size(image.size, (side, side))
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def resized(
    image: Image.Image, size: Mapping[str, int], resample: Image.Resampling, found: str
) -> Image.Image:
    """The picture in the size that `size` describes.

    found   the picture, for the error message
    raises  UserError if a side would be less than a pixel
    """
    for keys, rule in SIZE_RULES.items():
        if set(keys) == set(size):
            height, width = rule(image.height, image.width, *(size[key] for key in keys))
    if height < 1 or width < 1:
        raise UserError(f"{found}; size {dict(size)} leaves no pixel of it, crop it")
    check_size(image.size, (width, height))
    return image.resize((width, height), resample)


def centre_crop(pixels: np.ndarray, high: int, wide: int) -> np.ndarray:
    """uint8 [high, wide, 3] from the centre of uint8 [H, W, 3]; zeros where it is smaller."""
    height, width = pixels.shape[:2]
    top = (height - high) // 2
    left = (width - wide) // 2
    if top < 0 or left < 0:
        pad_top = -min(top, 0)
        pad_left = -min(left, 0)
        sides = max(high, height), max(wide, width)
        check_size((width, height), sides[::-1])
        frame = np.zeros((*sides, 3), np.uint8)
        frame[pad_top : pad_top + height, pad_left : pad_left + width] = pixels
        pixels = frame
        top = max(top, 0)
        left = max(left, 0)
    return pixels[top : top + high, left : left + wide]
