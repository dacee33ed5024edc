"""The picture settings of a model directory: where they are, and what all image processors share.

source  AutoProcessor.from_pretrained and AutoImageProcessor.from_pretrained of transformers 5.23
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import KeyTable, is_number, shown
from clear_ref.common.files import PathName, read_json

Channels = tuple[float, float, float]
MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
STD: Channels = (0.26862954, 0.26130258, 0.27577711)
# What the reference's classes have for an omitted key. A null in the file stays null.
COMMON_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "default_to_square": False,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
}
# Sizes at and above this number of pixels are refused.
SIDE_LIMIT = 1 << 16


@dataclass(frozen=True)
class ImageClass:
    """An image processor of the reference.

    name      its name, without the endings Pil and Fast
    keys      the fates of its keys
    defaults  the values of omitted keys
    """

    name: str
    keys: KeyTable
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class PictureFamily:
    """Which classes of the reference a family may have.

    images      image processors; the first is the one without image_processor_type
    processors  processor classes
    keys        the fates of processor_config.json's own keys
    """

    images: tuple[ImageClass, ...]
    processors: tuple[str, ...]
    keys: KeyTable


@dataclass(frozen=True)
class Settings:
    """The picture settings of a directory, checked with the class's table of keys.

    kind    the image processor's name
    values  the settings, with the class's defaults for omitted keys
    where   the file, for messages
    """

    kind: str
    values: Mapping[str, Any]
    where: str

    def wrong(self, key: str, expected: str) -> UserError:
        """The error for a key's value."""
        return UserError(f"{self.where}: {key} is {shown(self.values[key])}; expected {expected}")

    def flag(self, key: str) -> bool:
        """A switch; null is off."""
        value = self.values[key]
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def whole(self, key: str) -> int:
        """A positive whole number."""
        value = self.values[key]
        if type(value) is not int or value <= 0:
            raise self.wrong(key, "a positive whole number")
        return value

    def channels(self, key: str, above: float, expected: str) -> Channels:
        """A number for each channel, each greater than `above` and less than 1e6."""
        value = self.values[key]
        if is_number(value):
            value = [value] * 3
        if isinstance(value, Sequence) and len(value) == 3 and all(map(is_number, value)):
            red, green, blue = (float(number) for number in value)
            if all(above < number < 1e6 for number in (red, green, blue)):
                return red, green, blue
        raise self.wrong(key, expected)

    def resample(self) -> Image.Resampling:
        """The filter of the resize."""
        value = self.values["resample"]
        if type(value) is not int or value not in [known.value for known in Image.Resampling]:
            raise self.wrong("resample", "the number of a Pillow filter (3: bicubic)")
        return Image.Resampling(value)


def read_settings(
    directory: PathName, family: PictureFamily
) -> tuple[Settings, Mapping[str, Any], str]:
    """(the picture settings, processor_config.json's own values, its path) of a model directory.

    raises  UserError if there are no picture settings, for an unknown image processor or processor
            class, and for a value that the tables refuse
    """
    directory = Path(directory)
    processor_path = directory / "processor_config.json"
    preprocessor_path = directory / "preprocessor_config.json"
    processor = _optional(processor_path)
    family.keys.check(processor, processor_path)
    if processor.get("image_processor") is not None:
        where = f"{processor_path}, image_processor"
        values = processor["image_processor"]
        if not isinstance(values, dict):
            raise UserError(f"{where} is {shown(values)}; expected picture settings, an object")
    else:
        where = str(preprocessor_path)
        values = read_json(preprocessor_path)
    config = _optional(directory / "config.json")
    tokenizer_path = directory / "tokenizer_config.json"
    # The order of the reference. It looks into an image part only beside the other file.
    places = [(str(processor_path), processor)]
    if preprocessor_path.exists():
        places.append((where, values))
    places.append((str(tokenizer_path), _optional(tokenizer_path)))
    places.append((str(directory / "config.json"), config))
    _check_processor_class(places, family.processors)
    image_class = _image_class(values, config, where, family.images)
    image_class.keys.check(values, where)
    settings = Settings(image_class.name, {**image_class.defaults, **values}, where)
    return settings, processor, str(processor_path)


def _optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file."""
    return read_json(path) if path.exists() else {}


def _check_processor_class(
    places: Sequence[tuple[str, Mapping[str, Any]]], known: Sequence[str]
) -> None:
    """UserError unless the first processor_class that is given is one of the family's."""
    for where, values in places:
        found = values.get("processor_class")
        if found is None:
            continue
        if found not in known:
            raise UserError(
                f"{where}: processor_class is {shown(found)}; expected {' or '.join(known)}, "
                "the files belong to another model"
            )
        return


def _image_class(
    values: Mapping[str, Any],
    config: Mapping[str, Any],
    where: str,
    classes: tuple[ImageClass, ...],
) -> ImageClass:
    """The image processor of the settings; the endings Pil and Fast name ways to compute it."""
    name = values.get("image_processor_type")
    key = "image_processor_type"
    if name is None and "AutoImageProcessor" not in (values.get("auto_map") or {}):
        extractor = values.get("feature_extractor_type")
        if extractor is not None:
            key = "feature_extractor_type"
            name = str(extractor).replace("FeatureExtractor", "ImageProcessor")
    if name is None:
        name = config.get("image_processor_type")
    if name is None:
        return classes[0]
    for image_class in classes:
        if name in [image_class.name + ending for ending in ("", "Pil", "Fast", "PilFast")]:
            return image_class
    known = " or ".join(image_class.name for image_class in classes)
    raise UserError(
        f"{where}: {key} is {shown(name)}; expected {known}, nothing else is computed here"
    )


@dataclass(frozen=True)
class PixelValues:
    """uint8 [H, W, 3] to float32 [3, H, W]: rescale and normalise.

    factor     of the rescale; None: none
    mean, std  per channel; None: not normalised

    Rescaled in float64 and rounded to float32; then (x - mean) / std in float32.
    """

    factor: float | None
    mean: Channels | None
    std: Channels | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "PixelValues":
        """The pixel values that the settings describe; UserError for a wrong value."""
        factor = None
        if settings.flag("do_rescale"):
            factor = settings.values["rescale_factor"]
            if not is_number(factor):
                raise settings.wrong("rescale_factor", "a number, such as 1/255")
        if not settings.flag("do_normalize"):
            return cls(factor, None, None)
        mean = settings.channels("image_mean", -1e6, "three numbers, or one number")
        std = settings.channels("image_std", 0.0, "three numbers above 0, or one number above 0")
        return cls(factor, mean, std)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [3, H, W] of uint8 [H, W, 3]."""
        values: np.ndarray = pixels.astype(np.float32)
        if self.factor is not None:
            values = (pixels.astype(np.float64) * self.factor).astype(np.float32)
        if self.mean is not None and self.std is not None:
            values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return values.transpose(2, 0, 1)
