"""Weights rounded to a few bits, as in a quantised model, and stored in the model's own dtype.

source   Zhang et al. 2024, "Catastrophic failure of LLM unlearning via quantization"
         (arXiv 2410.16454): unlearning changes weights so little that rounding to 4 bits can undo
         it. Rounded to nearest, as there; no calibration data is used
layers   every linear layer of vision tower, projector and decoder, with adapters merged. Not the
         output head, embeddings, convolutions, norms and biases, as in LLM.int8 (Dettmers et al.
         2022) and QLoRA's NF4; a head that is tied to the embeddings is not rounded either
differs  activations are not rounded, and products run in the model's dtype: this measures what the
         weights still hold, not speed
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from clear_ref.common.errors import UserError
from clear_ref.model import lora


def rounded(weight: torch.Tensor, bits: int, group: int = 0) -> torch.Tensor:
    """[out, in] in the weight's dtype: each entry rounded to a multiple of its scale.

    formula   scale round(w / scale), scale = max |w| / (2^(bits-1) - 1) over `group` neighbouring
              columns of one row (the last group of a row may be narrower; 0: the whole row). There
              are 2^bits - 1 multiples; ties go to the even one; a group of zeros stays zero
    rounding  computed in fp32 at least (float64 stays), rounded to the dtype once; an entry changes
              by half a scale at most, and by the dtype's own rounding
    raises    UserError for less than 2 or more than 16 bits, a group below 0, or a tensor that is
              not a matrix
    """
    if not 2 <= bits <= 16 or group < 0 or weight.dim() != 2:
        raise UserError(
            f"{bits} bits in groups of {group} columns, of a weight {list(weight.shape)}; expected "
            "2 to 16 bits, 0 or more columns (0: the whole row), a matrix [out, in]"
        )
    n_out, n_in = weight.shape
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    width = min(group, n_in) or n_in
    groups = F.pad(wide, (0, -n_in % width)).view(n_out, -1, width)
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded_groups = scale * torch.round(groups / divisor)
    return rounded_groups.view(n_out, -1)[:, :n_in].to(weight.dtype)


def group_of(bits: int, group: int) -> int:
    """Columns that share a scale: 0 (the whole row) with 8 bits or more, `group` with fewer."""
    return 0 if bits >= 8 else group


@contextmanager
def rounded_layers(model: torch.nn.Module, bits: int, group: int) -> Iterator[list[str]]:
    """Inside the block every linear layer but the head has its merged weight rounded, no adapter.

    Yields the layers' names. After the block weights and adapters are bit for bit what they were.
    A copy of the weights is kept during the block, on their device.
    """
    layers = {
        name: layer for name, layer in lora.linear_layers(model).items() if not lora.is_head(name)
    }
    with merged_layers(layers, lambda weight: rounded(weight, bits, group_of(bits, group))):
        yield list(layers)


@contextmanager
def merged_layers(
    layers: Mapping[str, lora.Linear],
    change: Callable[[torch.Tensor], torch.Tensor] = lambda weight: weight,
) -> Iterator[None]:
    """Inside the block these layers have `change` of their merged weight, and no adapter.

    After the block weights and adapters are bit for bit what they were. A copy of the weights is
    kept during the block, on their device.
    """
    saved = {}
    try:
        for name, layer in layers.items():
            new_weight = change(lora.merged(layer).detach())
            saved[name] = (layer.weight.detach().clone(), layer.adapter)
            layer.weight.detach().copy_(new_weight)
            layer.adapter = None
        yield
    finally:
        for name, (weight, adapter) in saved.items():
            layers[name].weight.detach().copy_(weight)
            layers[name].adapter = adapter
