"""Tiny random models of every family whose 48 tokens are letters, and prompts for them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

FAMILIES = ("llama", "mistral", "qwen2", "llava", "qwen2_vl")
N_TOKENS = 48
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_pad|>")
SPECIAL += ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|endoftext|>", "[INST]")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij"
IMAGE_TOKEN = {"llava": 5, "qwen2_vl": 6}
PAD = 10


CLIP = {"image_processor_type": "CLIPImageProcessor", "resample": 3}
CLIP |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
QWEN2_VL = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12544,
}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_tokenizer(directory: Path) -> None:
    """A tokenizer whose tokens are those of SPECIAL, which are special, and letters."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *LETTERS))}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": number, "content": token, **flags, "special": True}
        for number, token in enumerate(SPECIAL)
    ]
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": bytes_as_letters,
        "decoder": bytes_as_letters,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>"},
    }
    write_json(directory / "tokenizer.json", tokenizer)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|endoftext|>"}
    named["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(directory / "tokenizer_config.json", named)


def write_model(family: str, directory: Path) -> Any:
    """Writes the directory of a tiny random model without generation settings; returns the model
    of transformers."""
    T = pytest.importorskip("transformers", reason="the parity extra is not installed")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    text = {"vocab_size": N_TOKENS, **sizes, **heads, **none}
    vision = {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    if family == "llava":
        config = T.LlavaConfig(
            text_config=T.LlamaConfig(**text),
            vision_config=T.CLIPVisionConfig(**sizes, **vision),
            image_token_index=IMAGE_TOKEN[family],
            image_seq_length=4,
        )
        kind = T.LlavaForConditionalGeneration
    elif family == "qwen2_vl":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        tower = {"embed_dim": 16, "depth": 2, "num_heads": 2, "hidden_size": 16}
        config = T.Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config=tower,
            image_token_id=IMAGE_TOKEN[family],
            video_token_id=9,
            vision_start_token_id=7,
            vision_end_token_id=8,
        )
        kind = T.Qwen2VLForConditionalGeneration
    else:
        name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[family]
        config = getattr(T, f"{name}Config")(**text)
        kind = getattr(T, f"{name}ForCausalLM")
    model = kind(config)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(number))
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    write_tokenizer(directory)
    if family == "llava":
        sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
        write_json(directory / "preprocessor_config.json", CLIP | sizes)
    if family == "qwen2_vl":
        write_json(directory / "preprocessor_config.json", QWEN2_VL)
    return model.eval()


def prompts(family: str) -> dict[str, Tensor]:
    """Four rows of letters; of a vision-language model two begin with a picture of four tokens."""
    draw = random.Random(5)
    lengths = (13, 4, 9, 6)
    rows = [[draw.randrange(12, N_TOKENS) for _ in range(length)] for length in lengths]
    image_token = IMAGE_TOKEN.get(family)
    if image_token is not None:
        rows[0][1:5] = [image_token] * 4
        rows[2][1:5] = [image_token] * 4
        if family == "qwen2_vl":
            rows[0][0] = rows[2][0] = 7
            rows[0][5] = rows[2][5] = 8
    longest = max(lengths)
    padded = [[PAD] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    noise = torch.Generator().manual_seed(7)
    if family == "llava":
        inputs["pixel_values"] = torch.randn(2, 3, 28, 28, generator=noise)
    if family == "qwen2_vl":
        inputs["pixel_values"] = torch.randn(2 * 16, 3 * 2 * 14 * 14, generator=noise)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4], [1, 4, 4]])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token).int()
    return inputs
