"""Candidates after a shared prompt, on every kind of decoder: each nll is that of one whole
forward.

The reference is torch's cross-entropy. float64, random weights; prompts of different lengths in one
batch, answers that replace the prompt's last tokens, windows shorter than prompt and answer,
pictures of different sizes.
"""

import pytest
import torch
import torch.nn.functional as F

from clear_ref.data.batches import Batch
from clear_ref.evaluation import likelihood
from clear_ref.evaluation.likelihood import continuation_nll, neighbour_batches
from clear_ref.model.base_model import CausalLM
from clear_ref.model.families import FAMILIES
from clear_ref.model.generate import prefill
from clear_ref.model.language_config import language_config
from tests.helpers.small_decoders import DECODERS, TEXT, drawn, text_prompts
from tests.helpers.small_qwen2_vl import (
    IMAGE_TOKEN,
    QWEN2_5_VL_CONFIG,
    QWEN2_VL_CONFIG,
    noise_patches,
)

# Answers of each prompt: (how many of its last tokens the answer replaces, the answer's tokens).
PIECES = [
    [(0, [5, 6, 7]), (2, [8, 9, 10, 11]), (1, [12, 13])],
    [(0, [5]), (0, [14, 15, 16, 17, 18, 19])],
    [(1, [20, 21, 22])],
]


def expected(vlm, prompts, row, merged, own, pixel_values=None, grid=None):
    """One forward of the row's prompt, without its padding and its last `merged` tokens, and of
    `own`.

    The first `merged` tokens of `own` are not counted.
    """
    kept = prompts.input_ids[row][prompts.attention_mask[row].bool()].tolist()
    kept = kept[: len(kept) - merged]
    ids = torch.tensor([kept + own])
    hidden = vlm.model.hidden(ids, torch.ones_like(ids), pixel_values, grid)
    first = len(kept) + merged
    return float(
        F.cross_entropy(vlm.head(hidden)[0, first - 1 : -1], ids[0, first:], reduction="sum")
    ), len(own) - merged


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 512])
@pytest.mark.parametrize("name", DECODERS)
def test_text_decoders(name, most, monkeypatch):
    """most: tokens of candidates in one batch; 1 computes every prompt's alone."""
    monkeypatch.setattr(
        likelihood, "neighbour_batches", lambda widths, back: neighbour_batches(widths, back, most)
    )
    kind, more = DECODERS[name]
    vlm, prompts = (
        drawn(CausalLM(language_config(TEXT | more, "config.json", kind))),
        text_prompts(),
    )
    found = continuation_nll(vlm, prompts, prefill(vlm.model, prompts), PIECES)
    for row, (sums, of_one) in enumerate(zip(found, PIECES, strict=True)):
        for (total, n), (merged, own) in zip(sums, of_one, strict=True):
            value, n_expected = expected(vlm, prompts, row, merged, own)
            assert n == n_expected and total == pytest.approx(value, rel=1e-12)


def test_the_windows_matter():
    """Without its window the same decoder gives other likelihoods, so the test above can fail."""
    prompts, sums = text_prompts(), []
    for window in (4, None):
        vlm = drawn(
            CausalLM(language_config(TEXT | {"sliding_window": window}, "config.json", "mistral"))
        )
        sums.append(continuation_nll(vlm, prompts, prefill(vlm.model, prompts), PIECES)[0][1][0])
    assert abs(sums[0] - sums[1]) > 0.01


@pytest.mark.parametrize("config", [QWEN2_VL_CONFIG, QWEN2_5_VL_CONFIG], ids=["2", "2.5"])
def test_qwen2_vl_and_qwen2_5_vl(config):
    """Pictures of 2 x 3 and 3 x 1 tokens, and a prompt that ends in its picture: positions continue
    after the picture's larger side."""
    kind = FAMILIES[config["model_type"]]
    vlm = drawn(kind.model(kind.config(config, "config.json")))
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * 6, 2, 3], [0, 0, 0, 0, 5, 6, *[IMAGE_TOKEN] * 3]])
    sizes = [(4, 6), (6, 2)]
    pixel_values, grid = noise_patches(*sizes)
    prompts = Batch(ids, (ids != 0).long(), ids, pixel_values, grid)
    pieces = [[(0, [5, 6, 7]), (1, [8, 9, 10, 11])], [(0, [12, 13]), (0, [14, 15, 16, 17, 18])]]
    n_patches = [high * wide for high, wide in sizes]
    found = continuation_nll(vlm, prompts, prefill(vlm.model, prompts), pieces)
    for row, (sums, of_one) in enumerate(zip(found, pieces, strict=True)):
        own_pixels = pixel_values.split(n_patches)[row]
        for (total, n), (merged, own) in zip(sums, of_one, strict=True):
            value, n_expected = expected(
                vlm, prompts, row, merged, own, own_pixels, grid[row : row + 1]
            )
            assert n == n_expected and total == pytest.approx(value, rel=1e-12)
