"""The decoder of Llama, Vicuna, Mistral and Qwen2: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

What differs between them is in LanguageConfig: biases on q, k, v (Qwen2), sliding windows (Mistral, Qwen2), tied heads, and
positions of three axes (Qwen2-VL).
source  Touvron et al. 2023 (Llama, Llama-2), Jiang et al. 2023 (Mistral), Yang et al. 2024 (Qwen2), Wang et al. 2024 (Qwen2-VL);
        numbers equal to transformers' classes of these names within fp32 rounding
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import ShapeError

from .cache import joined
from .language_config import LanguageConfig
from .lora import Linear


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
    """cos and sin [B, 1, T, head_dim] of positions [B, T], or [3, B, T] (time, height, width); angles in fp32 or wider.

    With three axes the frequencies are shared out in contiguous sections: config.mrope_section[i] of them turn by axis i.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exponent = (
        torch.arange(0, config.head_dim, 2, dtype=wide, device=positions.device) / config.head_dim
    )
    frequency = 1.0 / config.rope_theta**exponent / config.rope_factor
    angle = positions[..., None].to(wide) * frequency
    if positions.dim() == 3:
        angle = torch.cat(
            [part[axis] for axis, part in enumerate(angle.split(config.mrope_section, -1))], -1
        )
    angle = torch.cat((angle, angle), -1)[:, None]
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
        self.q_proj = Linear(width, config.num_attention_heads * dim, config.qkv_bias)
        self.k_proj = Linear(width, config.num_key_value_heads * dim, config.qkv_bias)
        self.v_proj = Linear(width, config.num_key_value_heads * dim, config.qkv_bias)
        self.o_proj = Linear(config.num_attention_heads * dim, width, bias=False)

    def forward(self, x, cos, sin, mask, past=None, start=0):
        """x [B, T, D]; mask [B, 1, T - start, S] (True: may look) or None for plain causal; returns the output at the positions
        from `start` on, [B, T - start, D], and (keys, values) of all."""
        B, T, _ = x.shape
        q, k, v = (
            layer(seen).view(B, seen.shape[1], -1, self.config.head_dim).transpose(1, 2)
            for layer, seen in ((self.q_proj, x[:, start:]), (self.k_proj, x), (self.v_proj, x))
        )
        q, k = rotate(q, cos[:, :, start:], sin[:, :, start:]), rotate(k, cos, sin)
        if past is not None:
            k, v = joined(past, k, v)
        kept = (k, v)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(B, T - start, -1)), kept


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up, of which only gate and up are kept."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class MLP(nn.Module):
    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


class Layer(nn.Module):
    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, cos, sin, mask, past=None, start=0):
        """Arguments and results as Attention's."""
        y, kept = self.self_attn(self.input_layernorm(x), cos, sin, mask, past, start)
        x = x[:, start:] + y
        return x + self.mlp(self.post_attention_layernorm(x)), kept


class Decoder(nn.Module):
    """checkpointing: a training forward keeps only each layer's input and computes the rest again in backward."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        embeddings,
        attention_mask,
        positions=None,
        past=None,
        layer=None,
        mask_for_window=None,
        start=0,
    ):
        """Hidden states and the key-value cache.

        embeddings      [B, T, D] of the new positions
        attention_mask  [B, S] of cached and new positions, S = T without a cache; 0 marks padding, which nothing looks at
        positions       [B, T], or [3, B, T] of three axes, of the new positions; None: counted over the attention mask
        past            what an earlier call returned, one (keys, values) a layer; or one KVCache a layer
        layer           stop after this layer (0-based) and return its output, without the final norm
        mask_for_window         what each new position looks at, instead of all before it: a function of the layer's window, which gives
                        [B, 1, T, S], True where it may
        start           the first of the new positions that the caller reads: the last layer computes no output before it
        returns         [B, T - start, D], cache (empty where checkpointing is at work, or with mask_for_window: nothing can follow it)
        """
        T, S = embeddings.shape[1], attention_mask.shape[1]
        if positions is None:
            positions = counted(attention_mask)[:, S - T :]
        cos, sin = rotary(positions, self.config, embeddings.dtype)
        padded, masks = not bool(attention_mask.all()), {}
        for window in set(self.config.windows):
            plain = past is None and not padded and (window is None or S <= window)
            masks[window] = (
                mask_for_window(window)
                if mask_for_window
                else None
                if plain
                else causal_mask(attention_mask, T, window)
            )
        again = self.checkpointing and past is None and torch.is_grad_enabled()
        x, cache, last = embeddings, [], len(self.layers) - 1 if layer is None else layer
        for number, block in enumerate(self.layers[: last + 1]):
            mask, first = masks[self.config.windows[number]], start if number == last else 0
            if first:
                mask = (
                    causal_mask(attention_mask, T - first) if mask is None else mask[:, :, first:]
                )
            if again:
                # Nothing in a layer is random, so there is no random state to put back when it is computed again.
                x = checkpoint(
                    lambda *given, block=block: block(*given)[0],
                    x,
                    cos,
                    sin,
                    mask,
                    None,
                    first,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                x, kept = block(x, cos, sin, mask, None if past is None else past[number], first)
                if mask_for_window is None:
                    cache.append(kept)
        return self.norm(x) if layer is None else x, cache


def counted(attention_mask):
    """[B, S]: each real position's number, counted from 0 over the mask; padding before the first has 0."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def causal_mask(attention_mask, T, window=None):
    """[B, 1, T, S], True where a new position may look: at real positions up to itself, and always at itself.

    window  at no more than this many positions, its own included
    """
    S = attention_mask.shape[1]
    here = torch.arange(S - T, S, device=attention_mask.device)[:, None]
    there = torch.arange(S, device=attention_mask.device)[None]
    allowed = (there <= here) & attention_mask.bool()[:, None, :]
    if window is not None:
        allowed = allowed & (there > here - window)
    return (allowed | (there == here))[:, None]


class Model(nn.Module):
    """What every family offers: embeddings of text and pictures, positions, hidden states, and from its subclass `decoder` (a
    Decoder) and `head` (hidden states [..., D] -> logits [..., V]).

    image_token_id  the id that a picture's features replace; None: the family sees no pictures
    """

    image_token_id: int | None = None

    def embed(self, input_ids, pixels=None, grid=None):
        """[B, T, D] token embeddings, pictures' features in their places. raises ShapeError where the two do not go together."""
        if pixels is not None:
            raise ShapeError("pixel_values are given; this is a language model, expected none")
        return self.decoder.embed_tokens(input_ids)

    def positions(self, input_ids, attention_mask, grid=None):
        """[B, T] or [3, B, T]: the rotary position of every token."""
        return counted(attention_mask)

    def hidden(self, input_ids, attention_mask, pixels=None, grid=None, layer=None, start=0):
        """[B, T - start, D]: normed hidden states from position `start` on, or those of decoder layer `layer` (0-based)."""
        return self.decoder(
            self.embed(input_ids, pixels, grid),
            attention_mask,
            self.positions(input_ids, attention_mask, grid),
            layer=layer,
            start=start,
        )[0]


class CausalLM(Model):
    """A plain language model under the names that checkpoints use; also the part of a VLM that speaks."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def decoder(self) -> Decoder:
        """What turns embeddings into hidden states."""
        return self.model

    def head(self, hidden):
        """Logits [..., V] of normed hidden states [..., D]; a tied head is the embedding itself."""
        return (
            F.linear(hidden, self.model.embed_tokens.weight)
            if self.lm_head is None
            else self.lm_head(hidden)
        )


def place_features(embeddings, places, features, expected: str):
    """Embeddings [B, T, D] with the features [n, D] at the n places [B, T], in order.

    raises  ShapeError if there are not as many places as features; `expected` says how many a picture has
    """
    n_places, n_features = int(places.sum()), 0 if features is None else len(features)
    if n_places != n_features:
        raise ShapeError(
            f"input_ids hold {n_places} image tokens, the pictures give {n_features} features; expected {expected}"
        )
    if not n_features:
        return embeddings
    return embeddings.masked_scatter(
        places[..., None].expand_as(embeddings), features.to(embeddings.dtype)
    )


def next_positions(positions, n: int):
    """Positions [..., n] of n tokens of text after [B, T] or [3, B, T]: on from the largest of the last column, on every axis."""
    last = positions[..., -1:]
    if positions.dim() == 3:
        last = last.amax(0, keepdim=True).expand(3, -1, -1)
    return last + torch.arange(1, n + 1, device=positions.device)
