"""Pictures to pixels with Pillow: opening, and CLIP's resize, centre crop, rescale, normalise.

source  the reference image processor (transformers' CLIPImageProcessor, Pillow path); its
        settings are in preprocessor_config.json
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, one_line, read_json

ImageSource = str | os.PathLike[str] | Image.Image

# Settings of a processor with the only value that is computed here. Resample 3 is bicubic.
FIXED = {"do_resize": True, "resample": 3, "do_rescale": True, "do_normalize": True}
# What Pillow raises for a broken file.
BROKEN = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    SyntaxError,
    ValueError,
)


def open_image(source: ImageSource, where: str = "picture") -> Image.Image:
    """An RGB picture, turned upright by its EXIF tag.

    source  a path or a Pillow image
    raises  UserError that names `where` if the file is missing, is no picture, has more pixels
            than Pillow's limit, or has several frames
    """
    if isinstance(source, Image.Image):
        return upright(source)
    try:
        with warnings.catch_warnings():
            # Without this line Pillow only warns up to twice its limit of pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                n_frames = getattr(image, "n_frames", 1)
                # MPO: a camera's JPEG file with a second picture after the main one.
                if n_frames == 1 or image.format == "MPO":
                    return upright(image)
    except FileNotFoundError:
        raise UserError(
            f"{where}: there is no picture {source}; add the file or remove the row"
        ) from None
    except BROKEN as error:
        raise UserError(
            f"{where}: {source} is no readable picture ({error}); replace the file"
        ) from None
    raise UserError(
        f"{where}: {source} has {n_frames} frames; expected one picture: save one frame as a file"
    )


def upright(image: Image.Image) -> Image.Image:
    """RGB, turned by the EXIF tag; transparent pixels over white (as transformers since 5.0)."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def processor_settings(
    directory: PathName, fixed: Mapping[str, object]
) -> tuple[dict[str, Any], Path]:
    """The settings of a model directory's image processor, and the path of their file.

    They are in preprocessor_config.json, or in the image_processor part of processor_config.json.

    raises  UserError if one of `fixed` has another value, or the rescale factor is not 1/255
    """
    path = Path(directory) / "preprocessor_config.json"
    if path.exists():
        config = read_json(path)
    else:
        path = Path(directory) / "processor_config.json"
        config = read_json(path).get("image_processor", {})
    for key, expected in fixed.items():
        if config.get(key, expected) != expected:
            raise UserError(
                f"{path}: {key} is {config[key]!r}; expected {expected!r}, "
                "nothing else is computed here"
            )
    factor = config.get("rescale_factor", 1 / 255)
    if not isinstance(factor, (int, float)) or not 1 / 255 - 1e-9 < factor < 1 / 255 + 1e-9:
        raise UserError(f"{path}: rescale_factor is {one_line(repr(factor), 60)}; expected 1/255")
    return config, path


Channels = tuple[float, float, float]


def mean_and_std(config: Mapping[str, Any], path: PathName) -> tuple[Channels, Channels]:
    """(mean, std) per channel of a processor's settings.

    raises  UserError unless each is three finite numbers, the standard deviations above 0
    """
    mean = _three_numbers(config, "image_mean", -1e6, path, "three numbers")
    std = _three_numbers(config, "image_std", 0.0, path, "three numbers above 0")
    return mean, std


def _three_numbers(
    config: Mapping[str, Any], key: str, above: float, path: PathName, expected: str
) -> Channels:
    """Three numbers of the settings, each greater than `above` and less than 1e6."""
    found = config.get(key)
    if isinstance(found, (list, tuple)) and len(found) == 3:
        numbers = [value for value in found if isinstance(value, (int, float))]
        if len(numbers) == 3 and all(above < value < 1e6 for value in numbers):
            return float(numbers[0]), float(numbers[1]), float(numbers[2])
    raise UserError(f"{path}: {key} is {one_line(repr(found), 60)}; expected {expected}")


def normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """float32 [3, H, W] of uint8 [H, W, 3].

    Rescaled to [0, 1] in float64 and rounded to float32, then (x - mean) / std in float32.
    """
    scaled = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    return ((scaled - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


@dataclass(frozen=True)
class Picture:
    """A picture as a model reads it.

    pixels    float32 [3, H, W], or [patches, patch width] for families with a grid
    grid      number of patches in time, height and width; None for families without a grid
    n_tokens  number of image tokens that the picture takes in the text
    """

    pixels: torch.Tensor
    grid: tuple[int, int, int] | None
    n_tokens: int


@dataclass(frozen=True)
class ClipImages:
    """CLIP's image processor.

    size       shortest edge after the resize, in pixels
    crop       side of the centre crop, in pixels
    patch      side of a patch, in pixels
    mean, std  per channel
    """

    size: int
    crop: int
    patch: int
    mean: Channels
    std: Channels

    @classmethod
    def from_directory(cls, directory: PathName, patch: int) -> "ClipImages":
        """The processor that a model directory describes; see processor_settings."""
        config, path = processor_settings(directory, {**FIXED, "do_center_crop": True})
        try:
            size = config["size"]
            crop = config["crop_size"]
            edges = (
                size if isinstance(size, int) else size["shortest_edge"],
                crop if isinstance(crop, int) else crop["height"],
            )
            if not all(type(n) is int and 0 < n < 1 << 16 for n in edges):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: expected size.shortest_edge, crop_size.height, image_mean and "
                f"image_std; found {sorted(config)}"
            ) from None
        return cls(*edges, patch, *mean_and_std(config, path))

    def __call__(self, image: Image.Image) -> Picture:
        """Pixels [3, crop, crop] of an RGB picture; each patch of them is one token."""
        width, height = image.size
        short, long = sorted((width, height))
        scaled = int(self.size * long / short)
        new_size = (self.size, scaled) if width <= height else (scaled, self.size)
        resized = np.asarray(image.resize(new_size, Image.Resampling.BICUBIC), dtype=np.uint8)
        cropped = centre_crop(resized, self.crop)
        pixels = normalised(cropped, self.mean, self.std)
        return Picture(torch.from_numpy(pixels.copy()), None, (self.crop // self.patch) ** 2)


def centre_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3] from the centre of uint8 [H, W, 3]; zeros where it is smaller."""
    height, width = pixels.shape[:2]
    top = (height - side) // 2
    left = (width - side) // 2
    if top < 0 or left < 0:
        pad_top = -min(top, 0)
        pad_left = -min(left, 0)
        frame = np.zeros((max(side, height), max(side, width), 3), np.uint8)
        frame[pad_top : pad_top + height, pad_left : pad_left + width] = pixels
        pixels = frame
        top = max(top, 0)
        left = max(left, 0)
    return pixels[top : top + side, left : left + side]
