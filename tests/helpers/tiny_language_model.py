"""A language model without pictures: random weights, the embedded world's tokenizer."""

import json
import shutil

import torch

from clear_ref.mini.directories import BASE
from clear_ref.model.random_weights import write_random
from clear_ref.model.vlm import VLM

SMALL = {
    "vocab_size": 2500,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def write_language_model(directory, kind, seed):
    """Write a model of a type (llama, mistral, qwen2) into the new directory; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, directory / name)
    (directory / "config.json").write_text(json.dumps({"model_type": kind, **SMALL}))
    vlm = VLM(directory, torch.float32, torch.device("cpu"), "inst")
    shapes = {name: tuple(tensor.shape) for name, tensor in vlm.weights().items()}
    write_random(directory, shapes, torch.float32, seed)
    return directory
