"""Qwen2-VL's vision tower: the patches of pictures of any size in one row, attention within each picture, two-axis rotary
positions, and a merger that makes one token of a block of patches.

source  Wang et al. 2024 (Qwen2-VL) 2.1; numbers equal to transformers' Qwen2VisionTransformerPretrainedModel within fp32 rounding
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import UserError

from .language import at_least_float32, rotate
from .language_config import number, whole_number
from .lora import Linear
from .vision import MLP, LayerNorm

NORM_EPS = 1e-6
ROPE_THETA = 10000.0
# What transformers' Qwen2VLVisionConfig takes for a key that vision_config leaves out.
DEFAULTS = {
    "embed_dim": 1280,
    "mlp_ratio": 4,
    "depth": 32,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "hidden_size": 3584,
    "hidden_act": "quick_gelu",
}


@dataclass(frozen=True)
class Qwen2VisionConfig:
    """hidden_size is the tower's own width, config.json's embed_dim; config.json's hidden_size is output_size here."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    output_size: int

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_width(self):
        """How many numbers one patch holds."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


def vision_config(config: dict, where) -> Qwen2VisionConfig:
    """The tower that a vision_config describes. UserError for one that is not computed here."""
    values = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    theta = (values.get("rope_parameters") or {}).get("rope_theta", ROPE_THETA)
    for key, found, expected in (
        ("hidden_act", values["hidden_act"], DEFAULTS["hidden_act"]),
        ("rope_theta", theta, ROPE_THETA),
        ("in_chans", values.get("in_chans", values["in_channels"]), values["in_channels"]),
    ):
        if found != expected:
            raise UserError(f"{where}: vision {key} is {found!r}; expected {expected!r}")
    width, ratio, *rest = (values[key] for key in list(DEFAULTS)[:-1])
    for key, value in zip(DEFAULTS, (width, ratio, *rest)):
        (number if key == "mlp_ratio" else whole_number)(
            {key: value}, key, f"{where}: vision_config"
        )
    if width % (4 * values["num_heads"]):
        raise UserError(
            f"{where}: vision embed_dim is {width}; expected a multiple of 4 times num_heads, {values['num_heads']}"
        )
    return Qwen2VisionConfig(width, int(width * ratio), *rest)


def places(grid, merge: int) -> torch.Tensor:
    """Row and column [P, 2] of every patch of pictures of (h, w) patches, in stored order: block by block of merge x merge."""

    def of_one(h, w):
        raster = torch.cartesian_prod(torch.arange(h), torch.arange(w))
        return raster.view(h // merge, merge, w // merge, merge, 2).transpose(1, 2).reshape(-1, 2)

    return torch.cat([of_one(h, w) for h, w in grid])


def patch_rotary(places, head_dim: int, dtype):
    """cos and sin [P, head_dim] in fp32 or wider: the first half of the angles turns with the row, the second with the column."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=wide, device=places.device) / half
    angle = (places[..., None].to(wide) * (1.0 / ROPE_THETA**exponent)).flatten(1)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


class Projection(nn.Module):
    """The patch embedding: in checkpoints a 3-d convolution whose stride is its kernel, so one matrix product a patch."""

    def __init__(self, config: Qwen2VisionConfig):
        super().__init__()
        self.weight = nn.Parameter(
            torch.zeros(
                config.hidden_size,
                config.in_channels,
                config.temporal_patch_size,
                config.patch_size,
                config.patch_size,
            )
        )

    def forward(self, pixels):
        return F.linear(pixels.to(self.weight.dtype), self.weight.flatten(1))


class PatchEmbed(nn.Module):
    def __init__(self, config: Qwen2VisionConfig):
        super().__init__()
        self.proj = Projection(config)


class Attention(nn.Module):
    def __init__(self, config: Qwen2VisionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, cos, sin, sizes):
        """x [P, D] of all pictures; sizes: the patches of each. A picture at a time: a mask over all would take P * P numbers."""
        q, k, v = (
            self.qkv(x).view(len(x), 3, 1, self.heads, -1).permute(1, 2, 3, 0, 4)
        )  # each [1, heads, P, head_dim]
        q, k = (rotate(at_least_float32(part), cos, sin).to(x.dtype) for part in (q, k))
        pictures = zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2), strict=True)
        y = torch.cat([F.scaled_dot_product_attention(*picture) for picture in pictures], 2)
        return self.proj(y[0].transpose(0, 1).reshape(len(x), -1))


class Block(nn.Module):
    def __init__(self, config: Qwen2VisionConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.hidden_size, NORM_EPS)
        self.norm2 = LayerNorm(config.hidden_size, NORM_EPS)
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, sizes):
        x = x + self.attn(self.norm1(x), cos, sin, sizes)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    def __init__(self, config: Qwen2VisionConfig):
        super().__init__()
        self.width = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = LayerNorm(config.hidden_size, NORM_EPS)
        self.mlp = nn.Sequential(
            Linear(self.width, self.width), nn.GELU(), Linear(self.width, config.output_size)
        )

    def forward(self, x):
        """[P / merge^2, output_size]: a block's patches side by side, which is why patches come block by block."""
        return self.mlp(self.ln_q(x).view(-1, self.width))


class Qwen2VisionTower(nn.Module):
    """checkpointing: a training forward keeps only each block's input and computes the rest again in backward."""

    def __init__(self, config: Qwen2VisionConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.merger = Merger(config)

    def forward(self, pixels, grid):
        """Token features of all pictures, one after the other.

        pixels   [P, patch_width], the pictures' patches in stored order
        grid     (h, w) of every picture in patches, multiples of the merge size; the products sum to P
        returns  [P / merge^2, output_size]
        """
        x = self.patch_embed.proj(pixels)
        where = places(grid, self.config.spatial_merge_size).to(x.device)
        cos, sin = patch_rotary(where, self.config.head_dim, x.dtype)
        sizes = [h * w for h, w in grid]
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(
                    block, x, cos, sin, sizes, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, cos, sin, sizes)
        return self.merger(x)
