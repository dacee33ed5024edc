"""The architectures that `load` knows: how each reads its config.json, is built, and takes pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json
from clear_ref.data.images import ClipImages
from clear_ref.data.qwen_images import Qwen2VLImages

from .language import CausalLM
from .language_config import language_config
from .llava import Llava, LlavaConfig
from .qwen2_vl import Qwen2VL, Qwen2VLConfig


@dataclass(frozen=True)
class Family:
    """name: config.json's model_type. config: (config.json, where) -> its config. text: that config -> the LanguageConfig in it.
    model: config -> nn.Module. images: (directory, config) -> the picture processor; None: it sees no pictures."""

    name: str
    config: Callable
    text: Callable
    model: Callable
    images: Callable | None

    @property
    def sees_pictures(self) -> bool:
        """Whether pictures go with its text."""
        return self.images is not None


def _plain(name: str) -> Family:
    return Family(
        name,
        lambda config, where: language_config(config, where, name),
        lambda config: config,
        CausalLM,
        None,
    )


def _clip_images(directory, config: LlavaConfig) -> ClipImages:
    made = ClipImages.from_directory(directory, config.vision.patch_size)
    if made.crop != config.vision.image_size:
        raise UserError(
            f"{directory}: preprocessor_config.json crops to {made.crop} pixels, config.json expects "
            f"{config.vision.image_size}"
        )
    return made


def _qwen_images(directory, config: Qwen2VLConfig) -> Qwen2VLImages:
    made, vision = Qwen2VLImages.from_directory(directory), config.vision
    for key, found, expected in (
        ("patch_size", made.patch_size, vision.patch_size),
        ("temporal_patch_size", made.temporal_patch_size, vision.temporal_patch_size),
        ("merge_size", made.merge_size, vision.spatial_merge_size),
    ):
        if found != expected:
            raise UserError(
                f"{directory}: preprocessor_config.json has {key} {found}, config.json expects {expected}"
            )
    return made


FAMILIES = {
    found.name: found
    for found in (
        Family("llava", LlavaConfig.from_json, lambda config: config.text, Llava, _clip_images),
        Family(
            "qwen2_vl", Qwen2VLConfig.from_json, lambda config: config.text, Qwen2VL, _qwen_images
        ),
        _plain("llama"),
        _plain("mistral"),
        _plain("qwen2"),
    )
}


def family(config: dict, where) -> Family:
    """The family of a config.json by its model_type; UserError for one that is not known here."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{where}: model_type is {kind!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def sees_pictures(directory) -> bool:
    """Whether the model of a directory takes pictures, from its config.json alone."""
    where = Path(directory) / "config.json"
    return family(read_json(where), where).sees_pictures
