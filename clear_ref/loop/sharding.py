"""A model whose weights, gradients and moments are shared out over processes: PyTorch's FSDP2.

Each decoder layer is one group, whose weights are collected for its forward and backward and
released again. All other weights (embeddings, vision tower, projector, head) are the root's group:
they are collected once for each part, so that a process whose part has no picture waits for nobody.
FSDP2 is imported where it is used: the import takes a second, and most commands do without it.
"""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clear_ref.common import distributed
from clear_ref.model.base_model import Model
from clear_ref.model.vlm import VLM


def share_out(vlm: VLM, module: nn.Module, frozen: Model | None) -> None:
    """Share out the weights of the model inside `module`; the module is the root.

    frozen  the teacher's own model: its decoder layers are shared out too, the rest is whole
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    # A layer returns keys and values, which are views; nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(vlm.device.type, (distributed.size(),))
    for layer in vlm.model.decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            # Otherwise gradients of different weights are averaged where processes use different
            # ones: some have pictures, some do not.
            each.set_reduce_scatter_unused_params(True)
    if frozen is not None:
        for layer in frozen.decoder.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def is_shared_out(layer: nn.Module) -> bool:
    """True for a decoder layer of a model that `share_out` has shared out."""
    return hasattr(layer, "unshard")  # a method of FSDP2's modules


def skeleton(model: Model) -> Model:
    """A copy of the model without values: its parameters are on the device meta."""
    memo: dict[int, nn.Parameter] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of one that is shared out; then all processes must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def restore_whole(tensors: dict[str, Tensor], restore: Callable[[dict[str, Tensor]], None]) -> None:
    """Call `restore` with these tensors in the first process, and give its values to all.

    restore  fills the tensors; it gets whole ones on the CPU for those that are shared out
    """
    if distributed.size() == 1:
        restore(tensors)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    values = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in tensors.items()}
    if distributed.is_first():
        restore(values)
    distributed.copy_from_first(values.values())
    for name, tensor in tensors.items():
        value = values[name].to(tensor.device)
        if isinstance(tensor, DTensor):
            own = distribute_tensor(
                value, tensor.device_mesh, tensor.placements, src_data_rank=None
            )
            tensor.to_local().copy_(own.to_local())
        else:
            tensor.copy_(value)
