"""Causes of wrong picture features, and of features that are placed wrongly in the embeddings."""

from collections.abc import Iterator

import torch

from clear_ref.model.llava import Llava
from clear_ref.model.qwen2_5_vision import Qwen25VisionTower, window_order
from clear_ref.model.qwen2_vision import Grid, Qwen2VisionTower, Tower, patch_places
from clear_ref.model.qwen2_vl import Qwen2VL
from clear_ref.model.vlm import VLM

Candidates = Iterator[tuple[str, str, torch.Tensor]]


def wrong_features(vlm: VLM, pixels: torch.Tensor, grid: torch.Tensor | None) -> Candidates:
    """(name of the cause, detail, features [n, D]) of every known wrong feature."""
    model = vlm.model
    if isinstance(model, Llava):
        yield from _of_llava(model, pixels)
    elif isinstance(model, Qwen2VL) and grid is not None:
        sizes = model.picture_sizes(grid)
        ours = model.visual(pixels, sizes)
        tokens = [(h // model.merge, w // model.merge) for h, w in sizes]
        yield from _in_other_order(ours, tokens)
        yield from _of_tower(model, pixels, sizes)


def _of_llava(model: Llava, pixels: torch.Tensor) -> Candidates:
    tower = model.vision_tower.vision_model
    project = model.multi_modal_projector
    n_layers = len(tower.encoder.layers)
    for layer in range(n_layers + 1):
        if layer != model.feature_layer % (n_layers + 1):
            hidden = tower(pixels, layer)[:, 1:]
            detail = f"layer {layer} of {n_layers}, ours {model.feature_layer % (n_layers + 1)}"
            yield "other_feature_layer", detail, project(hidden).flatten(0, 1)
    hidden = tower(pixels, model.feature_layer)
    normed = tower.post_layernorm(tower(pixels, -1))[:, 1:]
    detail = "the last layer, with post_layernorm"
    yield "other_feature_layer", detail, project(normed).flatten(0, 1)
    yield "class_token_for_last_patch", "", project(hidden[:, :-1]).flatten(0, 1)
    side = round(model.n_image_tokens**0.5)
    ours = project(hidden[:, 1:]).flatten(0, 1)
    yield from _in_other_order(ours, [(side, side)] * len(pixels))


def _in_other_order(ours: torch.Tensor, sizes: Grid) -> Candidates:
    """Features of pictures of (rows, columns) tokens: pictures moved; rows and columns swapped."""
    pictures = list(ours.split([rows * columns for rows, columns in sizes]))
    for n in range(1, len(pictures)):
        detail = f"pictures are moved by {n}"
        yield "other_feature_order", detail, torch.cat(pictures[n:] + pictures[:n])
    if len(pictures) > 2:
        yield "other_feature_order", "pictures are in reverse order", torch.cat(pictures[::-1])
    swapped = [
        part.view(*size, -1).transpose(0, 1).flatten(0, 1)
        for part, size in zip(pictures, sizes, strict=True)
    ]
    yield "features_transposed", "", torch.cat(swapped)


def _of_tower(model: Qwen2VL, pixels: torch.Tensor, sizes: Grid) -> Candidates:
    """Features of a tower with wrong positions or wrong groups of patches."""
    tower = model.visual
    assert isinstance(tower, Tower)
    merge = model.merge
    places = patch_places(sizes, merge)
    rows = torch.cat([torch.cartesian_prod(torch.arange(h), torch.arange(w)) for h, w in sizes])
    for name, wrong in (
        ("patch_positions_row_by_row", rows),
        ("patch_axes_swapped", places.flip(1)),
        ("patches_without_positions", torch.zeros_like(places)),
    ):
        yield name, "", _run(tower, pixels, sizes, places=wrong)
    yield "pictures_see_each_other", "", _run(tower, pixels, sizes, full=[(1, len(places))])
    if isinstance(tower, Qwen25VisionTower):
        every = frozenset(range(len(tower.blocks)))
        yield "windows_ignored", "", _run(tower, pixels, sizes, full_blocks=every)
        yield "full_blocks_ignored", "", _run(tower, pixels, sizes, full_blocks=frozenset())
        yield "features_in_window_order", "", _run(tower, pixels, sizes, undo=False)


def _run(
    tower: Tower,
    pixels: torch.Tensor,
    sizes: Grid,
    places: torch.Tensor | None = None,
    full: list[tuple[int, int]] | None = None,
    full_blocks: frozenset[int] | None = None,
    undo: bool = True,
) -> torch.Tensor:
    """[n, D] features of a tower, with its rules changed.

    places  of the patches in stored order; full: the groups of blocks that see whole pictures
    full_blocks, undo  Qwen2.5-VL's: the numbers of these blocks; put tokens back into order
    """
    merge = tower.config.spatial_merge_size
    if places is None:
        places = patch_places(sizes, merge)
    pictures = full or [(1, h * w) for h, w in sizes]
    x = tower.patch_embed.proj(pixels)
    if isinstance(tower, Qwen2VisionTower):
        return tower.merger(tower.run_blocks(x, places, lambda layer: pictures))
    assert isinstance(tower, Qwen25VisionTower)
    blocks = tower.full_blocks if full_blocks is None else full_blocks
    order, windows = window_order(sizes, tower.window, merge)
    if not undo:  # the reference's order of windows: row by row, whatever their size
        order = torch.cat(_windows_row_by_row(sizes, tower.window, merge))
        windows = [
            (1, len(part) * merge**2) for part in _windows_row_by_row(sizes, tower.window, merge)
        ]
    patches = (order[:, None] * merge**2 + torch.arange(merge**2)).flatten()
    x = tower.run_blocks(
        x[patches.to(x.device)],
        places[patches],
        lambda layer: pictures if layer in blocks else windows,
    )
    features = tower.merger(x)
    return features[order.argsort().to(x.device)] if undo else features


def _windows_row_by_row(sizes: Grid, window: int, merge: int) -> list[torch.Tensor]:
    """The token numbers of each window, windows row by row."""
    windows = []
    n_before = 0
    for h, w in sizes:
        rows, columns = h // merge, w // merge
        tokens = n_before + torch.arange(rows * columns).view(rows, columns)
        windows += [
            part.flatten() for band in tokens.split(window) for part in band.split(window, 1)
        ]
        n_before += rows * columns
    return windows


def wrong_embeddings(
    plain: torch.Tensor, is_image: torch.Tensor, features: torch.Tensor, sizes: list[int]
) -> Candidates:
    """(name of the cause, detail, embeddings [B, T, D]) of every known wrong placement.

    plain     [B, T, D] token embeddings; is_image [B, T] bool
    features  [n, D]; sizes: the number of tokens of each picture
    """
    yield "features_not_placed", "", plain
    where = is_image[..., None].expand_as(plain)
    placed = torch.zeros_like(plain).masked_scatter(where, features)
    yield "features_added", "", plain + placed
    for by in (1, -1):
        detail = f"by {by:+} token"
        there = is_image.roll(by, 1)
        wrong = plain.masked_scatter(there[..., None].expand_as(plain), features)
        yield "features_shifted", detail, wrong
    pictures = list(features.split(sizes))
    for n in range(1, len(pictures)):
        detail = f"pictures are moved by {n}"
        moved = torch.cat(pictures[n:] + pictures[:n])
        yield "features_of_other_pictures", detail, plain.masked_scatter(where, moved)
