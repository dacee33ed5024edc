"""LoRA: y = W x + b + (alpha / rank) B A x. The teacher is the same weights with the adapters off.

Rank-stabilised LoRA divides alpha by sqrt(rank) instead. Dropout on x, where an adapter was trained with it, is a part of that
training alone: it is never computed here.

source  Hu et al. 2021, eq. 3; Kalajdzievski 2023 (rank-stabilised)
start   as in PEFT: A uniform in +-1/sqrt(fan_in), B zero
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from clear_ref.common.errors import UserError
from clear_ref.data.draws import torch_generator

from .expression import Expression
from .names import HEAD, in_decoder


class Adapter(nn.Module):
    """The low-rank part of one linear layer; `mode` says which adapter a forward sees: on, off or the frozen reference.

    Kept and computed in fp32 or wider whatever the weights are: a step of 1e-5 is lost on a bf16 number of 0.01.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        stabilised: bool = False,
    ):
        super().__init__()
        like = {
            "dtype": torch.promote_types(linear.weight.dtype, torch.float32),
            "device": linear.weight.device,
        }
        bound = linear.in_features**-0.5
        first = torch.empty(rank, linear.in_features, dtype=torch.float64).uniform_(
            -bound, bound, generator=generator
        )
        self.lora_A = nn.Parameter(first.to(**like))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **like))
        self.rank, self.alpha, self.stabilised = rank, alpha, stabilised
        self.scale = alpha / (rank**0.5 if stabilised else rank)
        self.mode = "on"
        self.reference = None

    def active(self):
        """(A [rank, in], B [out, rank]) of the mode; None where it is off."""
        if self.mode == "off":
            return None
        return self.reference if self.mode == "reference" else (self.lora_A, self.lora_B)


class LowRank(torch.autograd.Function):
    """W x + b + scale B A x, of which only x and A x are kept for backward.

    Narrow products stand as [rank, rows]: with the rank as the last dimension they take up to nine times as long on a CPU.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scale):
        """x [..., in], weight [out, in], bias [out] or None, down [rank, in], up [out, rank] -> [..., out] in x's dtype."""
        y = F.linear(x, weight, bias)
        low = down @ x.reshape(-1, x.shape[-1]).to(down.dtype).t()
        _add_product(y.view(-1, y.shape[-1]), low.t(), up.t(), scale)
        ctx.save_for_backward(x, weight, bias, down, up, low)
        ctx.scale = scale
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """Gradients of x, weight, bias, down and up, each only where it is asked for."""
        x, weight, bias, down, up, low = (
            ctx.saved_tensors
        )  # once: a checkpointed layer cannot give them twice
        of_x, of_weight, of_bias, of_down, of_up, _ = ctx.needs_input_grad
        found = [None] * 6
        shape, grad, x = x.shape, grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        wide = grad.to(down.dtype)
        if of_x or of_down:
            low_grad = up.t() @ wide.t()
        if of_x:
            found[0] = grad @ weight
            _add_product(found[0], low_grad.t(), down, ctx.scale)
            found[0] = found[0].view(shape)
        if of_weight:
            found[1] = grad.t() @ x
        if of_bias:
            found[2] = grad.sum(0)
        if of_down:
            found[3] = (low_grad @ x.to(down.dtype)).mul_(ctx.scale)
        if of_up:
            found[4] = (low @ wide).mul_(ctx.scale).t()
        return tuple(found)


def _add_product(target, a, b, scale):
    """target [n, m] += scale * a @ b, computed in a's dtype and rounded to the target's."""
    if target.dtype == a.dtype:
        target.addmm_(a, b, alpha=scale)
    else:
        target += (a @ b * scale).to(target.dtype)


class Linear(nn.Linear):
    """A linear layer that may carry an adapter. Its own weights keep their names."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapter = None

    def forward(self, x):
        """W x + b, plus the adapter's part while it is not off."""
        low_rank = None if self.adapter is None else self.adapter.active()
        if low_rank is None:
            return F.linear(x, self.weight, self.bias)
        return LowRank.apply(x, self.weight, self.bias, *low_rank, self.adapter.scale)


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer by name, the head included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


def is_head(name: str) -> bool:
    """Whether a layer's name, whoever named it, is that of the output layer."""
    return name.rsplit(".", 1)[-1] == HEAD


def matches(name: str, wanted: list[str] | Expression) -> bool:
    """Whether a layer is meant: its name or the last parts of it are in the list, or the whole name matches the expression."""
    if isinstance(wanted, Expression):
        return wanted.matches(name)
    return any(name == other or name.endswith("." + other) for other in wanted)


def choose(model: nn.Module, targets) -> list[str]:
    """The names of the layers to train, the head never among them; `targets` as in `add`."""
    names = [name for name in linear_layers(model) if not is_head(name)]
    if targets is None or targets == "all":
        return names
    if targets == "language":
        return [name for name in names if in_decoder(name)]
    if isinstance(targets, str):
        wanted = {targets: Expression.of(targets, "LoRA targets")}
    else:
        wanted = {target: [target] for target in targets}
    for target, one in wanted.items():
        if not any(matches(name, one) for name in names):
            raise UserError(
                f"LoRA target {target!r} names no linear layer to train (all and language stand alone); known last "
                f"parts: {', '.join(sorted({name.rsplit('.', 1)[-1] for name in names}))}"
            )
    return [name for name in names if any(matches(name, one) for one in wanted.values())]


def put(
    model: nn.Module,
    ranks: dict[str, int],
    alphas: dict[str, float],
    seed: int = 0,
    stabilised: bool = False,
) -> list[str]:
    """Freeze the model and put an adapter of its rank and alpha on each named layer; returns the names.

    raises  UserError for a rank below 1, or adapters that are already there
    """
    if adapters(model):
        raise UserError("the model already carries LoRA adapters; merge_lora() them first")
    most = max(
        (max(layer.in_features, layer.out_features) for layer in linear_layers(model).values()),
        default=1,
    )
    for name, rank in ranks.items():
        if not 1 <= rank <= most:
            raise UserError(
                f"LoRA rank of {name} is {rank}, expected 1 to {most}, the widest layer; use full fine-tuning "
                "(--lora-rank 0) for none"
            )
    model.requires_grad_(False)
    layers = linear_layers(model)
    for name, rank in ranks.items():
        layers[name].adapter = Adapter(
            layers[name], rank, alphas[name], torch_generator(seed, f"lora/{name}"), stabilised
        )
    return list(ranks)


def add(model: nn.Module, rank: int, alpha: float, targets=None, seed: int = 0) -> list[str]:
    """Freeze the model and put an adapter on each target layer; returns the adapted layers' names.

    targets  None or "all": every linear layer but the head. "language": those of the decoder alone. A list: layer names or
             their last parts ("q_proj"). Any other text: a regular expression for the whole name. Names are the checkpoint's.
    raises   UserError on a target that names no layer, a rank below 1, or adapters that are already there
    """
    names = choose(model, targets)
    return put(model, dict.fromkeys(names, rank), dict.fromkeys(names, alpha), seed)


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Every adapter by the name of its layer."""
    return {
        name: layer.adapter
        for name, layer in linear_layers(model).items()
        if layer.adapter is not None
    }


def manifest(model: nn.Module) -> dict:
    """What is trained: {"tensors": [{"name", "shape", "count"}], "trainable", "total"}, counts in numbers, adapters in both."""
    rows = [
        {"name": name, "shape": list(tensor.shape), "count": tensor.numel()}
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    ]
    return {
        "tensors": rows,
        "trainable": sum(row["count"] for row in rows),
        "total": sum(tensor.numel() for tensor in model.parameters()),
    }


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
def merged(layer: Linear) -> torch.Tensor:
    """The layer's weight with its adapter added (summed in float64, rounded once), or the weight itself where there is none."""
    if layer.adapter is None:
        return layer.weight
    delta = layer.adapter.lora_B.double() @ layer.adapter.lora_A.double() * layer.adapter.scale
    return (layer.weight.double() + delta).to(layer.weight.dtype)


def merged_weight(model: nn.Module, name: str) -> torch.Tensor:
    """The parameter of that name with its adapter added, as a file of the merged model holds it; the model stays as it is."""
    module, _, last = name.rpartition(".")
    layer = model.get_submodule(module)
    return (
        merged(layer)
        if last == "weight" and isinstance(layer, Linear)
        else model.get_parameter(name)
    )


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter into its layer's weight (`merged`) and remove it."""
    for layer in linear_layers(model).values():
        if layer.adapter is not None:
            layer.weight.copy_(merged(layer))
            layer.adapter = None
