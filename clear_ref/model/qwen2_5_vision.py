"""Qwen2.5-VL's vision tower: most blocks attend inside windows, a few to the whole picture.

Patches, rotary positions, attention and merger are those of Qwen2-VL's tower; norms are RMSNorm and
the feed-forward network is gated.
source  Bai et al. 2025 (Qwen2.5-VL) 2.1.1
equals  transformers' Qwen2_5_VisionTransformerPretrainedModel within fp32 rounding
"""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from .language import MLP, RMSNorm
from .qwen2_vision import (
    NORM_EPS,
    Attention,
    Grid,
    Groups,
    Qwen2VisionConfig,
    Tower,
    patch_places,
)


@dataclass(frozen=True)
class Qwen25VisionConfig(Qwen2VisionConfig):
    """The sizes of a tower.

    window       side of a window in tokens (a token is spatial_merge_size^2 patches)
    full_blocks  the numbers of the blocks that attend to the whole picture (0-based)
    """

    window: int
    full_blocks: frozenset[int]


def window_order(grid: Grid, window: int, merge: int) -> tuple[Tensor, Groups]:
    """The tokens of all pictures window by window, and the groups of patches of the windows.

    A picture is cut into windows of window x window tokens, row by row; those at its right and
    lower border are smaller where its sides are no multiples. Larger windows stand first, so that
    equal ones are computed together; transformers keeps them row by row, which changes no result.
    grid     (rows, columns) in patches of each picture
    returns  [P / merge^2] token numbers, a window's tokens row by row; the windows
    """
    order: list[Tensor] = []
    n_before = 0  # tokens of earlier pictures
    for h, w in grid:
        high = h // merge
        wide = w // merge
        tokens = n_before + torch.arange(high * wide).view(high, wide)
        windows = [
            part.flatten() for rows in tokens.split(window) for part in rows.split(window, 1)
        ]
        order += sorted(windows, key=len, reverse=True)
        n_before += high * wide
    sizes = [len(tokens) * merge**2 for tokens in order]
    groups = [(len(list(equal)), size) for size, equal in groupby(sizes)]
    return torch.cat(order), groups


class Block(nn.Module):
    """One layer: attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: Qwen2VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, NORM_EPS)
        self.norm2 = RMSNorm(config.hidden_size, NORM_EPS)
        self.attn = Attention(config)
        self.mlp = MLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, groups: Groups) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, groups)
        return x + self.mlp(self.norm2(x))


class Qwen25VisionTower(Tower):
    """Patch embedding, blocks and merger."""

    def __init__(self, config: Qwen25VisionConfig) -> None:
        super().__init__(config, Block, RMSNorm)
        self.window = config.window
        self.full_blocks = config.full_blocks

    def forward(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Token features of all pictures, one picture after the other.

        The patches are put into the windows' order once, and the tokens back behind the merger.
        pixels   [P, patch_width], the pictures' patches in stored order
        grid     (h, w) of every picture in patches, multiples of the merge size; the products sum
                 to P
        returns  [P / merge^2, output_size]
        """
        merge = self.config.spatial_merge_size
        order, windows = window_order(grid, self.window, merge)
        patches = (order[:, None] * merge**2 + torch.arange(merge**2)).flatten()
        pictures = [(1, h * w) for h, w in grid]
        x = self.run_blocks(
            self.patch_embed.proj(pixels)[patches.to(pixels.device)],
            patch_places(grid, merge)[patches],
            lambda layer: pictures if layer in self.full_blocks else windows,
        )
        return self.merger(x)[order.argsort().to(x.device)]
