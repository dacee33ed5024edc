"""Qwen2-VL without transformers, by hand: positions, picture sizes, order of patches, errors."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.data.picture_settings import PixelValues
from clear_ref.data.qwen_images import Qwen2VLImages, patches, smart_resize
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model.language import next_positions
from clear_ref.model.qwen2_vision import patch_places, patch_rotary
from clear_ref.model.qwen2_vl import Qwen2VLConfig
from tests.helpers.small_qwen2_vl import (
    IMAGE_TOKEN,
    QWEN2_VL_CONFIG,
    noise_patches,
    random_qwen2_vl,
)


@pytest.fixture
def model():
    """A small Qwen2-VL with random weights, in float64."""
    return random_qwen2_vl()


# Tokens of each row: text 1 to 9, image tokens, and 0 for padding. All worked out by hand below.
IDS = torch.tensor(
    [
        [1, *[IMAGE_TOKEN] * 6, 2, 3, IMAGE_TOKEN, 4],
        [0, 0, 0, 0, 0, 0, 5, *[IMAGE_TOKEN] * 3, 6],
        [0] * 8 + [7, 8, 9],
    ]
)
MASK = (IDS != 0).long()
GRID = torch.tensor([(1, 4, 6), (1, 2, 2), (1, 6, 2)])


def test_positions_are_those_worked_out_by_hand(model):
    """Row 0: text at 0; a picture of 2 x 3 tokens from 1, so rows 1 1 1 2 2 2 and columns
    1 2 3 1 2 3; text at 1 + max(2, 3) = 4, then 5; a picture of one token at 6 on all axes; text
    at 7. Row 1, padded on the left: text at 0; a picture of 3 x 1 tokens from 1; text at 1 + 3.
    """
    time, row, column = model.positions(IDS, MASK, GRID).tolist()
    assert time == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5, 6, 7],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 4],
        [0] * 8 + [0, 1, 2],
    ]
    assert row == [
        [0, 1, 1, 1, 2, 2, 2, 4, 5, 6, 7],
        [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        [0] * 8 + [0, 1, 2],
    ]
    assert column == [
        [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 4],
        [0] * 8 + [0, 1, 2],
    ]


def test_generated_text_follows_the_larger_side_of_a_last_picture(model):
    """A prompt that ends in its picture of 1 x 3 tokens from 1.

    The last token is at (1, 1, 3), generated tokens are at 4 and 5.
    """
    ids = torch.tensor([[1, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN]])
    positions = model.positions(ids, torch.ones_like(ids), torch.tensor([(1, 2, 6)]))
    assert positions[:, 0, -1].tolist() == [1, 1, 3]
    assert next_positions(positions, 2).tolist() == [[[4, 5]]] * 3


def test_padding_on_the_right_takes_no_position(model):
    ids = torch.tensor([[1, IMAGE_TOKEN, 2, 0, 0]])
    positions = model.positions(ids, (ids != 0).long(), torch.tensor([(1, 2, 2)]))
    assert positions.tolist() == [[[0, 1, 2, 0, 0]]] * 3


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (56, 84, (56, 84)),  # fits: kept
        (70, 98, (56, 112)),  # 2.5 and 3.5 blocks: half to even, down and up
        (42, 126, (56, 112)),  # 1.5 up, 4.5 down
        (28, 28, (56, 56)),  # 784 pixels, grown by 2
        (
            10,
            300,
            (28, 308),
        ),  # 0 blocks high: sqrt(3136 / 3000) = 1.0224 times 300 is 306.7, 10.95 blocks up to 11
        (
            600,
            300,
            (224, 112),
        ),  # shrunk by sqrt(180000 / 31360) = 2.3958: 250.4 and 125.2; 8.9 and 4.5 blocks, down
    ],
)
def test_sizes_after_the_resize_are_those_worked_out_by_hand(height, width, expected):
    """Blocks of 28, between 3136 and 31360 pixels."""
    assert smart_resize(height, width, 28, 3136, 31360) == expected


def test_a_picture_of_extreme_shape_is_an_error():
    assert smart_resize(10, 2000, 28, 3136, 10**6)
    with pytest.raises(
        UserError, match="2001 x 10 pixels; expected sides that differ by at most 200 times"
    ):
        smart_resize(10, 2001, 28, 3136, 10**6)


def test_patches_stand_block_by_block_and_their_values_by_channel_time_row_and_column():
    """Each value of the picture is channel * 10000 + row * 100 + column.

    4 x 6 patches of 2 x 2 pixels.
    """
    C, H, W = 3, 8, 12
    channel, row, column = np.meshgrid(np.arange(C), np.arange(H), np.arange(W), indexing="ij")
    found = patches(
        (channel * 10000 + row * 100 + column).astype(np.float32), patch=2, merge=2, temporal=2
    )
    order = [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
        (0, 4),
        (0, 5),
        (1, 4),
        (1, 5),
    ]
    order += [(row + 2, column) for row, column in order]
    expected = [
        [
            c * 10000 + (2 * row + y) * 100 + 2 * column + x
            for c in range(C)
            for time in range(2)
            for y in range(2)
            for x in range(2)
        ]
        for row, column in order
    ]
    assert found.tolist() == expected
    assert patch_places([(4, 6)], 2).tolist() == [
        list(place) for place in order
    ]  # the tower's places are in the same order


def test_a_plain_picture_is_rescaled_normalised_and_counted():
    """40 x 92 pixels with blocks of 4: the size is kept.

    (51 / 255 - 0.5) / 0.25 = -1.2, (255 / 255 - 0) / 0.5 = 2, 0 stays 0.
    """
    values = PixelValues(1 / 255, (0.5, 0.0, 0.0), (0.25, 0.5, 1.0))
    images = Qwen2VLImages(2, 2, 2, 1, 10**6, values)
    picture = images(Image.new("RGB", (40, 92), (51, 255, 0)))
    assert picture.grid == (1, 46, 20) and picture.n_tokens == 23 * 10
    assert (
        picture.pixels.shape == (46 * 20, 3 * 2 * 2 * 2) and picture.pixels.dtype == torch.float32
    )
    assert torch.allclose(
        picture.pixels[0], torch.tensor([-1.2] * 8 + [2.0] * 8 + [0.0] * 8), rtol=0, atol=1e-6
    )
    assert (picture.pixels == picture.pixels[0]).all()


def test_a_lower_bound_of_pixels_gives_fewer_tokens():
    images = Qwen2VLImages(14, 2, 2, 3136, 10**6, PixelValues(1 / 255, (0.5,) * 3, (0.5,) * 3))
    few = dataclasses.replace(images, max_pixels=28 * 28 * 16)
    picture = Image.new("RGB", (280, 280))
    assert images(picture).n_tokens == 100 and few(picture).n_tokens == 16


def test_half_of_the_angles_turn_with_the_row_and_half_with_the_column():
    """A head of 8: two frequencies an axis, 1 and 1 / 10000 ** (2 / 4) = 0.01."""
    cos, sin = patch_rotary(torch.tensor([(3, 5)]), 8, torch.float64)
    angles = torch.tensor([[3, 0.03, 5, 0.05, 3, 0.03, 5, 0.05]], dtype=torch.float64)
    assert torch.allclose(cos, angles.cos(), rtol=0, atol=1e-15) and torch.allclose(
        sin, angles.sin(), rtol=0, atol=1e-15
    )


def test_queries_of_bf16_are_rotated_in_fp32_and_rounded_once(model, monkeypatch):
    """Exact: complex multiplication in float64.

    A head of 8 has the pairs (0, 4), (1, 5), (2, 6), (3, 7). Half a bf16 step is 2 ** -8 of the
    number; fp32 angles up to 10 add some 1e-6 of the pair's length.
    """
    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, **more: seen.append(q) or attention(q, k, v, **more),
    )
    layer, grid = model.visual.blocks[0].attn.bfloat16(), [(4, 10)]
    x = torch.randn(40, 16, generator=torch_generator(1, "x")).bfloat16()
    layer(x, *patch_rotary(patch_places(grid, 2), 8, torch.bfloat16), [(1, 40)])
    plain = layer.qkv(x)[:, :16].detach().double().view(40, 2, 8)
    row, column = patch_places(grid, 2).double().T[:, :, None]
    angle = torch.stack((row, row * 0.01, column, column * 0.01), -1)
    turned = torch.complex(plain[..., :4], plain[..., 4:]) * torch.polar(
        torch.ones_like(angle), angle
    )
    found = torch.complex(*seen[0][0].detach().double().transpose(0, 1).split(4, -1))
    for part in ("real", "imag"):
        exact, off = getattr(turned, part), (getattr(found, part) - getattr(turned, part)).abs()
        assert bool((off <= 2**-8 * exact.abs() + 2e-6 * turned.abs()).all())


def test_a_picture_attends_only_to_itself(model):
    """Features of three pictures in one sequence are those of each picture alone.

    1e-12 is float64 rounding of sums of hundreds of terms.
    """
    sizes = [(4, 2), (2, 6), (4, 4)]
    drawn, _ = noise_patches(*sizes)
    together = model.visual(drawn, sizes)
    alone = [
        model.visual(part, [size])
        for part, size in zip(drawn.split([h * w for h, w in sizes]), sizes, strict=True)
    ]
    assert together.shape == ((8 + 12 + 16) // 4, 32)
    assert float((together - torch.cat(alone)).detach().abs().max()) < 1e-12


def test_a_block_of_patches_becomes_one_token_in_the_order_of_the_picture(model):
    """Changing a patch of the second block changes no other block's input to the merger.

    Without layers, it changes no other block's token.
    """
    model.visual.blocks = torch.nn.ModuleList()
    drawn, _ = noise_patches((4, 4))
    changed = drawn.clone()
    changed[patch_places([(4, 4)], 2).tolist().index([1, 3])] += (
        1  # row 1, column 3: block (0, 1), token 1
    )
    difference = (model.visual(drawn, [(4, 4)]) - model.visual(changed, [(4, 4)])).abs().amax(1)
    assert (difference > 0).tolist() == [False, True, False, False]


def test_other_rows_and_padding_never_change_a_row(model):
    """Each row of a batch gives the hidden states of the row alone, without its padding.

    1e-12 is float64 rounding.
    """
    drawn, _ = noise_patches((4, 6), (2, 2), (6, 2))
    together = model.hidden(IDS, MASK, drawn, GRID).detach()
    for row, (first, last), (start, stop) in (
        (0, (0, 28), (0, 2)),
        (1, (28, 40), (2, 3)),
        (2, (40, 40), (3, 3)),
    ):
        ids = IDS[row : row + 1, MASK[row].bool()]
        part = (drawn[first:last], GRID[start:stop]) if stop > start else (None, None)
        alone = model.hidden(ids, torch.ones_like(ids), *part).detach()
        assert float((together[row, MASK[row].bool()] - alone[0]).abs().max()) < 1e-12


def test_checkpointing_never_changes_a_gradient(model):
    drawn, _ = noise_patches((4, 6), (2, 2), (6, 2))
    found = []
    for checkpointing in (False, True):
        model.visual.checkpointing = checkpointing
        model.zero_grad()
        model.hidden(IDS, MASK, drawn, GRID).square().sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(bool(gradient.any()) for gradient in found[0].values())


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda ids, drawn, grid: (ids, drawn[1:], grid),
            r"pixel_values are \[39, 24\]; expected \[40, 24\]",
        ),
        (
            lambda ids, drawn, grid: (ids, drawn, grid[:2]),
            r"pixel_values are \[40, 24\]; expected \[28, 24\]",
        ),
        (
            lambda ids, drawn, grid: (ids, None, None),
            "input_ids hold 10 image tokens, the pictures give 0 features",
        ),
        (
            lambda ids, drawn, grid: (ids.masked_fill(ids == 4, IMAGE_TOKEN), drawn, grid),
            "hold 11 image tokens, the pictures give 10",
        ),
        (
            lambda ids, drawn, grid: (ids, drawn, grid[[1, 0, 2]]),
            "row 0: the picture at token 2 should be 6 consecutive image tokens",
        ),
        (
            lambda ids, drawn, grid: (ids, drawn, grid[:, 1:]),
            r"image_grid_thw is \[3, 2\]; expected \[pictures, 3\]",
        ),
        (
            lambda ids, drawn, grid: (ids, drawn, grid + torch.tensor([1, 0, 0])),
            r"holds \[2, 4, 6\]; expected 1 and two multiples",
        ),
        (
            lambda ids, drawn, grid: (ids, drawn, grid + 1 - torch.tensor([1, 0, 0])),
            r"holds \[1, 5, 7\]",
        ),
    ],
)
def test_pictures_and_tokens_that_disagree_are_errors_that_say_how(model, change, message):
    drawn, _ = noise_patches((4, 6), (2, 2), (6, 2))
    ids, drawn, grid = change(IDS, drawn, GRID)
    with pytest.raises(ShapeError, match=message):
        model.hidden(ids, MASK, drawn, grid)


def test_a_video_token_is_an_error(model):
    with pytest.raises(UserError, match="video token 31; expected pictures only"):
        model.embed(torch.tensor([[1, 31]]))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"vision_config": {"hidden_size": 64, "embed_dim": 16, "num_heads": 2}},
            "hidden_size is 64; expected the decoder's, 32",
        ),
        (
            {"vision_config": {"hidden_size": 32, "embed_dim": 12, "num_heads": 2}},
            "embed_dim is 12; expected a multiple of 4",
        ),
        (
            {"vision_config": {"hidden_size": 32, "hidden_act": "gelu"}},
            "hidden_act is 'gelu'; expected 'quick_gelu'",
        ),
        (
            {"vision_config": {"hidden_size": 32, "patch_size": [14, 14]}},
            r"patch_size is \[14, 14\]; expected a whole number",
        ),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
            "expected three numbers that add up to 8",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "is 'dynamic'; expected default"),
        ({"image_token_id": 40}, r"image_token_id is 40; expected an id in \[0, 40\)"),
    ],
)
def test_a_config_that_is_not_computed_is_an_error(change, message):
    with pytest.raises(UserError, match=message):
        Qwen2VLConfig.from_json({**QWEN2_VL_CONFIG, **change}, "config.json")


@pytest.mark.parametrize(
    "settings, low, high",
    [
        ({"min_pixels": 3136, "max_pixels": 50176}, 3136, 50176),
        ({}, 3136, 1003520),
        ({"size": {"shortest_edge": 784, "longest_edge": 7840}}, 784, 7840),
        ({"size": {"shortest_edge": 784, "longest_edge": 7840}, "max_pixels": 78400}, 784, 78400),
    ],
)
def test_bounds_of_pixels_are_read_in_both_spellings(tmp_path, settings, low, high):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    images = Qwen2VLImages.from_directory(tmp_path)
    assert (images.min_pixels, images.max_pixels, images.patch_size, images.merge_size) == (
        low,
        high,
        14,
        2,
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"do_resize": "no"}, "do_resize is 'no'; expected true or false"),
        ({"do_convert_rgb": False}, "do_convert_rgb is False"),
        ({"resample": "bicubic"}, "resample is 'bicubic'; expected the number of a Pillow filter"),
        (
            {"size": {"shortest_edge": 784}},
            r"max_pixels \(or size.longest_edge\) is None; expected a positive",
        ),
        ({"size": 224}, "size is 224; expected shortest_edge and longest_edge"),
        ({"patch_size": 0}, "patch_size is 0"),
        (
            {"min_pixels": 10**6, "max_pixels": 10**5},
            "min_pixels is 1000000, above max_pixels 100000",
        ),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0.5, 0.5\]; expected three numbers"),
        ({"image_std": [0, 0, 0]}, r"image_std is \[0, 0, 0\]; expected three numbers above 0"),
    ],
)
def test_settings_that_are_not_computed_are_errors(tmp_path, settings, message):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        Qwen2VLImages.from_directory(tmp_path)
