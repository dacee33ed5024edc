"""The model's decoder with one rule broken, by hooks on its parts; it is whole again afterwards."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clear_ref.model import lora
from clear_ref.model.language import Layer, RMSNorm, at_least_float32
from clear_ref.model.language_config import LanguageConfig
from clear_ref.model.rope import Rope
from clear_ref.model.vlm import VLM

Change = Callable[[VLM], AbstractContextManager[None]]
Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
ROPE_BASES = (1e4, 1e5, 5e5, 1e6, 1e7, 2.5e5)
NORM_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 0.0)
MOST_HEADS = 8  # of more heads, only their order as a whole is tried
MOST_LAYERS = 3


@contextmanager
def unchanged(vlm: VLM) -> Iterator[None]:
    """The decoder as it is."""
    yield


def changes(vlm: VLM, layer: int | None) -> Iterator[tuple[str, str, Change]]:
    """(name of the cause, detail, the change) of every rule that this decoder has.

    layer  whose output is wanted; None: after the last norm
    """
    config = vlm.text_config
    yield from _of_rotary(config)
    yield from _of_heads(config)
    for eps in NORM_EPS:
        if eps != config.rms_norm_eps:
            detail = f"it is {eps:g}, ours {config.rms_norm_eps:g}"
            yield "other_norm_eps", detail, partial(with_eps, eps=eps)
    norms = partial(hooked, kind=RMSNorm)
    yield "norm_weight_plus_one", "", partial(norms, hook=_weight_plus_one)
    layers = partial(hooked, kind=Layer)
    yield "gelu_for_silu", "", partial(layers, hook=_gelu, part="mlp")
    yield "gate_up_swapped", "", partial(layers, hook=_gate_and_up_swapped, part="mlp")
    if config.qkv_bias:
        parts = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        yield "qkv_bias_missing", "", partial(layers, hook=_without_bias, part=parts)
    if layer is None:
        yield "last_norm_missing", "", last_norm_missing
        for n in range(1, min(MOST_LAYERS, config.num_hidden_layers - 1) + 1):
            yield "layers_missing", f"{n} of {config.num_hidden_layers}", partial(without, n=n)
    if any(isinstance(m, lora.Linear) and m.adapter is not None for m in vlm.model.modules()):
        yield "adapters_are_off", "", VLM.adapters_off


def _of_rotary(config: LanguageConfig) -> Iterator[tuple[str, str, Change]]:
    for theta in ROPE_BASES:
        if theta != config.rope.theta:
            detail = f"it is {theta:g}, ours {config.rope.theta:g}"
            rope = replace(config.rope, theta=theta)
            yield "other_rope_base", detail, partial(with_config, rope=rope)
    if config.rope.kind != "default":
        yield "rope_scaling_ignored", "", partial(with_config, rope=Rope(config.rope.theta))
    pairs = partial(_neighbours_apart, head_dim=config.head_dim)
    parts = ("self_attn.q_proj", "self_attn.k_proj")
    change = partial(hooked, kind=Layer, hook=pairs, part=parts)
    yield "rotary_pairs_interleaved", "", change
    if config.mrope_section:
        half = config.head_dim // 2
        ones = min(3 * min(config.mrope_section[1:]), half)
        sections = (1,) * ones + ((half - ones,) if half > ones else ())
        yield "mrope_interleaved", "", partial(with_config, mrope_section=sections)


def _of_heads(config: LanguageConfig) -> Iterator[tuple[str, str, Change]]:
    n_heads = config.num_attention_heads
    n_keys = config.num_key_value_heads
    layers = partial(hooked, kind=Layer)
    q = "self_attn.q_proj"
    if 1 < n_keys < n_heads:
        group = n_heads // n_keys
        order = [k + n_keys * g for k in range(n_keys) for g in range(group)]
        yield "kv_heads_tiled", "", partial(tiled, order=order)
    for name, parts, n in (
        ("query", (q,), n_heads),
        ("key and value", ("self_attn.k_proj", "self_attn.v_proj"), n_keys),
    ):
        for order, detail in _orders(n):
            hook = partial(_heads_in_order, order=order)
            yield "heads_swapped", f"{name} heads {detail}", partial(layers, hook=hook, part=parts)
    scaled = partial(_times, factor=config.head_dim**0.5)
    yield "attention_not_scaled", "", partial(layers, hook=scaled, part=q)


def _orders(n: int) -> Iterator[tuple[list[int], str]]:
    """Other orders of n heads: reversed, and, of few heads, each pair swapped."""
    if n > 2:
        yield list(range(n))[::-1], "in reverse order"
    if n <= MOST_HEADS:
        for i, j in combinations(range(n), 2):
            order = list(range(n))
            order[i], order[j] = j, i
            yield order, f"{i} and {j}"


@contextmanager
def hooked(
    vlm: VLM, kind: type[nn.Module], hook: Hook, part: str | tuple[str, ...] = ""
) -> Iterator[None]:
    """The decoder with the output of parts changed.

    kind  the class of the modules; part: the names of their parts, "": the modules themselves
    hook  (module, its arguments, its output) -> the changed output
    """
    names = (part,) if isinstance(part, str) else part
    handles = [
        module.get_submodule(name).register_forward_hook(hook)
        for module in vlm.model.decoder.modules()
        if isinstance(module, kind)
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def with_config(vlm: VLM, **values: Any) -> Iterator[None]:
    """The decoder with other values of its config."""
    decoder = vlm.model.decoder
    config = decoder.config
    decoder.config = replace(config, **values)
    try:
        yield
    finally:
        decoder.config = config


@contextmanager
def with_eps(vlm: VLM, eps: float) -> Iterator[None]:
    """The decoder with another eps in every norm."""
    norms = [module for module in vlm.model.decoder.modules() if isinstance(module, RMSNorm)]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = eps
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.eps = own


@contextmanager
def tiled(vlm: VLM, order: list[int]) -> Iterator[None]:
    """Query head order[i] takes the place of head i in attention, and its own after it."""
    back = torch.tensor(order).argsort().tolist()

    def undo(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (in_order(arguments[0], back),)

    hook = partial(_heads_in_order, order=order)
    with ExitStack() as stack:
        stack.enter_context(hooked(vlm, Layer, hook, "self_attn.q_proj"))
        for module in vlm.model.decoder.modules():
            if isinstance(module, Layer):
                handle = module.self_attn.o_proj.register_forward_pre_hook(undo)
                stack.callback(handle.remove)
        yield


@contextmanager
def last_norm_missing(vlm: VLM) -> Iterator[None]:
    """The decoder without its last norm."""
    handle = vlm.model.decoder.norm.register_forward_hook(lambda module, given, output: given[0])
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without(vlm: VLM, n: int) -> Iterator[None]:
    """The decoder without its last n layers."""
    layers = vlm.model.decoder.layers
    vlm.model.decoder.layers = layers[:-n]
    try:
        yield
    finally:
        vlm.model.decoder.layers = layers


def in_order(x: Tensor, order: list[int]) -> Tensor:
    """[..., heads * head_dim] with head order[i] at place i."""
    return x.unflatten(-1, (len(order), -1))[..., order, :].flatten(-2)


def _heads_in_order(
    module: nn.Module, given: tuple[Any, ...], output: Tensor, order: list[int]
) -> Tensor:
    return in_order(output, order)


def _neighbours_apart(
    module: nn.Module, given: tuple[Any, ...], output: Tensor, head_dim: int
) -> Tensor:
    """Values 2i of each head first, then values 2i + 1: neighbours become (i, i + half)."""
    heads = output.unflatten(-1, (-1, head_dim))
    return torch.cat((heads[..., ::2], heads[..., 1::2]), -1).flatten(-2)


def _times(module: nn.Module, given: tuple[Any, ...], output: Tensor, factor: float) -> Tensor:
    return factor * output


def _without_bias(module: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
    return output - module.bias


def _weight_plus_one(module: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
    wide = at_least_float32(given[0])
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + module.eps)
    return output + normed.to(output.dtype)


def _gelu(module: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
    x = given[0]
    return module.down_proj(F.gelu(module.gate_proj(x)) * module.up_proj(x))


def _gate_and_up_swapped(module: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
    x = given[0]
    return module.down_proj(F.silu(module.up_proj(x)) * module.gate_proj(x))
