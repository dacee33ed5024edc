"""The CLIP vision tower: class token, layer norm before the layers, quick_gelu.

The features that LLaVA uses are the patch tokens of an inner layer.
source  Radford et al. 2021; numbers equal to transformers' CLIPVisionModel within fp32 rounding
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .config_keys import CLIP
from .config_values import number, whole_number
from .language import Checkpointable, at_least_float32, embedding
from .lora import Linear
from .products import attention

# The values that transformers' CLIPVisionConfig uses for a key that vision_config omits.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
}
# The values that transformers' LlavaConfig uses without a vision_config.
LLAVA: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)


@dataclass(frozen=True)
class VisionConfig:
    """The sizes of a tower; image_size and patch_size in pixels."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float

    @property
    def n_patches(self) -> int:
        """The patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


def vision_config(config: dict[str, Any], where: PathName) -> VisionConfig:
    """The tower that a vision_config describes.

    raises  UserError for a tower that is not computed here, or inconsistent sizes
    """
    if not isinstance(config, dict):
        raise UserError(f"{where}: vision_config is {shown(config)}; expected an object")
    place = f"{where}: vision_config"
    CLIP.check(config, place)
    values = DEFAULTS | config
    sizes = {key: whole_number(values, key, place) for key in SIZES}
    heads_fit = sizes["hidden_size"] % sizes["num_attention_heads"] == 0
    if not heads_fit or sizes["patch_size"] > sizes["image_size"]:
        listed = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise UserError(f"{where}: vision sizes do not go together: {listed}")
    return VisionConfig(**sizes, layer_norm_eps=number(values, "layer_norm_eps", place))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation, equal for every number of threads."""

    def forward(self, x: Tensor) -> Tensor:
        """x normalised in fp32 or wider, rounded once.

        Weight and bias are applied outside of torch's fused operator, which sums their gradients
        in an order that depends on the number of threads.
        """
        wide = at_least_float32(x)
        normed = F.layer_norm(wide, self.normalized_shape, None, None, self.eps)
        return (normed * self.weight.to(wide.dtype) + self.bias.to(wide.dtype)).to(x.dtype)


class Embeddings(nn.Module):
    """Pictures to patch embeddings, with a class token first."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, config.patch_size, config.patch_size, bias=False
        )
        self.position_embedding = embedding(config.n_patches + 1, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 1 + P, D] of pixels [N, 3, H, W], patches row by row."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat((class_token, patches), 1) + self.position_embedding.weight


class Attention(nn.Module):
    """Self-attention over a picture's patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        width = config.hidden_size
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self._split_heads(self.q_proj(x))
        k = self._split_heads(self.k_proj(x))
        v = self._split_heads(self.v_proj(x))
        y = attention(q, k, v, None, False)
        return self.out_proj(y.transpose(1, 2).reshape(x.shape))

    def _split_heads(self, x: Tensor) -> Tensor:
        """[N, P, D] as [N, heads, P, head_dim]."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class QuickGelu(torch.autograd.Function):
    """x sigmoid(1.702 x). Only x is kept for backward.

    The function is silu(1.702 x) / 1.702, so its derivative is that of silu at 1.702 x.
    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid_(1.702 * x).mul_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, 1.702 * x)


class MLP(nn.Module):
    """The feed-forward network of a layer."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, inner_width)
        self.fc2 = Linear(inner_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(QuickGelu.apply(self.fc1(x)))


class Layer(nn.Module):
    """One layer: attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers, under the name that checkpoints use."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class VisionModel(Checkpointable):
    """Embeddings and layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        # Checkpoints have this misspelt name.
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = Encoder(config)
        # Checkpoints hold this norm; patch features are taken before it, so it is never computed.
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixels: Tensor, layer: int) -> Tensor:
        """[N, 1 + P, D]: hidden states number `layer` of pictures [N, 3, H, W].

        layer  0: the embeddings; L: the output of the last of L layers; -1: the same; -2: the
               input of the last layer
        """
        x = self.pre_layrnorm(self.embeddings(pixels))
        n_computed = layer % (len(self.encoder.layers) + 1)
        for block in self.encoder.layers[:n_computed]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x


class VisionTower(nn.Module):
    """A CLIP tower under the name that checkpoints use."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)
