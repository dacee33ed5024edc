"""LoRA: y = W x + b + (alpha / rank) B A x. The teacher is the same model with the adapters off.

Rank-stabilised LoRA divides alpha by sqrt(rank) instead. An adapter may have been trained with
dropout on x; dropout belongs to training only and is never computed here.

source  Hu et al. 2021, eq. 3; Kalajdzievski 2023 (rank-stabilised)
start   as in PEFT: A uniform in +-1/sqrt(fan_in), B zero
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from clear_ref.common.errors import UserError
from clear_ref.data.torch_draws import torch_generator

from . import products
from .expression import Expression
from .names import HEAD, in_decoder

Mode = Literal["on", "off", "reference"]
Targets = str | Iterable[str] | None  # see `add`


class Adapter(nn.Module):
    """The low-rank part of one linear layer.

    mode  the weights that a forward uses. on: lora_A and lora_B. off: none. reference: the copy
          that `freeze_reference` made

    The weights are stored and computed in fp32 or wider, whatever the dtype of the layer: adding
    1e-5 to a bf16 number of 0.01 would not change it.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        stabilised: bool = False,
    ) -> None:
        super().__init__()
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        device = linear.weight.device
        bound = linear.in_features**-0.5
        initial_a = torch.empty(rank, linear.in_features, dtype=torch.float64).uniform_(
            -bound, bound, generator=generator
        )
        self.lora_A = nn.Parameter(initial_a.to(device, dtype))
        self.lora_B = nn.Parameter(
            torch.zeros(linear.out_features, rank, dtype=dtype, device=device)
        )
        self.rank = rank
        self.alpha = alpha
        self.stabilised = stabilised
        self.scale = alpha / (rank**0.5 if stabilised else rank)
        self.mode: Mode = "on"
        self.reference: tuple[Tensor, Tensor] | None = None

    def active(self) -> tuple[Tensor, Tensor] | None:
        """(A [rank, in], B [out, rank]) of the current mode; None if it is off."""
        if self.mode == "off":
            return None
        return self.reference if self.mode == "reference" else (self.lora_A, self.lora_B)


class LowRank(torch.autograd.Function):
    """W x + b + scale B A x. Of the intermediate results only x and A x are kept for backward.

    Narrow products have the shape [rank, rows]: with the rank as the last dimension they take up
    to nine times as long on a CPU.
    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """[..., out] in x's dtype.

        x [..., in], weight [out, in], bias [out] or None, a [rank, in], b [out, rank]
        """
        y = products.linear(x, weight, bias)
        ax = a @ x.reshape(-1, x.shape[-1]).to(a.dtype).t()
        _add_product(y.view(-1, y.shape[-1]), ax.t(), b.t(), scale)
        ctx.save_for_backward(x, weight, bias, a, b, ax)
        ctx.scale = scale
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, bias, a and b; None for each one that is not needed."""
        # Read the saved tensors once only: a checkpointed layer raises at the second access.
        x, weight, bias, a, b, ax = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_a, needs_b, _ = ctx.needs_input_grad
        rows = x.reshape(-1, x.shape[-1])
        grad_rows = grad.reshape(-1, grad.shape[-1])
        wide = grad_rows.to(a.dtype)
        grad_x = grad_weight = grad_bias = grad_a = grad_b = None
        if needs_x or needs_a:
            grad_ax = b.t() @ wide.t()
        if needs_x:
            grad_x = products.gradient(grad_rows, weight)
            _add_product(grad_x, grad_ax.t(), a, ctx.scale)
            grad_x = grad_x.view(x.shape)
        if needs_weight:
            grad_weight = grad_rows.t() @ rows
        if needs_bias:
            grad_bias = grad_rows.sum(0)
        if needs_a:
            grad_a = (grad_ax @ rows.to(a.dtype)).mul_(ctx.scale)
        if needs_b:
            grad_b = (ax @ wide).mul_(ctx.scale).t()
        return grad_x, grad_weight, grad_bias, grad_a, grad_b, None


def _add_product(target: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """target [n, m] += scale * a @ b, computed in a's dtype and rounded to the target's."""
    if target.dtype == a.dtype:
        target.addmm_(a, b, alpha=scale)
    else:
        target += (a @ b * scale).to(target.dtype)


class Linear(nn.Linear):
    """A linear layer that can have an adapter. The names of its own weights do not change."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.adapter: Adapter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """W x + b, plus the adapter's part unless it is off."""
        low_rank = None if self.adapter is None else self.adapter.active()
        if self.adapter is None or low_rank is None:
            return products.linear(x, self.weight, self.bias)
        return LowRank.apply(x, self.weight, self.bias, *low_rank, self.adapter.scale)


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer by name, the head included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


def is_head(name: str) -> bool:
    """True if the last part of the name is lm_head, in this project's names and transformers'."""
    return name.rsplit(".", 1)[-1] == HEAD


def matches(name: str, wanted: Sequence[str] | Expression) -> bool:
    """True if a layer is chosen.

    wanted  a list: the layer's name, or its last parts, are in it. An Expression: it matches the
            whole name
    """
    if isinstance(wanted, Expression):
        return wanted.matches(name)
    return any(name == other or name.endswith("." + other) for other in wanted)


def choose(model: nn.Module, targets: Targets) -> list[str]:
    """The names of the layers to train, never the head; `targets` as in `add`."""
    names = [name for name in linear_layers(model) if not is_head(name)]
    if targets is None or targets == "all":
        return names
    if targets == "language":
        return [name for name in names if in_decoder(name)]
    wanted: dict[str, list[str] | Expression] = {}
    if isinstance(targets, str):
        wanted[targets] = Expression.of(targets, "LoRA targets")
    else:
        for target in targets:
            wanted[target] = [target]
    for target, choice in wanted.items():
        if not any(matches(name, choice) for name in names):
            last_parts = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise UserError(
                f"LoRA target {target!r} names no linear layer to train (all and language are not "
                f"combined with others); known last parts: {', '.join(last_parts)}"
            )
    return [name for name in names if any(matches(name, choice) for choice in wanted.values())]


def attach(
    model: nn.Module,
    ranks: dict[str, int],
    alphas: dict[str, float],
    seed: int = 0,
    stabilised: bool = False,
) -> list[str]:
    """Freeze the model and put an adapter on each named layer; returns the names.

    ranks, alphas  the adapter's rank and alpha by layer name
    raises         UserError for a rank below 1, or if the model has adapters already
    """
    if adapters(model):
        raise UserError("the model already carries LoRA adapters; merge_lora() them first")
    layers = linear_layers(model)
    widest = max(
        (max(layer.in_features, layer.out_features) for layer in layers.values()), default=1
    )
    for name, rank in ranks.items():
        if not 1 <= rank <= widest:
            raise UserError(
                f"LoRA rank of {name} is {rank}, expected 1 to {widest}, the widest layer; "
                "use full fine-tuning (--lora-rank 0) for none"
            )
    model.requires_grad_(False)
    for name, rank in ranks.items():
        generator = torch_generator(seed, f"lora/{name}")
        layers[name].adapter = Adapter(layers[name], rank, alphas[name], generator, stabilised)
    return list(ranks)


def add(
    model: nn.Module, rank: int, alpha: float, targets: Targets = None, seed: int = 0
) -> list[str]:
    """Freeze the model and put an adapter on each target layer; returns the layers' names.

    targets  None or "all": every linear layer but the head. "language": those of the decoder.
             A list: layer names, or their last parts ("q_proj"). Any other text: a regular
             expression for the whole name. Names are those of checkpoint files
    raises   UserError if a target names no layer, the rank is below 1, or the model has adapters
    """
    names = choose(model, targets)
    return attach(model, dict.fromkeys(names, rank), dict.fromkeys(names, alpha), seed)


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Every adapter by the name of its layer."""
    return {
        name: layer.adapter
        for name, layer in linear_layers(model).items()
        if layer.adapter is not None
    }


class TensorCount(TypedDict):
    """One trained tensor: its name, its shape and how many numbers it holds."""

    name: str
    shape: list[int]
    count: int


class Manifest(TypedDict):
    """The trained tensors, how many numbers they hold, and how many the whole model holds.

    Adapters count in both sums.
    """

    tensors: list[TensorCount]
    trainable: int
    total: int


def manifest(model: nn.Module) -> Manifest:
    """What is trained."""
    trained: list[TensorCount] = [
        {"name": name, "shape": list(tensor.shape), "count": tensor.numel()}
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    ]
    return {
        "tensors": trained,
        "trainable": sum(each["count"] for each in trained),
        "total": sum(tensor.numel() for tensor in model.parameters()),
    }


@contextmanager
def mode(model: nn.Module, name: Mode) -> Iterator[None]:
    """Inside the block every adapter is in the named mode; afterwards in its earlier one."""
    with mode_of(adapters(model).values(), name):
        yield


@contextmanager
def mode_of(some: Iterable[Adapter], name: Mode) -> Iterator[None]:
    """The same for these adapters; to look for those of a model takes as long as a small layer."""
    earlier = [(adapter, adapter.mode) for adapter in some]
    for adapter, _ in earlier:
        adapter.mode = name
    try:
        yield
    finally:
        for adapter, its_mode in earlier:
            adapter.mode = its_mode


def freeze_reference(model: nn.Module) -> None:
    """Store a copy of the adapters' current weights, which mode "reference" uses."""
    for adapter in adapters(model).values():
        adapter.reference = (adapter.lora_A.detach().clone(), adapter.lora_B.detach().clone())


@torch.no_grad()
def merged(layer: Linear) -> Tensor:
    """The layer's weight with its adapter added; without an adapter, the weight itself.

    The sum is computed in float64 and rounded once.
    """
    if layer.adapter is None:
        return layer.weight
    delta = layer.adapter.lora_B.double() @ layer.adapter.lora_A.double() * layer.adapter.scale
    return (layer.weight.double() + delta).to(layer.weight.dtype)


def merged_weight(model: nn.Module, name: str) -> Tensor:
    """The parameter of that name as a file of the merged model holds it; the model is unchanged."""
    module_name, _, last = name.rpartition(".")
    layer = model.get_submodule(module_name)
    if last == "weight" and isinstance(layer, Linear):
        return merged(layer)
    return model.get_parameter(name)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter to its layer's weight (see `merged`) and remove it."""
    for layer in linear_layers(model).values():
        if layer.adapter is not None:
            layer.weight.copy_(merged(layer))
            layer.adapter = None
