"""A frozen model whose decoder layers are shared out over the processes of torchrun (FSDP2).

Each process keeps an equal part of the rows of every weight of the decoder layers, and reads no
other part from the files. A layer is collected for its forward and its backward and released again,
so every process must call every layer as often as the others. Embeddings, vision tower, projector,
head and adapters are whole in each process.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from clear_ref.common import distributed

from .base_model import Model


def share_out_layers(model: Model, device_type: str) -> None:
    """Share out the decoder layers; their weights may have no memory yet (device meta)."""
    # FSDP2 is imported where it is used: the import takes a second.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # A layer returns keys and values, which are views; nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device_type, (distributed.size(),))
    for layer in model.decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    model.decoder.register_forward_pre_hook(_with_gradient)


def _with_gradient(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The decoder's inputs, with embeddings that need a gradient in training.

    FSDP2 releases a layer in backward when the gradient of its input is known. Embeddings of text
    need none, those of pictures do (adapters of the tower): without this, processes would collect
    the first layer again a different number of times, and wait for each other for ever.
    """
    embeddings, *others = inputs
    if torch.is_grad_enabled() and not embeddings.requires_grad:
        embeddings = embeddings.detach().requires_grad_()
    return embeddings, *others


def is_shared_out(layer: nn.Module) -> bool:
    """True for a decoder layer that is shared out."""
    return hasattr(layer, "unshard")  # a method of FSDP2's modules


def own_part(tensor: Tensor) -> tuple[Tensor, slice]:
    """(the part of a tensor that this process keeps, its rows); all of one that is not shared out.

    FSDP2 cuts the first dimension of n rows into parts of ceil(n / N) rows; the last ones may have
    fewer, or none.
    """
    if not hasattr(tensor, "to_local"):
        return tensor, slice(None)
    most = -(-len(tensor) // distributed.size())
    start = min(distributed.number() * most, len(tensor))
    return tensor.to_local(), slice(start, min(start + most, len(tensor)))
