"""A step with more rows than are kept in memory has the gradients of one with all logits in memory.

The head is frozen (adapters) and fused_head.py computes it; a head that is trained is not.
Run: python -m pytest tests/loop/test_frozen_head.py
"""

from functools import partial

import pytest
import torch

from clear_ref.data.prompts import read_phrases
from clear_ref.data.torch_draws import torch_generator
from clear_ref.loop import batch_rows
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import Stage, trainable
from clear_ref.loop.step import step_loss
from clear_ref.loop.teacher import Teacher
from clear_ref.losses import fused_head
from clear_ref.losses.rows import BatchRows
from clear_ref.methods import make_options, needs, variant
from clear_ref.mini.directories import WORLD
from clear_ref.model import lora

ALL = 10**6


@pytest.fixture(scope="module")
def world_rows():
    """Six forget records, pictures and text, and twelve to retain."""
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def step(vlm, method, semantics, rows, recipe):
    """(loss, gradients) of one step of four records; the teacher differs from the student."""
    prepare(vlm, recipe, 0)
    teacher = Teacher(vlm)
    with torch.no_grad():
        for name, parameter in trainable(vlm).items():
            generator = torch_generator(3, name)
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    chosen = variant(method, semantics)
    options = make_options(method, {}, semantics)
    wanted = needs(method, semantics, options)
    plan = UnlearnPlan(*rows, tuple(wanted), read_phrases(WORLD), 0, chosen.contents)
    stage = Stage(
        method,
        wanted,
        lambda batches: chosen.loss(batches, options),
        by_batch=chosen.by_batch,
        mask=chosen.mask,
    )
    value = step_loss(vlm, plan, stage, teacher, recipe, 0, [4, 0, 2, 5])[0]
    return value, {name: p.grad for name, p in trainable(vlm).items() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, semantics, rank, uses",
    [
        ("kl", "released", 2, True),
        ("scrub", "paper", 2, True),
        ("scrub", "original", 2, True),
        ("npo", "paper", 2, True),
        ("undial", "original", 2, True),
        ("kl", "released", 0, False),
    ],
)
def test_a_step_in_chunks_equals_one_with_all_logits(
    method, semantics, rank, uses, tiny_directory, world_rows, monkeypatch
):
    """float64. Three batches of one or two records, each with a third of the step (released)."""
    from clear_ref import load

    called = []
    terms = fused_head.head_terms
    monkeypatch.setattr(fused_head, "head_terms", lambda *given: called.append(1) or terms(*given))
    recipe = Recipe(batch_size=2, accumulate=2, records_at_once=2, lora_rank=rank)
    found = []
    for chunk_rows in (ALL, 7):
        assert not called
        monkeypatch.setattr(batch_rows, "BatchRows", partial(BatchRows, chunk_rows=chunk_rows))
        vlm = load(tiny_directory, "float64")
        found.append(step(vlm, method, semantics, world_rows, recipe))
    assert bool(called) == uses
    (value, expected), (in_chunks, gradients) = found
    assert in_chunks == pytest.approx(value, rel=1e-12)
    assert gradients.keys() == expected.keys() and gradients
    size = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in gradients.items():
        assert float((gradient - expected[name]).norm()) < 1e-11 * size, name


def test_only_a_head_that_is_not_trained_is_frozen(tiny):
    hidden = torch.zeros(1, 3, tiny.text_config.hidden_size, dtype=torch.float64)
    head = tiny.model.output_layer()
    tiny.model.requires_grad_(True)
    assert batch_rows.frozen_head(tiny, hidden, 0) is None  # every weight is trained
    tiny.model.requires_grad_(False)
    found = batch_rows.frozen_head(tiny, hidden + 1, 0)
    zero = torch.zeros(1, dtype=torch.long)
    logits = found.hidden(zero, zero) @ found.weight.T
    assert torch.equal(logits, tiny.head(hidden + 1)[:, 0])
    head.weight.requires_grad_()
    assert batch_rows.frozen_head(tiny, hidden, 0) is None
    head.weight.requires_grad_(False)
    if isinstance(head, lora.Linear):
        head.adapter = lora.Adapter(head, 1, 1.0, torch_generator(0, "head"))
        assert batch_rows.frozen_head(tiny, hidden, 0) is None
