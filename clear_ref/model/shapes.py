"""Shapes of real models, and model directories of random weights in these shapes.

The directories serve tests of size and speed where the real weights are not at hand.
source  the sizes are those of the hub's config.json files (llava-hf, Qwen, meta-llama,
        mistralai). llava-78m is this project's own: a small LLaVA that keeps LLaVA's 576 image
        tokens and its vocabulary.
"""

import copy
import time
from pathlib import Path
from typing import Any, TypedDict

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from clear_ref.common.devices import dtype_of
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_text
from clear_ref.common.progress import Progress
from clear_ref.common.run_directory import check_empty

from .families import family
from .random_weights import write_random
from .write_weights import SHARD_BYTES

Config = dict[str, Any]  # a config.json as it is read or written

LLAMA: Config = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP: Config = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
QWEN: Config = {
    "model_type": "qwen2_vl",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "max_window_layers": 28,
    "use_sliding_window": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "num_heads": 16,
        "mlp_ratio": 4,
        "in_chans": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
QWEN25: Config = {
    **QWEN,
    "model_type": "qwen2_5_vl",
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "max_window_layers": 70,
    "sliding_window": 32768,
    "max_position_embeddings": 128000,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
}
QWEN_7B: Config = {  # what the 7B models have in common
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_window_layers": 28,
    "tie_word_embeddings": False,
}
QWEN_TYPES = ("qwen2_vl", "qwen2_5_vl")


def _llava(vision: Config | None = None, **text: int) -> Config:
    """A LLaVA config: LLAMA with the sizes in `text`, CLIP with those in `vision`."""
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": LLAMA | {"vocab_size": 32064, **text},
        "vision_config": CLIP | (vision or {}),
    }


SHAPES: dict[str, Config] = {
    "llava-78m": _llava(
        {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    ),
    "llava-1.5-7b": _llava(),
    "llava-1.5-13b": _llava(
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
    ),
    "qwen2-vl-2b": {**QWEN, "architectures": ["Qwen2VLForConditionalGeneration"]},
    "qwen2-vl-7b": {
        **QWEN,
        **QWEN_7B,
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vision_config": {**QWEN["vision_config"], "hidden_size": 3584},
    },
    "qwen2.5-vl-3b": QWEN25,
    "qwen2.5-vl-7b": {
        **QWEN25,
        **QWEN_7B,
        "vision_config": {**QWEN25["vision_config"], "out_hidden_size": 3584},
    },
    "llama-2-7b": {**LLAMA, "architectures": ["LlamaForCausalLM"]},
    "mistral-7b": {
        **LLAMA,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
}


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


def _special_tokens(model_type: str) -> tuple[dict[str, int], dict[str, str], int]:
    """Special tokens with the real tokenizer's ids, their roles, and the size of the vocabulary."""
    if model_type in QWEN_TYPES:
        ids = {
            "<|endoftext|>": 151643,
            "<|im_start|>": 151644,
            "<|im_end|>": 151645,
            "<|vision_start|>": 151652,
            "<|vision_end|>": 151653,
            "<|image_pad|>": 151655,
            "<|video_pad|>": 151656,
        }
        return ids, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, 151657
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2}
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if model_type == "llava":
        return ids | {"<image>": 32000, "<pad>": 32001}, roles | {"pad_token": "<pad>"}, 32002
    return ids, roles, 32000


def write_tokenizer(directory: Path, config: Config) -> None:
    """Write a tokenizer in which every byte is a token.

    It has as many ids as the real tokenizer, and the special tokens have their real ids.
    """
    special, roles, size = _special_tokens(config["model_type"])
    taken = set(special.values())
    free_ids = (number for number in range(size) if number not in taken)
    vocabulary = dict(special)
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = next(free_ids)
    for number in free_ids:
        vocabulary[f"<unused {number}>"] = number
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in special]
    )
    write_text(directory / "tokenizer.json", tokenizer.to_str())
    write_json(
        directory / "tokenizer_config.json", roles | {"tokenizer_class": "PreTrainedTokenizerFast"}
    )


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
    elif config["model_type"] in QWEN_TYPES:
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
    write_json(out / "config.json", {**config, "dtype": dtype})
    eos_token_id = 151645 if model_family.name in QWEN_TYPES else 2
    write_json(out / "generation_config.json", {"do_sample": False, "eos_token_id": eos_token_id})
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
