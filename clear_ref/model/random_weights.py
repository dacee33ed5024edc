"""Random weights of any model, written tensor by tensor, for tests of size and speed.

Only one tensor at a time is in memory, so a 7B model can be written on a machine with little.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clear_ref.common.files import PathName
from clear_ref.data.torch_draws import torch_generator

from .weights import Shape
from .write_weights import SHARD_BYTES, write_weights


def random_weight(name: str, shape: Shape, dtype: torch.dtype, seed: int) -> Tensor:
    """One tensor, which depends on (seed, name, shape, dtype) only.

    Weights of norms are 1, biases 0. Everything else is normal with a standard deviation of
    1/sqrt(fan in); fan in is the product of all sizes but the first (of a vector: its own size).
    """
    if len(shape) == 1 and name.endswith((".weight", ".bias")):
        return torch.full(shape, float(name.endswith(".weight")), dtype=dtype)
    fan_in = math.prod(shape[1:] or shape)
    generator = torch_generator(seed, f"random_weights/{name}")
    return torch.empty(shape, dtype=dtype).normal_(0, fan_in**-0.5, generator=generator)


def write_random(
    directory: PathName,
    shapes: Mapping[str, Shape],
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    step: Callable[[], None] | None = None,
) -> list[str]:
    """Write random weights into a model directory, in shards as `write_weights`.

    shapes   {our name: shape}, such as of a model on the meta device
    dtype    float32, float64, bfloat16 or float16
    step     called before each tensor
    returns  the file names
    """

    def tensor_of(name: str) -> Tensor:
        if step is not None:
            step()
        return random_weight(name, shapes[name], dtype, seed)

    return write_weights(directory, shapes, dtype, tensor_of, shard_bytes)
