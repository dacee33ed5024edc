"""The CLIP vision tower: class token, pre-layernorm, quick_gelu; features are an inner layer's patch tokens.

source  Radford et al. 2021; numbers equal to transformers' CLIPVisionModel within fp32 rounding
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import UserError

from .language import at_least_float32
from .language_config import number, whole_number
from .lora import Linear

# What transformers' CLIPVisionConfig takes for a key that vision_config leaves out, and what LlavaConfig takes without one.
DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "num_channels": 3,
}
LLAVA = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


@dataclass(frozen=True)
class VisionConfig:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float

    @property
    def n_patches(self):
        return (self.image_size // self.patch_size) ** 2


def vision_config(config: dict, where) -> VisionConfig:
    """The tower that a vision_config describes ({}: LLaVA-1.5's). UserError for one that is not computed here."""
    values = DEFAULTS | (config or LLAVA)
    for key in ("hidden_act", "num_channels"):
        if values[key] != DEFAULTS[key]:
            raise UserError(f"{where}: vision {key} is {values[key]!r}; expected {DEFAULTS[key]!r}")
    sizes = list(DEFAULTS)[:6]
    for key in sizes:
        whole_number(values, key, f"{where}: vision_config")
    if (
        values["hidden_size"] % values["num_attention_heads"]
        or values["patch_size"] > values["image_size"]
    ):
        raise UserError(
            f"{where}: vision sizes do not go together: {', '.join(f'{key} {values[key]}' for key in sizes)}"
        )
    return VisionConfig(*(values[key] for key in sizes), number(values, "layer_norm_eps", where))


class LayerNorm(nn.LayerNorm):
    def forward(self, x):
        """Normalised in fp32 or wider, rounded once. Weight and bias are applied outside of torch's fused operator: that one sums
        their gradient in an order that depends on the number of threads."""
        wide = at_least_float32(x)
        normed = F.layer_norm(wide, self.normalized_shape, None, None, self.eps)
        return (normed * self.weight.to(wide.dtype) + self.bias.to(wide.dtype)).to(x.dtype)


class Embeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, config.patch_size, config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(config.n_patches + 1, config.hidden_size)

    def forward(self, pixels):
        """pixels [N, 3, H, W] -> [N, 1 + P, D], patches row by row."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat((first, patches), 1) + self.position_embedding.weight


class Attention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )

    def forward(self, x):
        N, P, D = x.shape
        q, k, v = (
            layer(x).view(N, P, self.heads, -1).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).reshape(N, P, D))


class QuickGelu(torch.autograd.Function):
    """x sigmoid(1.702 x), of which only x is kept: it is silu(1.702 x) / 1.702, so its derivative is silu's at 1.702 x."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sigmoid_(1.702 * x).mul_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, 1.702 * x)


class MLP(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.fc2(QuickGelu.apply(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class VisionModel(nn.Module):
    """checkpointing: a training forward keeps only each layer's input and computes the rest again in backward."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.checkpointing = False
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(
            config.hidden_size, config.layer_norm_eps
        )  # spelled so in every checkpoint
        self.encoder = Encoder(config)
        self.post_layernorm = LayerNorm(
            config.hidden_size, config.layer_norm_eps
        )  # stored; patch features skip it

    def forward(self, pixels, layer):
        """Hidden states [N, 1 + P, D] number `layer` of the N + 1 (0: the embeddings; -2: before the last layer)."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for block in self.encoder.layers[: layer % (len(self.encoder.layers) + 1)]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x


class VisionTower(nn.Module):
    """A CLIP tower under the name that checkpoints use."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.vision_model = VisionModel(config)
