"""Pictures to pixels with Pillow: opening, and CLIP's resize, centre crop, rescale and normalise.

source  the reference image processor (transformers' CLIPImageProcessor, Pillow path), settings from preprocessor_config.json
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, read_json

FIXED = {"do_resize": True, "resample": 3, "do_rescale": True, "do_normalize": True}  # 3: bicubic
BROKEN = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    SyntaxError,
    ValueError,
)


def open_image(source, where: str = "picture") -> Image.Image:
    """An RGB picture, turned upright by its EXIF tag, from a path or a Pillow image.

    raises  UserError naming `where` if the file is missing, no picture, has more pixels than Pillow's limit or several frames
    """
    if isinstance(source, Image.Image):
        return upright(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", Image.DecompressionBombWarning
            )  # Pillow itself refuses only twice its limit
            with Image.open(source) as image:
                frames = getattr(image, "n_frames", 1)
                if (
                    frames == 1 or image.format == "MPO"
                ):  # MPO: a camera's JPEG with a second picture behind the one meant
                    return upright(image)
    except FileNotFoundError:
        raise UserError(
            f"{where}: there is no picture {source}; put it there or drop the row"
        ) from None
    except BROKEN as error:
        raise UserError(
            f"{where}: {source} is no readable picture ({error}); replace the file"
        ) from None
    raise UserError(
        f"{where}: {source} has {frames} frames; expected one picture: save the frame that is meant as a file"
    )


def upright(image: Image.Image) -> Image.Image:
    """RGB, turned by the EXIF tag, transparent pixels over white (as transformers does since version 5)."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def processor_settings(directory, fixed: dict) -> tuple[dict, Path]:
    """The settings in preprocessor_config.json (or the image_processor part of processor_config.json), and that file's path.

    raises  UserError if one of `fixed` is set to another value, or the rescale factor is not 1/255
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
                f"{path}: {key} is {config[key]!r}; expected {expected!r}, nothing else is computed here"
            )
    factor = config.get("rescale_factor", 1 / 255)
    if not isinstance(factor, (int, float)) or not 1 / 255 - 1e-9 < factor < 1 / 255 + 1e-9:
        raise UserError(f"{path}: rescale_factor is {one_line(repr(factor), 60)}; expected 1/255")
    return config, path


def moments(config: dict, path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of a processor's settings; UserError unless each is three finite numbers, deviations above 0."""
    for key, least in (("image_mean", -1e6), ("image_std", 0)):
        found = config.get(key)
        if (
            not isinstance(found, list | tuple)
            or len(found) != 3
            or not all(
                isinstance(number, (int, float)) and least < number < 1e6 for number in found
            )
        ):
            raise UserError(
                f"{path}: {key} is {one_line(repr(found), 60)}; expected three numbers"
                f"{'' if least else ' above 0'}"
            )
    return tuple(map(float, config["image_mean"])), tuple(map(float, config["image_std"]))


def normalised(pixels: np.ndarray, mean, std) -> np.ndarray:
    """float32 [3, H, W] of uint8 [H, W, 3]: rescaled to [0, 1] in float64, rounded, then (x - mean) / std in float32."""
    scaled = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    return ((scaled - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


@dataclass(frozen=True)
class Picture:
    """A picture as a model takes it: float32 pixels ([3, H, W], or [patches, patch width] with its grid of patches in time,
    height and width), and how many image tokens it takes in the text."""

    pixels: torch.Tensor
    grid: tuple[int, int, int] | None
    n_tokens: int


@dataclass(frozen=True)
class ClipImages:
    """size: shortest edge after the resize, crop: side of the centre crop, patch: of a patch, all in pixels; mean and std per
    channel."""

    size: int
    crop: int
    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_directory(cls, directory, patch: int) -> "ClipImages":
        """The settings in preprocessor_config.json (or the image_processor part of processor_config.json)."""
        config, path = processor_settings(directory, {**FIXED, "do_center_crop": True})
        try:
            size, crop = config["size"], config["crop_size"]
            edges = (
                size if isinstance(size, int) else size["shortest_edge"],
                crop if isinstance(crop, int) else crop["height"],
            )
            if not all(type(n) is int and 0 < n < 1 << 16 for n in edges):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: expected size.shortest_edge, crop_size.height, image_mean and image_std; "
                f"found {sorted(config)}"
            ) from None
        return cls(*edges, patch, *moments(config, path))

    def __call__(self, image: Image.Image) -> Picture:
        """Pixels [3, crop, crop] of an RGB picture; each patch of them is one token."""
        width, height = image.size
        short, long = sorted((width, height))
        scaled = int(self.size * long / short)
        image = image.resize(
            (self.size, scaled) if width <= height else (scaled, self.size),
            Image.Resampling.BICUBIC,
        )
        pixels = np.asarray(image, dtype=np.uint8)
        top, left = (pixels.shape[0] - self.crop) // 2, (pixels.shape[1] - self.crop) // 2
        if top < 0 or left < 0:
            pad_top, pad_left = -min(top, 0), -min(left, 0)
            frame = np.zeros(
                (max(self.crop, pixels.shape[0]), max(self.crop, pixels.shape[1]), 3), np.uint8
            )
            frame[pad_top : pad_top + pixels.shape[0], pad_left : pad_left + pixels.shape[1]] = (
                pixels
            )
            pixels, top, left = frame, max(top, 0), max(left, 0)
        pixels = normalised(
            pixels[top : top + self.crop, left : left + self.crop], self.mean, self.std
        )
        return Picture(torch.from_numpy(pixels.copy()), None, (self.crop // self.patch) ** 2)
