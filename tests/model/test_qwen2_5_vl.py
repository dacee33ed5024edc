"""Qwen2.5-VL without transformers: windows and positions worked out by hand, its tower against a
slow computation with one mask over all patches.
"""

import math

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.data.batches import Batch
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model import lora
from clear_ref.model.generate import Generation, greedy
from clear_ref.model.language import next_positions
from clear_ref.model.qwen2_5_vision import window_order
from clear_ref.model.qwen2_5_vl import Qwen25VLConfig
from clear_ref.model.qwen2_vision import patch_places
from tests.helpers.small_qwen2_vl import (
    IMAGE_TOKEN,
    QWEN2_5_VL_CONFIG,
    noise_patches,
    random_qwen2_5_vl,
)

IDS = torch.tensor(
    [
        [1, *[IMAGE_TOKEN] * 15, 2, 3, IMAGE_TOKEN, 4],
        [0] * 15 + [5, *[IMAGE_TOKEN] * 3, 6],
        [0] * 17 + [7, 8, 9],
    ]
)
MASK = (IDS != 0).long()
SIZES = [(6, 10), (2, 2), (6, 2)]  # in patches: 3 x 5 tokens, 1, 3 x 1


@pytest.fixture
def model():
    """A small Qwen2.5-VL with random weights, in float64."""
    return random_qwen2_5_vl()


@pytest.mark.parametrize(
    "grid, sizes",
    [
        ([(16, 20)], [64, 64, 64, 64, 32, 32]),
        ([(10, 10)], [64, 16, 16, 4]),
        ([(16, 8)], [64, 64]),  # sides that are multiples of a window: no empty window
        ([(2, 2)], [4]),
        ([(10, 10), (8, 8)], [64, 16, 16, 4, 64]),
    ],
)
def test_windows_are_those_worked_out_by_hand(grid, sizes):
    """112 pixels are 8 patches of 14, so 4 tokens of 2 x 2 patches. 16 x 20 patches are 8 x 10
    tokens: two rows of windows of 4 x 4, 4 x 4 and 4 x 2 tokens. 10 x 10 patches are 5 x 5 tokens:
    4 x 4, 4 x 1, 1 x 4 and 1 x 1. In each picture larger windows stand first.
    """
    order, groups = window_order(grid, 4, 2)
    assert [size for n, size in groups for _ in range(n)] == sizes
    assert sorted(order.tolist()) == list(range(sum(sizes) // 4))


def test_tokens_stand_window_by_window_and_no_window_leaves_its_picture():
    """3 x 5 tokens, windows of 2 x 2, then a picture of 1 x 3 tokens that begins at 15.

    The tokens are 0 1 2 3 4 / 5 6 7 8 9 / 10 11 12 13 14. Equal windows in a row form one group.
    """
    order, groups = window_order([(6, 10), (2, 6)], 2, 2)
    assert order.tolist() == [
        *(0, 1, 5, 6),
        *(2, 3, 7, 8),
        *(4, 9),
        *(10, 11),
        *(12, 13),
        14,
        *(15, 16),
        17,
    ]
    assert groups == [(2, 16), (3, 8), (1, 4), (1, 8), (1, 4)]


def test_positions_are_those_worked_out_by_hand(model):
    """Three text tokens, a picture of 2 x 3 tokens, two text tokens.

    The picture starts at 3; the text after it at 3 + max(2, 3) = 6. After 11 tokens the next
    position is 8: 3 less than its number. Padding has position 0.
    """
    ids = torch.tensor([[0, 0, 1, 2, 3, *[IMAGE_TOKEN] * 6, 4, 5]])
    positions = model.positions(ids, (ids != 0).long(), torch.tensor([(1, 4, 6)]))
    assert positions[:, 0].tolist() == [
        [0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 0, 0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7],
        [0, 0, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7],
    ]
    assert next_positions(positions, 1).tolist() == [[[8]]] * 3


def window_of(place, sizes):
    """(picture, row, column) of the window of a patch; `place`: its number in stored order."""
    picture = 0
    while place >= math.prod(sizes[picture]):
        place -= math.prod(sizes[picture])
        picture += 1
    row, column = patch_places([sizes[picture]], 2)[place].tolist()
    return picture, row // 4, column // 4


def slow_tower(tower, pixels, sizes):
    """The tower's output by one mask over all patches, in stored order.

    Norm, rotation, attention and the gated network are written out.
    """

    def norm(layer, x):
        return layer.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def turned(x):
        """Each pair of a head of 8: two frequencies for the row, two for the column."""
        row, column = places.double().T[:, :, None]
        angle = torch.stack((row, row * 0.01, column, column * 0.01), -1)
        pairs = torch.complex(x[..., :4], x[..., 4:])
        pairs = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((pairs.real, pairs.imag), -1)

    windows = [window_of(place, sizes) for place in range(len(pixels))]
    places = torch.cat([patch_places([size], 2) for size in sizes])
    x = pixels @ tower.patch_embed.proj.weight.flatten(1).T
    for number, block in enumerate(tower.blocks):
        n_same = 1 if number in tower.full_blocks else 3  # same picture; same window
        allowed = torch.tensor(
            [[one[:n_same] == other[:n_same] for other in windows] for one in windows]
        )
        qkv = block.attn.qkv(norm(block.norm1, x)).view(len(x), 3, 2, 8)
        q, k, v = turned(qkv[:, 0]), turned(qkv[:, 1]), qkv[:, 2]
        scores = torch.einsum("ihd,jhd->hij", q, k) / 8**0.5
        share = scores.masked_fill(~allowed, -math.inf).softmax(-1)
        x = x + block.attn.proj(torch.einsum("hij,jhd->ihd", share, v).flatten(1))
        y = norm(block.norm2, x)
        gate = block.mlp.gate_proj(y)
        x = x + block.mlp.down_proj(gate * torch.sigmoid(gate) * block.mlp.up_proj(y))
    merged = norm(tower.merger.ln_q, x).view(-1, 64)
    inner = tower.merger.mlp[0](merged)
    return tower.merger.mlp[2](inner * 0.5 * (1 + torch.erf(inner / 2**0.5)))


@pytest.mark.parametrize("full_blocks", [[1], [], [0, 1, 2], [0, 7]])
@pytest.mark.parametrize("sizes", [SIZES, [(8, 8)], [(10, 6), (8, 8), (4, 4), (4, 4)]])
def test_the_tower_is_that_of_a_mask_over_all_patches(sizes, full_blocks):
    """Whole windows, windows at borders, several pictures. A full block beyond the last is none.

    1e-12 is float64 rounding of sums of hundreds of terms.
    """
    tower = random_qwen2_5_vl(fullatt_block_indexes=full_blocks).visual
    pixels, _ = noise_patches(*sizes)
    with torch.no_grad():
        found = tower(pixels, sizes)
        expected = slow_tower(tower, pixels, sizes)
    assert float((found - expected).abs().max()) < 1e-12 < float(expected.abs().max())


def test_no_attention_is_larger_than_its_window_or_picture(monkeypatch):
    """The largest product of queries and keys has one picture's patches squared, without a mask."""
    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def record(q, k, v, **options):
        seen.append((tuple(q.shape), tuple(k.shape), options.get("attn_mask")))
        return attention(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    sizes = [(8, 8), (8, 8)]
    tower = random_qwen2_5_vl().visual
    tower(noise_patches(*sizes)[0], sizes)
    windows = [((8, 2, 16, 8), (8, 2, 16, 8), None)]
    pictures = [((1, 2, 64, 8), (1, 2, 64, 8), None)] * 2
    assert seen == windows + pictures + windows


def test_other_rows_and_padding_never_change_a_row(model):
    """Each row of a batch gives the hidden states of the row alone, without its padding."""
    pixels, grid = noise_patches(*SIZES)
    together = model.hidden(IDS, MASK, pixels, grid).detach()
    for row, (first, last), (start, stop) in (
        (0, (0, 64), (0, 2)),
        (1, (64, 76), (2, 3)),
        (2, (76, 76), (3, 3)),
    ):
        ids = IDS[row : row + 1, MASK[row].bool()]
        part = (pixels[first:last], grid[start:stop]) if stop > start else (None, None)
        alone = model.hidden(ids, torch.ones_like(ids), *part).detach()
        assert float((together[row, MASK[row].bool()] - alone[0]).abs().max()) < 1e-12


def test_checkpointing_never_changes_a_gradient(model):
    pixels, grid = noise_patches(*SIZES)
    found = []
    for checkpointing in (False, True):
        model.visual.checkpointing = checkpointing
        model.decoder.checkpointing = checkpointing
        model.zero_grad()
        model.hidden(IDS, MASK, pixels, grid).square().sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(bool(gradient.any()) for gradient in found[0].values())


def test_the_gradient_of_every_weight_is_a_finite_difference(model):
    """float64, along one random direction for each tensor of the tower.

    A central difference of step 1e-5 is off by about 1e-10 of the third derivative.
    """
    pixels, _ = noise_patches((6, 6))

    def value():
        return model.visual(pixels, [(6, 6)]).square().mean()

    value().backward()
    for name, tensor in model.visual.named_parameters():
        direction = torch.randn(tensor.shape, generator=torch_generator(2, name)).double()
        sides = []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                tensor += step * direction
                sides.append(float(value()))
                tensor -= step * direction
        expected = (sides[0] - sides[1]) / 2e-5
        assert float((tensor.grad * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_generation_with_the_cache_is_a_whole_forward_for_each_token(model):
    """Greedy ids of every row, 6 tokens."""
    pixels, grid = noise_patches(*SIZES)
    batch = Batch(IDS, MASK, IDS, pixels, grid)
    found = greedy(model, batch, 6, Generation(frozenset()), 0)
    ids, mask = IDS, MASK
    for _ in range(6):
        token = model.head(model.hidden(ids, mask, pixels, grid))[:, -1].argmax(-1)
        ids = torch.cat((ids, token[:, None]), 1)
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
    assert found.tolist() == ids[:, -6:].tolist()


def test_adapters_of_all_layers_reach_the_tower_and_those_of_language_do_not(model):
    """A block has five linear layers, a decoder layer seven, the merger two; the head has none."""
    blocks = {"attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    every = lora.choose(model, "all")
    assert {name for name in every if name.startswith("visual.")} == {
        *(f"visual.blocks.{number}.{layer}" for number in range(3) for layer in blocks),
        *("visual.merger.mlp.0", "visual.merger.mlp.2"),
    }
    assert len(every) == 3 * 5 + 2 + 2 * 7
    language = lora.choose(model, "language")
    assert len(language) == 14 and not any(name.startswith("visual.") for name in language)
    gated = lora.choose(model, ["gate_proj"])
    assert len(gated) == 5 and len(lora.choose(model, ["q_proj"])) == 2


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("vision", {"window_size": 3}, "window_size is 3; expected at least the side of a token"),
        ("vision", {"fullatt_block_indexes": 7}, "fullatt_block_indexes is 7; expected a list"),
        ("vision", {"fullatt_block_indexes": [True]}, r"is \[True\]; expected a list of numbers"),
        ("vision", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu' or 'swish'"),
        ("vision", {"hidden_size": 20}, "vision hidden_size is 20; expected a multiple of 4 times"),
        ("vision", {"out_hidden_size": 16}, "out_hidden_size is 16; expected the decoder's, 32"),
        ("vision", {"head_dim": 4}, "head_dim is 4; expected 8, the width divided by"),
        ("vision", {"patch_size": [2, 2]}, r"patch_size is \[2, 2\]; expected a whole number"),
        ("vision", {"depth": 0}, "depth is 0; expected a whole number above 0"),
        ("vision", {"rope_parameters": {"rope_type": "linear"}}, "rope_type default or axial"),
        ("vision", {"rope_theta": 0}, "rope_theta is 0; expected a number above 0"),
        (
            "top",
            {"quantization_config": {"bits": 4}},
            "quantization_config is .*; expected None: quant",
        ),
        (
            "top",
            {"per_layer_config": {"0": {}}},
            "per_layer_config is .*; expected None: layers",
        ),
        ("top", {"text_config": []}, r"text_config is \[\]; expected an object"),
        ("top", {"image_token_id": 40}, "image_token_id is 40; expected an id in"),
        ("text", {"head_dim": 4}, "head_dim is 4; expected 16, hidden_size"),
        ("text", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu' or 'swish'"),
    ],
)
def test_a_structure_that_is_not_computed_is_an_error(part, change, message):
    config = dict(QWEN2_5_VL_CONFIG)
    if part == "vision":
        config["vision_config"] = {**config["vision_config"], **change}
    elif part == "text":
        config["text_config"] = {**config, **change}
    else:
        config |= change
    with pytest.raises(UserError, match=message):
        Qwen25VLConfig.from_json(config, "config.json")
