"""Model directories of random weights in the shapes of real models (shape_table.py).

They serve tests of size and speed where the real weights are not at hand.
"""

import copy
import time
from pathlib import Path
from typing import TypedDict

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors

from clear_ref.common.devices import dtype_of
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_text
from clear_ref.common.progress import Progress
from clear_ref.common.run_directory import check_empty

from .config_values import with_dtype
from .families import family
from .random_weights import write_random
from .shape_table import QWEN_VL, SHAPES, Config, tokens_of
from .write_weights import SHARD_BYTES


def config_of(shape: str, layers: int = 0) -> Config:
    """config.json of a shape.

    layers  the number of decoder layers; 0: as many as the real model has
    raises  UserError if the shape is unknown, or `layers` is negative
    """
    if shape not in SHAPES:
        raise UserError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}")
    if layers < 0:
        raise UserError(f"--layers is {layers}; expected 0 or more")
    config = copy.deepcopy(SHAPES[shape])
    if layers:
        config.get("text_config", config)["num_hidden_layers"] = layers
    return config


def write_tokenizer(directory: Path, config: Config) -> None:
    """Write a tokenizer in which every byte is a token, and the chat template.

    It has as many ids as the real tokenizer, and the special tokens have their real ids.
    """
    tokens = tokens_of(config)
    taken = set(tokens.special.values())
    free_ids = (number for number in range(tokens.size) if number not in taken)
    vocabulary = dict(tokens.special)
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = next(free_ids)
    for number in free_ids:
        vocabulary[f"<unused {number}>"] = number
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in tokens.special]
    )
    if bos := tokens.roles.get("bos_token"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokens.special[bos])]
        )
    write_text(directory / "tokenizer.json", tokenizer.to_str())
    write_json(
        directory / "tokenizer_config.json",
        tokens.roles | {"tokenizer_class": "PreTrainedTokenizerFast"},
    )
    if tokens.template:
        write_text(directory / "chat_template.jinja", tokens.template)


def write_processor(directory: Path, config: Config) -> None:
    """Write the image processor's files of a vision-language model; a language model has none."""
    moments = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    if config["model_type"] == "llava":
        side = config["vision_config"]["image_size"]
        write_json(
            directory / "preprocessor_config.json",
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": side},
                "resample": 3,
                "do_resize": True,
                "do_center_crop": True,
                "crop_size": {"height": side, "width": side},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "do_convert_rgb": True,
                **moments,
            },
        )
        write_json(
            directory / "processor_config.json",
            {
                "processor_class": "LlavaProcessor",
                "patch_size": config["vision_config"]["patch_size"],
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
                "image_token": "<image>",
            },
        )
    elif config["model_type"] in QWEN_VL:
        write_json(
            directory / "preprocessor_config.json",
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "min_pixels": 3136,
                "max_pixels": 12845056,
                "patch_size": 14,
                "temporal_patch_size": 2,
                "merge_size": 2,
                **moments,
            },
        )


class WrittenCheckpoint(TypedDict):
    """What `write_checkpoint` wrote: out is the directory, files their number, bytes their size."""

    shape: str
    out: str
    parameters: int
    files: int
    bytes: int
    seconds: float


def write_checkpoint(
    shape: str,
    out: Path,
    dtype: str = "bfloat16",
    layers: int = 0,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> WrittenCheckpoint:
    """Write a model directory of random weights; returns what was written.

    shape   one of SHAPES
    out     a new or empty directory
    dtype   of the weights: bfloat16, float16, float32 or float64
    layers  decoder layers; 0: as many as the real model has
    seed    key of every random weight
    raises  UserError before anything is written: a shape, dtype or directory is not usable
    """
    started = time.monotonic()
    config = config_of(shape, layers)
    weight_dtype = dtype_of(dtype)
    check_empty(out, "--out")
    model_family = family(config, out / "config.json")
    with torch.device("meta"):
        model = model_family.model(model_family.config(config, out / "config.json"))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    write_json(out / "config.json", with_dtype(config, dtype))
    write_json(
        out / "generation_config.json",
        {"do_sample": False, "eos_token_id": tokens_of(config).stop},
    )
    write_tokenizer(out, config)
    write_processor(out, config)
    bar = Progress(f"write {shape}", len(shapes), "tensor")
    files = write_random(out, shapes, weight_dtype, seed, shard_bytes, bar.step)
    bar.close()
    return {
        "shape": shape,
        "out": str(out),
        "parameters": sum(torch.Size(size).numel() for size in shapes.values()),
        "files": len(files),
        "bytes": sum((out / name).stat().st_size for name in files),
        "seconds": round(time.monotonic() - started, 1),
    }
