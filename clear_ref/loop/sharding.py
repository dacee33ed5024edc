"""A model whose weights, gradients and moments are shared out over processes: PyTorch's FSDP2.

Each decoder layer is one group, whose weights are collected for its forward and backward and
released again. All other weights (embeddings, vision tower, projector, head) are the root's group:
they are collected once for each part, so that a process whose part has no picture waits for nobody.
FSDP2 is imported where it is used: the import takes a second, and most commands do without it.
"""

import copy
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from clear_ref.common import collectives, distributed
from clear_ref.model.base_model import Model
from clear_ref.model.vlm import VLM

from .checkpoint_files import Rows
from .checkpoint_index import Ranges


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


def row_ranges(tensors: Mapping[str, Tensor]) -> Ranges:
    """{name: [first row, row after the last] of each process} of tensors that are shared out.

    All processes must call this.
    """
    own = {name: len(local_rows(each)) for name, each in tensors.items() if is_part(each)}
    ranges: Ranges = {name: [] for name in own}
    for lengths in distributed.gather(own):
        for name, of_all in ranges.items():
            begin = of_all[-1][1] if of_all else 0
            of_all.append([begin, begin + lengths[name]])
    return ranges


def is_part(tensor: Tensor) -> bool:
    """True for a tensor whose rows are shared out over the processes."""
    return hasattr(tensor, "to_local")


def local_rows(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process has: the memory itself, not a copy."""
    detached = tensor.detach()
    return detached.to_local() if is_part(tensor) else detached  # type: ignore[attr-defined]  # DTensor's


def rows_of(tensors: Mapping[str, Tensor], ranges: Ranges) -> dict[str, Rows]:
    """{name: the rows of this process}; whole ones for tensors that are not in `ranges`."""
    first = {name: ranges[name][distributed.number()][0] for name in ranges}
    return {
        name: Rows(local_rows(tensor), first.get(name, 0), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def restore_whole(tensors: dict[str, Tensor], restore: Callable[[dict[str, Rows]], None]) -> None:
    """Call `restore` with these tensors in the first process, and give its values to all.

    restore  fills the rows; they are whole, on the CPU if there are several processes
    """
    if distributed.size() == 1:
        restore(rows_of(tensors, {}))
        return
    values = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in tensors.items()}
    if distributed.is_first():
        restore(rows_of(values, {}))
    collectives.copy_from_first(values.values())
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
