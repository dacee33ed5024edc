"""Checkpoints of random weights, of any size, for tests of size and speed: a 7B model on a machine that cannot hold it twice."""

import math

import torch

from clear_ref.data.draws import torch_generator

from .weights import SHARD_BYTES, write_weights


def random_weight(name: str, shape: tuple, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """One tensor that depends on (seed, name, shape, dtype) alone: weights of norms 1, biases 0, anything else normal.

    The spread is 1/sqrt(fan in), fan in being all sizes but the first (of a vector: its own).
    """
    if len(shape) == 1 and name.endswith((".weight", ".bias")):
        return torch.full(shape, float(name.endswith(".weight")), dtype=dtype)
    spread = math.prod(shape[1:] or shape) ** -0.5
    return torch.empty(shape, dtype=dtype).normal_(
        0, spread, generator=torch_generator(seed, f"random_weights/{name}")
    )


def write_random(
    directory,
    shapes: dict[str, tuple],
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    step=lambda: None,
) -> list[str]:
    """Write a model directory's weights at random, in shards as `write_weights`; returns the file names.

    shapes  {our name: shape}, such as of a model on the meta device; one tensor at a time is in memory
    dtype   float32, float64, bfloat16 or float16
    step    called before each tensor
    """

    def tensor_of(name):
        step()
        return random_weight(name, shapes[name], dtype, seed)

    return write_weights(directory, shapes, dtype, tensor_of, shard_bytes)
