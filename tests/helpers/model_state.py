"""All tensors of a model, to check that a function restored it; and a small plain decoder."""

import json
import shutil
from pathlib import Path

import torch

from clear_ref.mini.directories import BASE
from clear_ref.model.random_weights import write_random
from clear_ref.model.vlm import VLM


def state(vlm):
    """Every tensor of the model by name, adapters included, and whether it is trainable."""
    return {
        name: (tensor.detach().clone(), tensor.requires_grad)
        for name, tensor in vlm.model.named_parameters()
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name][0], other[name][0]) and one[name][1] == other[name][1] for name in one
    )


def write_text_model(directory: Path) -> Path:
    """A small plain decoder whose head is its embeddings."""
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, directory / name)
    (directory / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "vocab_size": 2500,
                "hidden_size": 24,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            }
        )
    )
    vlm = VLM(directory, torch.float32, torch.device("cpu"), "inst")
    write_random(
        directory,
        {name: tuple(tensor.shape) for name, tensor in vlm.weights().items()},
        torch.float32,
        0,
    )
    return directory
