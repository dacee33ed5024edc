"""A step that computes values and gradient from one reading of the logits has the same bytes.

fp32; in bfloat16 the same loss, and gradients apart by a rounding. Every method that is linear in
the columns takes that way, npo and dpo do not, with a frozen head and with one that is trained.
Run: python -m pytest tests/loop/test_one_pass_step.py
"""

import pytest
import torch

from clear_ref import load
from clear_ref.data.prompts import read_phrases
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import split_rows
from clear_ref.loop.stage import Stage, trainable
from clear_ref.loop.step import step_loss
from clear_ref.loop.teacher import Teacher
from clear_ref.losses import native, planning, terms
from clear_ref.losses import rows as rows_module
from clear_ref.methods import make_options, needs, variant
from clear_ref.mini.directories import WORLD

pytestmark = pytest.mark.skipif(
    not native.HAS_ONE_PASS, reason="clear_ref was installed without the compiled kernel"
)


@pytest.fixture(scope="module")
def world_rows():
    forget, retain = split_rows(WORLD, "both", 10)
    return forget[:3] + forget[20:23], retain[:6] + retain[200:206]


def step(vlm, method, semantics, rows, rank):
    """(loss, {name: gradient}) of one step of four records, two at a time."""
    recipe = Recipe(batch_size=2, accumulate=2, records_at_once=2, lora_rank=rank)
    prepare(vlm, recipe, 0)
    teacher = Teacher(vlm)
    with torch.no_grad():
        for parameter in trainable(vlm).values():
            parameter += 0.01 * torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape)
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


@pytest.mark.parametrize(
    "method, semantics, rank, dtype, uses",
    [
        ("kl", "released", 2, "float32", True),
        ("scrub", "paper", 2, "float32", True),
        ("grad_diff", "released", 0, "float32", True),
        ("llmu", "paper", 0, "float32", True),
        ("npo", "paper", 2, "float32", False),
        ("dpo", "paper", 0, "float32", False),
        ("scrub", "paper", 2, "bfloat16", True),
    ],
)
def test_a_step_has_the_same_bytes(
    method, semantics, rank, dtype, uses, tiny_directory, world_rows, monkeypatch
):
    called = []
    apply = terms._OnePass.apply
    monkeypatch.setattr(terms._OnePass, "apply", lambda *given: called.append(1) or apply(*given))
    found = []
    for fewest in (1 << 60, 1):
        for module in (rows_module, planning):
            monkeypatch.setattr(module, "ONE_PASS", (fewest, 1 << 62))
        assert not called
        found.append(step(load(tiny_directory, dtype), method, semantics, world_rows, rank))
    assert bool(called) == uses
    (value, expected), (one_pass, gradients) = found
    assert one_pass == value
    assert gradients.keys() == expected.keys() and gradients
    size = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in gradients.items():
        if dtype == "float32":
            assert torch.equal(gradient, expected[name]), name
        else:
            assert float((gradient - expected[name]).norm()) <= 2**-8 * size, name
