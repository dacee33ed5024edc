"""Qwen2-VL's vision tower, for pictures of any size; its parts are shared with Qwen2.5-VL's.

The patches of all pictures form one sequence. A patch attends to the patches of its own picture,
its rotary position has two axes, and a merger makes one token of each block of patches.
source  Wang et al. 2024 (Qwen2-VL) 2.1
equals  transformers' Qwen2VisionTransformerPretrainedModel within fp32 rounding
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import PathName

from .config_values import number, whole_number
from .language import Checkpointable, at_least_float32, rotate
from .lora import Linear
from .products import attention
from .qwen2_5_keys import QWEN2_VL_VISION
from .vision import MLP, LayerNorm

NORM_EPS = 1e-6
ROPE_THETA = 10000.0
Grid = Sequence[tuple[int, int]]  # (rows, columns) in patches of each picture
# (n, size), ...: the next n * size patches are n groups, in each of which attention is computed.
Groups = list[tuple[int, int]]

# The values that transformers' Qwen2VLVisionConfig uses for a key that vision_config omits.
DEFAULTS: dict[str, Any] = {
    "embed_dim": 1280,
    "mlp_ratio": 4,
    "depth": 32,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "hidden_size": 3584,
}
# Other names that transformers' class has for a key; where both are given, these count.
ALIASES = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads"}


@dataclass(frozen=True)
class Qwen2VisionConfig:
    """The sizes of a tower.

    hidden_size  the tower's own width, config.json's embed_dim
    output_size  the decoder's width, config.json's hidden_size
    rope_theta   base of the rotary frequencies
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    output_size: int
    rope_theta: float

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_width(self) -> int:
        """How many numbers one patch holds."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


def vision_config(config: dict[str, Any], where: PathName) -> Qwen2VisionConfig:
    """The tower that a vision_config describes; UserError for one that is not computed here."""
    place = f"{where}: vision_config"
    QWEN2_VL_VISION.check(config, place)
    values = DEFAULTS | config
    for name, alias in ALIASES.items():
        values[name] = values.get(alias, values[name])
    width = whole_number(values, "embed_dim", place)
    number(values, "mlp_ratio", place)
    tower = Qwen2VisionConfig(
        hidden_size=width,
        intermediate_size=int(width * values["mlp_ratio"]),
        num_hidden_layers=whole_number(values, "depth", place),
        num_attention_heads=whole_number(values, "num_heads", place),
        in_channels=whole_number(values, "in_channels", place),
        patch_size=whole_number(values, "patch_size", place),
        temporal_patch_size=whole_number(values, "temporal_patch_size", place),
        spatial_merge_size=whole_number(values, "spatial_merge_size", place),
        output_size=whole_number(values, "hidden_size", place),
        rope_theta=tower_theta(values, place),
    )
    check_heads("embed_dim", width, tower.num_attention_heads, where)
    check_head_dim(values.get("head_dim"), tower.head_dim, place)
    return tower


def check_heads(key: str, width: int, heads: int, where: PathName) -> None:
    """UserError unless the tower's width, vision_config's `key`, can be split into its heads."""
    if width % (4 * heads):
        raise UserError(
            f"{where}: vision {key} is {width}; expected a multiple of 4 times num_heads, {heads}"
        )


def check_head_dim(head_dim: object, expected: int, where: PathName) -> None:
    """UserError for a head_dim that is given and is not the width of a head."""
    if head_dim not in (None, 0, expected):
        raise UserError(
            f"{where}: head_dim is {shown(head_dim)}; expected {expected}, the width divided by "
            "the number of heads"
        )


def tower_theta(values: dict[str, Any], where: PathName) -> float:
    """The base of the tower's rotary frequencies; UserError for frequencies of another type.

    A rope_scaling that is not null or empty replaces rope_parameters whole.
    values  the vision_config
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind not in ("default", "axial"):
        raise UserError(
            f"{where}: rope_parameters (or rope_scaling) is {shown(rope)}; expected an object with "
            "rope_type default or axial"
        )
    return number({"rope_theta": ROPE_THETA} | values | rope, "rope_theta", where)


def patch_places(grid: Grid, merge: int) -> Tensor:
    """Row and column [P, 2] of every patch, in stored order: block by block of merge x merge."""
    places: list[Tensor] = []
    for h, w in grid:
        row_by_row = torch.cartesian_prod(torch.arange(h), torch.arange(w))
        blocks = row_by_row.view(h // merge, merge, w // merge, merge, 2).transpose(1, 2)
        places.append(blocks.reshape(-1, 2))
    return torch.cat(places)


def patch_rotary(
    places: Tensor, head_dim: int, dtype: torch.dtype, theta: float = ROPE_THETA
) -> tuple[Tensor, Tensor]:
    """cos and sin [P, head_dim] of the patches' rotary angles, in fp32 or wider.

    The first half of the angles depends on the row, the second half on the column.
    places  [P, 2], see `patch_places`
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=wide, device=places.device) / half
    angle = (places[..., None].to(wide) * (1.0 / theta**exponent)).flatten(1)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


class Projection(nn.Module):
    """The patch embedding.

    Checkpoints hold it as a 3-d convolution. Its stride equals its kernel, so it is one matrix
    product for each patch.
    """

    def __init__(self, config: Qwen2VisionConfig) -> None:
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

    def forward(self, pixels: Tensor) -> Tensor:
        """[P, D] of patches [P, patch_width]."""
        return F.linear(pixels.to(self.weight.dtype), self.weight.flatten(1))


class PatchEmbed(nn.Module):
    """The projection, under the name that checkpoints use."""

    def __init__(self, config: Qwen2VisionConfig) -> None:
        super().__init__()
        self.proj = Projection(config)


class Attention(nn.Module):
    """Self-attention inside groups of patches."""

    def __init__(self, config: Qwen2VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, groups: Groups) -> Tensor:
        """[P, D] of x [P, D].

        groups  which patches attend to one another. Attention is computed group by group, n groups
                of one size at once: a mask over all patches would take P * P numbers
        """
        qkv = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        q, k, v = qkv  # each [heads, P, head_dim]
        q = rotate(at_least_float32(q), cos, sin).to(x.dtype)
        k = rotate(at_least_float32(k), cos, sin).to(x.dtype)
        outputs: list[Tensor] = []
        first = 0
        for n, size in groups:
            part = slice(first, first + n * size)
            some_q, some_k, some_v = (
                each[:, part].unflatten(1, (n, size)).transpose(0, 1) for each in (q, k, v)
            )
            y = attention(some_q, some_k, some_v, None, False)  # [n, heads, size, head_dim]
            outputs.append(y.transpose(0, 1).flatten(1, 2))
            first += n * size
        return self.proj(torch.cat(outputs, 1).transpose(0, 1).reshape(len(x), -1))


class Block(nn.Module):
    """One layer: attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: Qwen2VisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.hidden_size, NORM_EPS)
        self.norm2 = LayerNorm(config.hidden_size, NORM_EPS)
        self.attn = Attention(config)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, groups: Groups) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, groups)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """One token of the decoder's width for each block of merge x merge patches.

    norm  the class of its norm
    """

    def __init__(self, config: Qwen2VisionConfig, norm: Callable[[int, float], nn.Module]) -> None:
        super().__init__()
        self.width = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = norm(config.hidden_size, NORM_EPS)
        self.mlp = nn.Sequential(
            Linear(self.width, self.width), nn.GELU(), Linear(self.width, config.output_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[P / merge^2, output_size] of x [P, D].

        The patches of a block are next to one another in x, so `view` concatenates them.
        """
        return self.mlp(self.ln_q(x).view(-1, self.width))


class Tower(Checkpointable):
    """Patch embedding, blocks and merger: the parts of both towers."""

    def __init__(
        self,
        config: Qwen2VisionConfig,
        block: Callable[[Qwen2VisionConfig], nn.Module],
        norm: Callable[[int, float], nn.Module],
    ) -> None:
        """block, norm: the classes of a layer and of the merger's norm."""
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(block(config) for _ in range(config.num_hidden_layers))
        self.merger = Merger(config, norm)

    def run_blocks(self, x: Tensor, places: Tensor, groups_of: Callable[[int], Groups]) -> Tensor:
        """[P, D] after every block, of x [P, D].

        places     [P, 2], row and column of each patch of x
        groups_of  a block's number -> its groups
        """
        cos, sin = patch_rotary(
            places.to(x.device), self.config.head_dim, x.dtype, self.config.rope_theta
        )
        for layer, block in enumerate(self.blocks):
            groups = groups_of(layer)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(
                    block, x, cos, sin, groups, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, cos, sin, groups)
        return x


class Qwen2VisionTower(Tower):
    """Qwen2-VL's: every block attends to the whole picture."""

    def __init__(self, config: Qwen2VisionConfig) -> None:
        super().__init__(config, Block, LayerNorm)

    def forward(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Token features of all pictures, one picture after the other.

        pixels   [P, patch_width], the pictures' patches in stored order
        grid     (h, w) of every picture in patches, multiples of the merge size; the products sum
                 to P
        returns  [P / merge^2, output_size]
        """
        places = patch_places(grid, self.config.spatial_merge_size)
        pictures = [(1, h * w) for h, w in grid]
        x = self.run_blocks(self.patch_embed.proj(pixels), places, lambda layer: pictures)
        return self.merger(x)
