"""The decoder of Llama, Vicuna, Mistral and Qwen2.

RMSNorm, rotary positions, grouped-query attention, SwiGLU. LanguageConfig holds what differs:
biases (Qwen2: on q, k, v), sliding windows (Mistral, Qwen2), tied heads, and positions of three
axes (Qwen2-VL).
source  Touvron et al. 2023 (Llama, Llama-2), Jiang et al. 2023 (Mistral), Yang et al. 2024
        (Qwen2), Wang et al. 2024 (Qwen2-VL)
equals  transformers' classes of these names within fp32 rounding
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .cache import KeysValues, KVCache, joined
from .language_config import LanguageConfig
from .lora import Linear
from .products import attention
from .rope import frequencies

Window = int | None  # positions that a token attends to, itself included; None: all before it


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 (float64 stays float64): the dtype of norms, rotary angles and losses."""
    return x if x.dtype == torch.float64 else x.float()


def embedding(rows: int, width: int) -> nn.Embedding:
    """An Embedding of zeros; weights are read from a file.

    Its own initial values are drawn: on the device meta this imports torch.compile, which takes
    longer than reading a small model.
    """
    return nn.Embedding.from_pretrained(torch.zeros(rows, width), freeze=False)


class Checkpointable(nn.Module):
    """A stack of layers that can save memory in training.

    checkpointing  True: a training forward keeps only each layer's input, and backward computes
                   the rest again
    """

    checkpointing: bool = False


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x / rms(x) in fp32 or wider, cast to x's dtype, then times the weight.

        This order of operations is needed for equality in bf16.
        """
        wide = at_least_float32(x)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


def rotary(positions: Tensor, config: LanguageConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, T, head_dim] of the rotary angles; angles are computed in fp32 or wider.

    positions  [B, T], or [3, B, T] (time, height, width). With three axes each frequency belongs
               to one axis: the first config.mrope_section[0] frequencies to time, the next
               mrope_section[1] to height, the next to width, and again from time.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    frequency = frequencies(config.rope, config.head_dim, wide, positions.device)
    angle = positions[..., None].to(wide) * frequency
    if positions.dim() == 3:
        sections = angle.split(list(config.mrope_section or ()), -1)
        angle = torch.cat([section[number % 3] for number, section in enumerate(sections)], -1)
    angle = torch.cat((angle, angle), -1)[:, None]
    scale = config.rope.attention_factor
    return (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, heads, T, head_dim] rotated by the angles of its positions.

    Value i of the first half and value i of the second half form one rotated pair.
    """
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(width, query_width, config.qkv_bias)
        self.k_proj = Linear(width, key_width, config.qkv_bias)
        self.v_proj = Linear(width, key_width, config.qkv_bias)
        self.o_proj = Linear(query_width, width, config.o_bias)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: KVCache | KeysValues | None = None,
        start: int = 0,
    ) -> tuple[Tensor, KeysValues]:
        """The output at the positions from `start` on, and keys and values of all positions.

        x        [B, T, D], normed
        mask     [B, 1, T - start, S], True where a position may attend; None: plain causal
        past     keys and values of earlier positions
        returns  [B, T - start, D], (keys, values)
        """
        B, T, _ = x.shape
        q = self._split_heads(self.q_proj(x[:, start:]))
        k = self._split_heads(self.k_proj(x))
        v = self._split_heads(self.v_proj(x))
        q = rotate(q, cos[:, :, start:], sin[:, :, start:])
        k = rotate(k, cos, sin)
        if past is not None:
            k, v = joined(past, k, v)
        keys_values = (k, v)
        queries_per_key = q.shape[1] // k.shape[1]
        if queries_per_key > 1:
            k = k.repeat_interleave(queries_per_key, 1)
            v = v.repeat_interleave(queries_per_key, 1)
        y = attention(q, k, v, mask, mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(B, T - start, -1)), keys_values

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * head_dim] as [B, heads, T, head_dim]."""
        return x.view(x.shape[0], x.shape[1], -1, self.config.head_dim).transpose(1, 2)


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up. Only gate and up are kept for backward.

    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class MLP(nn.Module):
    """The gated feed-forward network of a layer; `inner` is its width between the products."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias)
        self.up_proj = Linear(width, inner, bias)
        self.down_proj = Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


class Layer(nn.Module):
    """One decoder layer: attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: KVCache | KeysValues | None = None,
        start: int = 0,
    ) -> tuple[Tensor, KeysValues]:
        """Arguments and results as in Attention."""
        y, keys_values = self.self_attn(self.input_layernorm(x), cos, sin, mask, past, start)
        x = x[:, start:] + y
        return x + self.mlp(self.post_attention_layernorm(x)), keys_values


class Decoder(Checkpointable):
    """Token embeddings, decoder layers and the final norm."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        embeddings: Tensor,
        attention_mask: Tensor,
        positions: Tensor | None = None,
        past: Sequence[KVCache | KeysValues] | None = None,
        layer: int | None = None,
        mask_for_window: Callable[[Window], Tensor] | None = None,
        start: int = 0,
        keep_cache: bool = True,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Hidden states and the KV cache.

        embeddings       [B, T, D] of the new positions
        attention_mask   [B, S] of cached and new positions; S = T without a cache. 0 marks
                         padding, to which no other position attends
        positions        [B, T], or [3, B, T] of three axes, of the new positions; None: counted
                         over the attention mask
        past             the cache that an earlier call returned, or one KVCache for each layer
        layer            stop after this layer (0-based); return its output without the final norm
        mask_for_window  a function from a layer's window to its attention mask [B, 1, T, S], True
                         where a position may attend; None: every earlier real position
        start            the first of the new positions that the caller reads: the last layer
                         computes no output for the positions before it
        keep_cache       False: no call continues from here, so keys and values need no memory
        returns          [B, T - start, D], cache. The cache is empty under checkpointing, without
                         keep_cache, and with mask_for_window: no call can continue from there
        """
        T = embeddings.shape[1]
        S = attention_mask.shape[1]
        if positions is None:
            positions = positions_from_mask(attention_mask)[:, S - T :]
        cos, sin = rotary(positions, self.config, embeddings.dtype)
        masks: dict[Window, Tensor | None]
        if mask_for_window is None:
            masks = self._causal_masks(attention_mask, T, past is not None)
        else:
            masks = {window: mask_for_window(window) for window in set(self.config.windows)}
        recompute = self.checkpointing and past is None and torch.is_grad_enabled()
        last = len(self.layers) - 1 if layer is None else layer
        x = embeddings
        cache: list[KeysValues] = []
        for number, block in enumerate(self.layers[: last + 1]):
            mask = masks[self.config.windows[number]]
            first = 0
            if number == last and start:
                first = start
                if mask is None:
                    mask = causal_mask(attention_mask, T - first)
                else:
                    mask = mask[:, :, first:]
            if recompute:
                x = _checkpointed(block, x, cos, sin, mask, first)
                continue
            layer_past = None if past is None else past[number]
            x, keys_values = block(x, cos, sin, mask, layer_past, first)
            if keep_cache and mask_for_window is None:
                cache.append(keys_values)
        return self.norm(x) if layer is None else x, cache

    def _causal_masks(
        self, attention_mask: Tensor, T: int, has_past: bool
    ) -> dict[Window, Tensor | None]:
        """The attention mask of each window; None where plain causal attention is the same."""
        S = attention_mask.shape[1]
        has_padding = not bool(attention_mask.all())
        masks: dict[Window, Tensor | None] = {}
        for window in set(self.config.windows):
            reaches_all = window is None or S <= window
            if reaches_all and not has_past and not has_padding:
                masks[window] = None
            else:
                masks[window] = causal_mask(attention_mask, T, window)
        return masks


def _checkpointed(
    block: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, start: int
) -> Tensor:
    """A layer's output; backward computes the layer again from its input.

    A layer uses no random numbers, so no random state is restored for the second computation.
    """

    def output(*arguments: Any) -> Tensor:
        return block(*arguments)[0]

    return checkpoint(
        output, x, cos, sin, mask, None, start, use_reentrant=False, preserve_rng_state=False
    )


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """[B, S]: the number of each real position, counted from 0; 0 for padding on the left."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def next_positions(positions: Tensor, n: int) -> Tensor:
    """Positions [..., n] of n text tokens that follow positions [B, T] or [3, B, T].

    They count on from the last column; with three axes, from its largest value, on every axis.
    """
    last = positions[..., -1:]
    if positions.dim() == 3:
        last = last.amax(0, keepdim=True).expand(3, -1, -1)
    return last + torch.arange(1, n + 1, device=positions.device)


def causal_mask(attention_mask: Tensor, T: int, window: Window = None) -> Tensor:
    """[B, 1, T, S], True where each of the last T positions may attend.

    A position attends to the real positions up to itself, and always to itself.
    window  attend to no more than this many positions, its own included
    """
    S = attention_mask.shape[1]
    query = torch.arange(S - T, S, device=attention_mask.device)[:, None]
    key = torch.arange(S, device=attention_mask.device)[None]
    allowed = (key <= query) & attention_mask.bool()[:, None, :]
    if window is not None:
        allowed = allowed & (key > query - window)
    return (allowed | (key == query))[:, None]
