"""checkpoint: model directories of random weights in the shapes of real models, for tests of size and speed without those.

source  the sizes are those of the hub's config.json files (llava-hf, Qwen, meta-llama, mistralai); llava-78m is this project's
        own, as small as a LLaVA with 576 image tokens and LLaVA's vocabulary can sensibly be
"""

import time
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from clear_ref.common.devices import dtype_of
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_text
from clear_ref.common.progress import Progress
from clear_ref.common.run_directory import check_empty
from clear_ref.common.settings import setting

from .families import family
from .random_weights import write_random
from .weights import SHARD_BYTES

LLAMA = {
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
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
QWEN = {
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


def _llava(vision=None, **text) -> dict:
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


SHAPES = {
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
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vision_config": {**QWEN["vision_config"], "hidden_size": 3584},
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


@dataclass(frozen=True)
class CheckpointSettings:
    """checkpoint SHAPE: a model directory of random weights."""

    out: str = setting("", "directory to write, new or empty")
    dtype: str = setting("bfloat16", "dtype of the weights: bfloat16, float16, float32 or float64")
    layers: int = setting(0, "decoder layers; 0: as many as the real model has")
    seed: int = setting(0, "key of every random weight")
    shard_gb: float = setting(
        SHARD_BYTES / 1e9,
        "largest file of weights, in gigabytes (10^9 bytes)",
        "transformers' default",
    )


def config_of(shape: str, layers: int = 0) -> dict:
    """config.json of a shape, with `layers` decoder layers (0: its own). raises UserError for a name that is none."""
    if shape not in SHAPES:
        raise UserError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}")
    if layers < 0:
        raise UserError(f"--layers is {layers}; expected 0 or more")
    config = dict(SHAPES[shape])
    text = config["text_config"] = (
        dict(config["text_config"]) if "text_config" in config else config
    )
    text["num_hidden_layers"] = layers or text["num_hidden_layers"]
    if text is config:
        del config["text_config"]
    return config


def write_tokenizer(directory: Path, config: dict) -> None:
    """A tokenizer in which every byte is a token, padded to the real one's size, with the special tokens at their real ids."""
    if config["model_type"] == "qwen2_vl":
        special = {
            "<|endoftext|>": 151643,
            "<|im_start|>": 151644,
            "<|im_end|>": 151645,
            "<|vision_start|>": 151652,
            "<|vision_end|>": 151653,
            "<|image_pad|>": 151655,
            "<|video_pad|>": 151656,
        }
        named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    else:
        special = {"<unk>": 0, "<s>": 1, "</s>": 2}
        named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        if config["model_type"] == "llava":
            special |= {"<image>": 32000, "<pad>": 32001}
            named |= {"pad_token": "<pad>"}
    taken = set(special.values())
    free = (
        number
        for number in range(max(taken) + 1 if len(taken) > 3 else 32000)
        if number not in taken
    )
    vocabulary = special | {
        letter: next(free) for letter in sorted(pre_tokenizers.ByteLevel.alphabet())
    }
    vocabulary |= {f"<unused {number}>": number for number in free}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    made.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special])
    write_text(directory / "tokenizer.json", made.to_str())
    write_json(
        directory / "tokenizer_config.json", named | {"tokenizer_class": "PreTrainedTokenizerFast"}
    )


def write_processor(directory: Path, config: dict) -> None:
    """preprocessor_config.json and processor_config.json of a vision-language model; nothing for a language model."""
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
    elif config["model_type"] == "qwen2_vl":
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


def text(found: dict) -> str:
    """What was written, in a line."""
    return (
        f"{found['shape']}: {found['parameters']:,} random parameters, {found['bytes'] / 1e9:.2f} GB in {found['files']} "
        f"file{'s' if found['files'] > 1 else ''}, {found['seconds']:.0f} s; written to {found['out']}"
    )


def write_checkpoint(shape: str, settings: CheckpointSettings) -> dict:
    """Write the directory; returns {"shape", "out", "parameters", "files", "bytes", "seconds"}.

    raises  UserError before anything is written, for a shape, dtype or directory that will not do
    """
    started, config = time.monotonic(), config_of(shape, settings.layers)
    dtype, out = dtype_of(settings.dtype), Path(settings.out)
    if not settings.out:
        raise UserError("checkpoint needs --out: the directory to write")
    if not 0 < settings.shard_gb < 1e6:
        raise UserError(f"--shard-gb is {settings.shard_gb}; expected a number above 0")
    check_empty(out, "--out")
    kind = family(config, out / "config.json")
    with torch.device("meta"):
        model = kind.model(kind.config(config, out / "config.json"))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    write_json(out / "config.json", {**config, "dtype": settings.dtype})
    write_json(
        out / "generation_config.json",
        {"do_sample": False, "eos_token_id": 151645 if kind.name == "qwen2_vl" else 2},
    )
    write_tokenizer(out, config)
    write_processor(out, config)
    bar = Progress(f"write {shape}", len(shapes), "tensor")
    files = write_random(out, shapes, dtype, settings.seed, int(settings.shard_gb * 1e9), bar.step)
    bar.close()
    return {
        "shape": shape,
        "out": str(out),
        "parameters": sum(torch.Size(size).numel() for size in shapes.values()),
        "files": len(files),
        "bytes": sum((out / name).stat().st_size for name in files),
        "seconds": round(time.monotonic() - started, 1),
    }
