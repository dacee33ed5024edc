"""LoRA: y = W x + b + (alpha / rank) B A x. The teacher is the same weights with the adapters off.

source  Hu et al. 2021, eq. 3; initial values and file format as in PEFT (A uniform in +-1/sqrt(fan_in), B zero)
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from ..data.draws import torch_generator
from ..errors import UserError


class Adapter(nn.Module):
    """The low-rank part of one linear layer; `mode` says which adapter a forward sees: on, off or the frozen reference.

    Kept and computed in fp32 or wider whatever the weights are: a step of 1e-5 is lost on a bf16 number of 0.01.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        like = {"dtype": torch.promote_types(linear.weight.dtype, torch.float32), "device": linear.weight.device}
        bound = linear.in_features ** -0.5
        first = torch.empty(rank, linear.in_features, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(**like))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **like))
        self.rank, self.alpha = rank, alpha
        self.scale = alpha / rank
        self.mode = "on"
        self.reference = None

    def forward(self, x):
        """The adapter's addition to the layer's output, [..., out]."""
        down, up = self.reference if self.mode == "reference" else (self.lora_A, self.lora_B)
        return (F.linear(F.linear(x.to(down.dtype), down), up) * self.scale).to(x.dtype)


class Linear(nn.Linear):
    """A linear layer that may carry an adapter. Its own weights keep their names."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapter = None

    def forward(self, x):
        """W x + b, plus the adapter's part while it is not off."""
        y = F.linear(x, self.weight, self.bias)
        if self.adapter is not None and self.adapter.mode != "off":
            y = y + self.adapter(x)
        return y


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer by name, the head left out: what LoRA adapts by default."""
    return {name: module for name, module in model.named_modules()
            if isinstance(module, Linear) and name.rsplit(".", 1)[-1] != "lm_head"}


def add(model: nn.Module, rank: int, alpha: float, targets=None, seed: int = 0) -> list[str]:
    """Freeze the model and put an adapter on each target layer; returns the adapted layers' names.

    targets  None: every linear layer but the head. A list: layer names or their last parts ("q_proj").
    raises   UserError on a target that names no layer, a rank below 1, or adapters that are already there
    """
    if rank < 1:
        raise UserError(f"LoRA rank is {rank}, expected 1 or more; use full fine-tuning (--lora-rank 0) for none")
    layers = linear_layers(model)
    if any(layer.adapter is not None for layer in layers.values()):
        raise UserError("the model already carries LoRA adapters; merge_lora() them first")
    if targets is not None:
        chosen = {name: layer for name, layer in layers.items()
                  if any(name == target or name.endswith("." + target) for target in targets)}
        for target in targets:
            if not any(name == target or name.endswith("." + target) for name in layers):
                raise UserError(f"LoRA target {target!r} names no linear layer; known last parts: "
                                f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers}))}")
        layers = chosen
    model.requires_grad_(False)
    for name, layer in layers.items():
        layer.adapter = Adapter(layer, rank, alpha, torch_generator(seed, f"lora/{name}"))
    return list(layers)


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Every adapter by the name of its layer."""
    return {name: layer.adapter for name, layer in linear_layers(model).items() if layer.adapter is not None}


@contextmanager
def mode(model: nn.Module, name: str):
    """Within the block every adapter is in the named mode: on, off or reference."""
    found = adapters(model)
    before = {layer: adapter.mode for layer, adapter in found.items()}
    for adapter in found.values():
        adapter.mode = name
    try:
        yield
    finally:
        for layer, adapter in found.items():
            adapter.mode = before[layer]


def freeze_reference(model: nn.Module) -> None:
    """Keep a copy of the adapters as they are now: the weights that mode "reference" runs with."""
    for adapter in adapters(model).values():
        adapter.reference = (adapter.lora_A.detach().clone(), adapter.lora_B.detach().clone())


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter into its layer's weight (summed in float64, rounded once) and remove it."""
    for layer in linear_layers(model).values():
        if layer.adapter is not None:
            delta = layer.adapter.lora_B.double() @ layer.adapter.lora_A.double() * layer.adapter.scale
            layer.weight.copy_((layer.weight.double() + delta).to(layer.weight.dtype))
            layer.adapter = None
