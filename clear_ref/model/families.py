"""The table of model families: how each reads config.json, is built and processes pictures.

A family is identified by config.json's model_type. README.md in this folder says how to add one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName, read_json
from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import Picture
from clear_ref.data.qwen_images import Qwen2VLImages

from .base_model import CausalLM, Model
from .language_config import LanguageConfig, language_config
from .llava import Llava, LlavaConfig
from .model_directory import check_is_model
from .qwen2_5_vl import Qwen25VL, Qwen25VLConfig
from .qwen2_vl import Qwen2VL, Qwen2VLConfig

# The config class of a family. Its `text` is the LanguageConfig of the decoder.
ConfigT = TypeVar("ConfigT", LanguageConfig, LlavaConfig, Qwen2VLConfig, Qwen25VLConfig)
ImageProcessor = Callable[[Image.Image], Picture]


@dataclass(frozen=True)
class Family(Generic[ConfigT]):
    """What a family provides.

    name    config.json's model_type
    config  (config.json, its path for error messages) -> the family's config, every value checked
    model   the config -> the nn.Module, with random or no weights
    images  (model directory, the config) -> the image processor; None: a language model
    """

    name: str
    config: Callable[[dict[str, Any], PathName], ConfigT]
    model: Callable[[ConfigT], Model]
    images: Callable[[PathName, ConfigT], ImageProcessor] | None

    @property
    def sees_pictures(self) -> bool:
        """True if a record may have a picture."""
        return self.images is not None


def _language_family(name: str) -> Family[LanguageConfig]:
    def config(values: dict[str, Any], where: PathName) -> LanguageConfig:
        return language_config(values, where, name)

    return Family(name, config, CausalLM, None)


def _clip_images(directory: PathName, config: LlavaConfig) -> ClipImages:
    """The image processor of a LLaVA directory; UserError if it does not fit config.json."""
    side = config.vision.image_size
    n_features = (side // config.vision.patch_size) ** 2
    return ClipImages.from_directory(directory, side, n_features)


def _qwen_images(directory: PathName, config: Qwen2VLConfig) -> Qwen2VLImages:
    """The image processor of a Qwen2-VL or Qwen2.5-VL directory.

    raises  UserError if it does not fit config.json
    """
    processor = Qwen2VLImages.from_directory(directory)
    vision = config.vision
    for key, value, expected in (
        ("patch_size", processor.patch_size, vision.patch_size),
        ("temporal_patch_size", processor.temporal_patch_size, vision.temporal_patch_size),
        ("merge_size", processor.merge_size, vision.spatial_merge_size),
    ):
        if value != expected:
            raise UserError(
                f"{directory}: the picture settings have {key} {value}, "
                f"config.json expects {expected}"
            )
    return processor


# Any: each family has a config class of its own.
FAMILIES: dict[str, Family[Any]] = {
    "llava": Family("llava", LlavaConfig.from_json, Llava, _clip_images),
    "qwen2_vl": Family("qwen2_vl", Qwen2VLConfig.from_json, Qwen2VL, _qwen_images),
    "qwen2_5_vl": Family("qwen2_5_vl", Qwen25VLConfig.from_json, Qwen25VL, _qwen_images),
    "llama": _language_family("llama"),
    "mistral": _language_family("mistral"),
    "qwen2": _language_family("qwen2"),
}


def family(config: dict[str, Any], where: PathName) -> Family[Any]:
    """The family of a config.json by its model_type; UserError if the type is unknown."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"{where}: model_type is {shown(model_type)}; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def sees_pictures(directory: PathName) -> bool:
    """True if a record may have a picture; only the directory's config.json is read."""
    check_is_model(directory)
    where = Path(directory) / "config.json"
    return family(read_json(where), where).sees_pictures
