"""A model of three weights, and the files that hold it."""

import json

import torch
from safetensors.torch import save_file

SHAPES = {"lm_head.weight": (6, 4), "model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,)}
VALUES = {
    name: torch.arange(float(torch.Size(shape).numel())).reshape(shape) - number
    for number, (name, shape) in enumerate(SHAPES.items())
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"lm_head.weight": ONE, "model.embed_tokens.weight": ONE, "model.norm.weight": TWO}


def target(dtype=torch.float32, without=()):
    """Zeros for every weight, which loading fills."""
    return {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape in SHAPES.items()
        if name not in without
    }


def sharded(directory, placed=MAP, values=VALUES):
    """Write the values as two shards and an index that says `placed`."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted(set(MAP.values())):
        save_file(
            {name: values[name] for name in MAP if MAP[name] == file and name in values},
            directory / file,
        )
    (directory / INDEX).write_text(
        json.dumps({"metadata": {"total_size": 208}, "weight_map": placed})
    )
    return directory
