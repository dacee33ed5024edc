"""The differential test of picture settings: one or two keys of either file changed, any picture.

A directory of each family (tokenizer and config.json alone, no weights) is read by transformers'
AutoProcessor or AutoImageProcessor and by this package; pixels, grid and number of image tokens
are compared.

Run: python -m tests.helpers.differential_pictures --cases 5000 --seed 1
"""

import argparse
import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref.data.clip_images import ClipImages
from clear_ref.data.images import open_image
from clear_ref.data.qwen_images import Qwen2VLImages
from tests.helpers.differential import Case, Counts, compare

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
SIDE = 24
PATCH = 6
N_FEATURES = (SIDE // PATCH) ** 2
MODES = ("RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr", "HSV", "PA")
SIZES = ((24, 24), (31, 20), (20, 31), (7, 90), (90, 7), (64, 48), (12, 12), (150, 133), (48, 24))
MEAN = [0.48145466, 0.4578275, 0.40821073]
# A value that stands for a key taken out of the file.
ABSENT = object()

SWITCHES = dict.fromkeys(
    ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "default_to_square"),
    (True, False, None, ABSENT),
)
VALUES: dict[str, tuple[Any, ...]] = {
    **SWITCHES,
    "resample": (0, 1, 2, 3, 4, 5, 6, 7, None, ABSENT, "bicubic", True, 3.0),
    "rescale_factor": (1 / 255, 1 / 127.5, 0.5, 1, 0, -1.5, None, ABSENT, "1/255"),
    "image_mean": (MEAN, [0.5, 0.5, 0.5], [0, 0.2, 1], [-0.5, 2, 0.1], 0.5, 0, [0.5], None, ABSENT),
    "image_std": ([0.26, 0.27, 0.28], [0.5, 1, 2], 0.5, 1, [0.5], None, ABSENT),
    "data_format": ("channels_first", "channels_last", None),
    "input_data_format": ("channels_first", "channels_last", None),
    "return_tensors": ("np", "pt", None),
    "disable_grouping": (True, False, None),
    "image_seq_length": (5, None),
    "device": ("cpu", None),
    "an_unknown_key": (5, None),
    "auto_map": ({"AutoImageProcessor": "images.Mine"}, {"AutoProcessor": "x.Mine"}, {}, None),
    "_valid_processor_keys": (["images"],),
    "processor_class": ("LlavaProcessor", "Qwen2VLProcessor", None, ABSENT),
}
CLIP_VALUES: dict[str, tuple[Any, ...]] = {
    **VALUES,
    "image_processor_type": (
        *("CLIPImageProcessor", "CLIPImageProcessorPil", "CLIPImageProcessorFast"),
        *("LlavaImageProcessor", "LlavaImageProcessorPil", "LlavaImageProcessorFast"),
        *("LlavaImageProcessor", "SiglipImageProcessor", "ViTImageProcessor", None, ABSENT),
    ),
    "feature_extractor_type": ("CLIPFeatureExtractor", "LlavaFeatureExtractor", None),
    "size": (
        *({"shortest_edge": SIDE}, {"shortest_edge": 30}, {"shortest_edge": 11}, SIDE, 30, 11),
        *({"height": SIDE, "width": SIDE}, {"height": 40, "width": 26}, [SIDE, SIDE], [30, 25]),
        *({"shortest_edge": 30, "longest_edge": 60}, {"shortest_edge": 30, "longest_edge": 31}),
        *({"max_height": 40, "max_width": 30}, {"longest_edge": 30}, {"shortest_edge": 24.0}),
        *({"height": 24, "width": 24, "shortest_edge": 9}, {"min_pixels": 99, "max_pixels": 999}),
        *({"shortest_edge": SIDE, "longest_edge": None}, {}, None, ABSENT),
    ),
    "do_center_crop": (True, False, None, ABSENT),
    "crop_size": (
        *(SIDE, [SIDE, SIDE], {"height": SIDE, "width": SIDE}, {"height": SIDE, "width": 20}),
        *(20, {"shortest_edge": SIDE}, None, ABSENT),
    ),
    "do_pad": (True, False, None, ABSENT),
    "pad_size": ({"height": SIDE, "width": SIDE}, {"height": 40, "width": 40}, SIDE, None, ABSENT),
    "use_square_size": (True, False, None),
}
QWEN_VALUES: dict[str, tuple[Any, ...]] = {
    **VALUES,
    "image_processor_type": (
        *("Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil", "Qwen2VLImageProcessorFast"),
        *("CLIPImageProcessor", None, ABSENT),
    ),
    "size": (
        *({"shortest_edge": 3136, "longest_edge": 12845056}, {"shortest_edge": 3136}),
        *({"shortest_edge": 784, "longest_edge": 7840}, {"shortest_edge": 9000}, 224),
        *({"min_pixels": 784, "max_pixels": 7840}, {"height": 56, "width": 56}, None, ABSENT),
    ),
    "min_pixels": (784, 3136, 9000, 9000.5, 0, None, ABSENT),
    "max_pixels": (7840, 1003520, 12845056, 7000.0, 100, None, ABSENT),
    "patch_size": (14, 7, 16, 14.0, None, ABSENT),
    "temporal_patch_size": (2, 1, 3, None, ABSENT),
    "merge_size": (2, 1, 3, None, ABSENT),
    "do_center_crop": (True, False, None),
    "crop_size": (20, {"height": SIDE, "width": SIDE}, None),
    "do_pad": (True, None),
    "pad_size": (100, None),
}
LLAVA_PROCESSOR_VALUES: dict[str, tuple[Any, ...]] = {
    "patch_size": (PATCH, 4, 12, None, ABSENT),
    "num_additional_image_tokens": (0, 1, 2, None, ABSENT),
    "vision_feature_select_strategy": ("default", "full", None, ABSENT),
    "image_token": ("<image>", "<pic>", ABSENT),
    "processor_class": ("LlavaProcessor", "Qwen2VLProcessor", "CLIPProcessor", None, ABSENT),
    "size": ({"shortest_edge": 99},),
    "image_mean": ([0.1, 0.2, 0.3],),
}
QWEN_PROCESSOR_VALUES: dict[str, tuple[Any, ...]] = {
    "processor_class": ("Qwen2VLProcessor", "Qwen2_5_VLProcessor", "LlavaProcessor", None, ABSENT),
    "min_pixels": (99999,),
    "patch_size": (3,),
    "image_token": ("<pic>",),
}
CONFIG_VALUES: dict[str, tuple[Any, ...]] = {
    "image_processor_type": (
        *("CLIPImageProcessor", "LlavaImageProcessor", "Qwen2VLImageProcessor", "X", None),
    ),
    "processor_class": ("LlavaProcessor", "Qwen2VLProcessor", "CLIPProcessor", None),
}
MOMENTS = {"image_mean": MEAN, "image_std": [0.26862954, 0.26130258, 0.27577711]}
BASES: dict[str, dict[str, Any]] = {
    "llava": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_resize": True,
        "do_center_crop": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        **MOMENTS,
    },
    "qwen2_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **MOMENTS,
    },
}
BASES["qwen2_5_vl"] = BASES["qwen2_vl"]
LLAVA_PROCESSOR = {
    "processor_class": "LlavaProcessor",
    "patch_size": PATCH,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "image_token": "<image>",
}


class Change(NamedTuple):
    """A directory and a picture.

    settings   the picture settings
    processor  processor_config.json's own keys
    config     config.json's keys beside model_type
    place      where the settings are: preprocessor_config.json ("preprocessor"; "null": beside an
               image_processor that is null), image_processor of processor_config.json ("nested"),
               or "both", with other settings in the former
    picture    (mode, size, seed)
    a_path     the picture is given as a path, not as an object
    """

    family: str
    settings: dict[str, Any]
    processor: dict[str, Any]
    config: dict[str, Any]
    place: str
    picture: tuple[str, tuple[int, int], int]
    a_path: bool


def changed(base, values, draw, n_keys):
    """(the settings with n_keys changed, the changed keys)."""
    keys = draw.sample(sorted(values), n_keys)
    result = dict(base)
    for key in keys:
        value = draw.choice(values[key])
        result.pop(key, None)
        if value is not ABSENT:
            result[key] = value
    return result, keys


def cases(n: int, seed: int, family: str) -> list[Case]:
    """n cases of a family."""
    draw = random.Random(f"{family} {seed}")
    llava = family == "llava"
    found = []
    for number in range(n):
        base = dict(BASES[family])
        if llava and draw.random() < 0.5:
            base["image_processor_type"] = "LlavaImageProcessor"
        settings, keys = changed(
            base, CLIP_VALUES if llava else QWEN_VALUES, draw, draw.choice((0, 1, 1, 2, 2, 3))
        )
        processor = LLAVA_PROCESSOR if llava else {}
        if not keys or draw.random() < 0.2:
            values = LLAVA_PROCESSOR_VALUES if llava else QWEN_PROCESSOR_VALUES
            processor, more = changed(processor, values, draw, draw.choice((1, 2)))
            keys += more
        config: dict[str, Any] = {}
        if draw.random() < 0.15:
            config, more = changed(config, CONFIG_VALUES, draw, draw.choice((1, 2)))
            keys += more
        place = draw.choice(("preprocessor", "nested", "both", "null"))
        picture = (draw.choice(MODES), draw.choice(SIZES), number)
        a_path = draw.random() < 0.5
        name = f"{family} {number}: {place} " + ", ".join(
            f"{key} {settings.get(key, processor.get(key, 'absent'))!r}" for key in keys
        )
        name += "".join(f"; config.json's {key} {value!r}" for key, value in config.items())
        found.append(
            Case(
                f"{name}; picture {picture}{' by path' * a_path}",
                (*keys, "picture is"),
                Change(family, settings, processor, config, place, picture, a_path),
            )
        )
    return found


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """A seeded picture of coarse noise."""
    noise = np.random.default_rng(seed).integers(
        0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 4), dtype=np.uint8
    )
    image = Image.fromarray(noise, "RGBA").resize(size, Image.Resampling.BILINEAR)
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    if mode == "PA":
        return image.convert("RGB").convert("P").convert("PA")
    return image.convert("RGB").convert(mode)


def path_of(image: Image.Image, directory: Path) -> Path:
    """The picture in a file of a type that can hold its mode."""
    path = directory / ("picture.tiff" if image.mode in ("CMYK", "YCbCr", "PA") else "picture.png")
    if image.mode in ("HSV", "PA"):
        image = image.convert("RGB")
    image.save(path)
    return path


class Readers:
    """Both readers, over one directory that is written anew for each case."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokenizers: dict[str, Any] = {}

    def write(self, change: Change) -> None:
        """Write the case's directory; the tokenizer is written once."""
        self.at = self.directory / change.family
        if change.family not in self.tokenizers:
            self.tokenizers[change.family] = write_tokenizer(self.at)
        processor = dict(change.processor)
        preprocessor = self.at / "preprocessor_config.json"
        preprocessor.unlink(missing_ok=True)
        config = {"model_type": change.family, **change.config}
        (self.at / "config.json").write_text(json.dumps(config))
        if change.place in ("preprocessor", "null"):
            preprocessor.write_text(json.dumps(change.settings))
            if change.place == "null":
                processor["image_processor"] = None
        else:
            processor["image_processor"] = change.settings
        if change.place == "both":
            other = {**BASES[change.family], "image_mean": [0.1, 0.1, 0.1], "max_pixels": 3136}
            preprocessor.write_text(json.dumps(other))
        (self.at / "processor_config.json").write_text(json.dumps(processor))
        image = picture(*change.picture)
        self.source = path_of(image, self.directory) if change.a_path else image

    def theirs(self, change: Change) -> tuple[Any, Any, int]:
        """(pixels, grid, number of image tokens) of the reference.

        raises  anything it raises; RuntimeError where its model would refuse the result
        """
        self.write(change)
        source = str(self.source) if change.a_path else self.source
        processor = self.processor(change.family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = processor(text=processor.image_token, images=source, return_tensors="pt")
        pixels = found["pixel_values"]
        n_tokens = int((found["input_ids"] == processor.image_token_id).sum())
        if change.family == "llava":
            if pixels.shape != (1, 3, SIDE, SIDE) or n_tokens != N_FEATURES:
                raise RuntimeError("the model does not take it")
            return pixels[0].float(), None, n_tokens
        images = processor.image_processor
        if (images.patch_size, images.temporal_patch_size, images.merge_size) != (14, 2, 2):
            raise RuntimeError("the model does not take it")
        return pixels, tuple(found["image_grid_thw"][0].tolist()), n_tokens

    def processor(self, family: str) -> Any:
        """transformers' processor of the directory; Qwen2-VL's without its video part, which needs
        torchvision.
        """
        if family == "llava":
            return transformers.AutoProcessor.from_pretrained(self.at)
        from transformers.processing_utils import ProcessorMixin

        # AutoProcessor chooses the class; without this it would load the video part.
        with patch.object(
            ProcessorMixin, "from_pretrained", classmethod(lambda cls, *_, **__: cls)
        ):
            base: Any = transformers.AutoProcessor.from_pretrained(self.at)

        class Still(base):
            def __init__(self, image_processor, tokenizer, chat_template=None):
                self.image_token = "<|image_pad|>"
                self.video_token = "<|video_pad|>"
                self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
                self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
                ProcessorMixin.__init__(self, image_processor, tokenizer)

        images = transformers.AutoImageProcessor.from_pretrained(self.at)
        return Still(images, self.tokenizers[family])

    def ours(self, change: Change) -> tuple[Any, Any, int]:
        """(pixels, grid, number of image tokens) of this package; written by `theirs`."""
        images: Any
        if change.family == "llava":
            images = ClipImages.from_directory(self.at, SIDE, N_FEATURES)
        else:
            images = Qwen2VLImages.from_directory(self.at)
        found = images(open_image(self.source))
        return found.pixels, found.grid, found.n_tokens


def write_tokenizer(directory: Path) -> Any:
    """Writes a tokenizer of single bytes; returns it."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ("<image>", "<pic>", "<|image_pad|>", "<|video_pad|>", "<|endoftext|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    directory.mkdir(parents=True)
    fast.save_pretrained(directory)
    return fast


def difference(ours: tuple[Any, Any, int], theirs: tuple[Any, Any, int]) -> str:
    """What differs; "" if the pixels are within 1e-6 and the rest is equal."""
    if ours[1:] != theirs[1:] or ours[0].shape != theirs[0].shape:
        return f"{tuple(ours[0].shape)} {ours[1:]} for {tuple(theirs[0].shape)} {theirs[1:]}"
    size = max(1.0, float(theirs[0].abs().max()))
    largest = float((ours[0] - theirs[0]).abs().max()) / size
    return "" if largest < 1e-6 else f"pixels differ by {largest:.3g} of {size:.3g}"


def run(n: int, seed: int, family: str) -> Counts:
    """n cases of a family through both readers."""
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        readers = Readers(Path(directory))
        return compare(cases(n, seed, family), readers.ours, readers.theirs, difference)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for name in BASES:
        counts = run(arguments.cases, arguments.seed, name)
        print(counts.row(f"picture settings, {name}"))
        for line in counts.different:
            print("  ", line)
