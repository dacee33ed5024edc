"""Weights as a quantised model has them: rounded to a few bits, then held in the model's own dtype.

source  Zhang et al. 2024, "Catastrophic failure of LLM unlearning via quantization" (arXiv 2410.16454): unlearning moves weights
        so little that rounding to 4 bits can undo it. Rounded to nearest, as there; no calibration data is seen
layers  every linear layer of tower, projector and decoder, adapters merged. Not the head, the embeddings, convolutions, norms and
        biases, as in LLM.int8 (Dettmers et al. 2022) and QLoRA's NF4; a head tied to the embeddings stays with them
differs activations stay as they are, and products run in the model's dtype: this is about what the weights still hold, not speed
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from clear_ref.common.errors import UserError
from clear_ref.model import lora


def rounded(weight: torch.Tensor, bits: int, group: int = 0) -> torch.Tensor:
    """[out, in] in the weight's dtype: each entry the nearest of the 2^bits - 1 multiples of its scale; ties go to even.

    formula   scale round(w / scale), scale = max |w| / (2^(bits-1) - 1) over `group` neighbouring columns of one row (the last
              group of a row may be narrower; 0: the whole row); a group of zeros stays zero
    rounding  computed in fp32 at least (float64 stays), rounded to the dtype once; an entry moves by half a scale at most, and
              by the dtype's own rounding
    raises    UserError for less than 2 or more than 16 bits, a group below 0, or a tensor that is no matrix
    """
    if not 2 <= bits <= 16 or group < 0 or weight.dim() != 2:
        raise UserError(
            f"{bits} bits in groups of {group} columns, of a weight {list(weight.shape)}; expected 2 to 16 bits, 0 "
            "or more columns (0: the whole row), a matrix [out, in]"
        )
    n_out, n_in = weight.shape
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    width = min(group, n_in) or n_in
    groups = F.pad(wide, (0, -n_in % width)).view(n_out, -1, width)
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    found = scale * torch.round(groups / torch.where(scale > 0, scale, torch.ones_like(scale)))
    return found.view(n_out, -1)[:, :n_in].to(weight.dtype)


def group_of(bits: int, group: int) -> int:
    """How many columns share a scale: the whole row with 8 bits and more, `group` below."""
    return 0 if bits >= 8 else group


@contextmanager
def rounded_layers(model: torch.nn.Module, bits: int, group: int):
    """Within the block every linear layer but the head has its merged weight rounded and no adapter; yields the layers' names.

    Weights and adapters are put back bit for bit. A copy of the weights is kept meanwhile, on their device.
    """
    layers = {
        name: layer for name, layer in lora.linear_layers(model).items() if not lora.is_head(name)
    }
    kept = {}
    try:
        for name, layer in layers.items():
            found = rounded(lora.merged(layer).detach(), bits, group_of(bits, group))
            kept[name] = layer.weight.detach().clone(), layer.adapter
            layer.weight.detach().copy_(found)
            layer.adapter = None
        yield list(layers)
    finally:
        for name, (weight, adapter) in kept.items():
            layers[name].weight.detach().copy_(weight)
            layers[name].adapter = adapter
