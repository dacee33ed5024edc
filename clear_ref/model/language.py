"""The Llama decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

source  Touvron et al. 2023 (Llama, Llama-2); numbers equal to transformers' LlamaForCausalLM within fp32 rounding
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .lora import Linear


@dataclass(frozen=True)
class LanguageConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float


def at_least_float32(x):
    """x in float32, or in float64 if it is: the dtype of norms, rotary angles and losses."""
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        """x / rms(x) in fp32, cast, then times the weight (this order is what bf16 equality needs)."""
        wide = at_least_float32(x)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


def rotary(positions, config, dtype):
    """cos and sin [B, 1, T, head_dim] of positions [B, T]; angles in fp32 or wider."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, config.head_dim, 2, dtype=wide, device=positions.device) / config.head_dim
    angle = positions[:, None, :, None].to(wide) * (1.0 / config.rope_theta ** exponent)
    angle = torch.cat((angle, angle), -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    """x [B, heads, T, head_dim] turned by its position's angles, halves paired (first with second)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Attention(nn.Module):
    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        width, dim = config.hidden_size, config.head_dim
        self.q_proj = Linear(width, config.num_attention_heads * dim, bias=False)
        self.k_proj = Linear(width, config.num_key_value_heads * dim, bias=False)
        self.v_proj = Linear(width, config.num_key_value_heads * dim, bias=False)
        self.o_proj = Linear(config.num_attention_heads * dim, width, bias=False)

    def forward(self, x, cos, sin, mask, past=None):
        """x [B, T, D]; mask [B, 1, T, S] (True: may look) or None for plain causal; returns output and keys, values."""
        B, T, _ = x.shape
        split = (B, T, -1, self.config.head_dim)
        q = rotate(self.q_proj(x).view(split).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(split).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(split).transpose(1, 2)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        kept = (k, v)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1)), kept


class MLP(nn.Module):
    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, cos, sin, mask, past=None):
        y, kept = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), kept


class Decoder(nn.Module):
    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embeddings, attention_mask, past=None, layer=None):
        """Hidden states and the key-value cache.

        embeddings      [B, T, D] of the new positions
        attention_mask  [B, S] of cached and new positions, S = T without a cache; 0 marks padding, which nothing looks at
        past            what an earlier call returned, one (keys, values) a layer
        layer           stop after this layer (0-based) and return its output, without the final norm
        returns         [B, T, D], cache
        """
        T, S = embeddings.shape[1], attention_mask.shape[1]
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, S - T:]
        cos, sin = rotary(positions, self.config, embeddings.dtype)
        mask = None if past is None and bool(attention_mask.all()) else causal_mask(attention_mask, T)
        x, cache = embeddings, []
        for number, block in enumerate(self.layers):
            x, kept = block(x, cos, sin, mask, None if past is None else past[number])
            cache.append(kept)
            if number == layer:
                return x, cache
        return self.norm(x), cache


def causal_mask(attention_mask, T):
    """[B, 1, T, S], True where a new position may look: at real positions up to itself, and always at itself."""
    S = attention_mask.shape[1]
    here = torch.arange(S - T, S, device=attention_mask.device)[:, None]
    there = torch.arange(S, device=attention_mask.device)[None]
    allowed = (there <= here) & attention_mask.bool()[:, None, :]
    return (allowed | (there == here))[:, None]


class CausalLM(nn.Module):
    """The decoder and its head, under the names that checkpoints use."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
