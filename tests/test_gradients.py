"""Every method's gradient in the raw logits (rmu: hidden states) against central finite differences, in float64.

Sequences differ in length, some prompt tokens come after answer tokens, and padding lies on either side.
Run: python -m pytest tests/test_gradients.py
"""

from dataclasses import replace

import pytest
import torch

from clear_ref.losses import IGNORE, Outputs
from clear_ref.methods import METHODS, make_options, method_loss, needs

STEP = 1e-4
# Labels of two sequences over 6 positions; None: the second sequence has only 4 real tokens. Vocabulary 4, width 3.
LABELS = [[IGNORE, 2, 1, IGNORE, 3, 0], [IGNORE, IGNORE, 0, 2, None, None]]
OPTIONS = [("retain_ft", {}), ("grad_ascent", {}), ("grad_diff", {"lambda_retain": 0.7}), ("kl", {}), ("idk", {}),
           ("dpo", {}), ("dpo", {"beta": 0.8, "lambda_idk": 0.5, "lambda_dpo": 1.5, "retain_weight": 0.3}),
           ("npo", {}), ("npo", {"beta": 0.1}), ("scrub", {"alpha": 0.6, "gamma": 1.3}),
           ("llmu", {}), ("llmu", {"kl": "teacher_student"}), ("rmu", {"c": 3, "alpha": 0.8}), ("sku", {"n_random": 2})]


def batch(seed, left):
    g = torch.Generator().manual_seed(seed)
    table = [row[-2:] + row[:-2] if left and None in row else row for row in LABELS]
    labels = torch.tensor([[IGNORE if label is None else label for label in row] for row in table])
    mask = torch.tensor([[int(label is not None) for label in row] for row in table])
    draw = lambda width: torch.randn(2, 6, width, generator=g, dtype=torch.float64)  # noqa: E731
    return Outputs(draw(4), labels, draw(4), mask, draw(3), draw(3))


def batches(method, options, left):
    return {name: batch(seed, left) for seed, name in enumerate(needs(method, "paper", make_options(method, options)))}


def finite_differences(method, options, given, name, field):
    tensor = getattr(given[name], field)
    slope = torch.zeros_like(tensor)
    for index in range(tensor.numel()):
        values = []
        for step in (STEP, -STEP):
            moved = tensor.clone()
            moved.view(-1)[index] += step
            values.append(method_loss(method, {**given, name: replace(given[name], **{field: moved})}, **options).value)
        slope.view(-1)[index] = (values[0] - values[1]) / (2 * STEP)
    return slope


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, options", OPTIONS)
def test_the_gradient_equals_finite_differences(method, options, left):
    """Truncation STEP^2 / 6 * |third derivative| (below 6 for these sums of log-probabilities) < 1e-8; rounding
    2^-53 * |loss| / STEP (loss below 100) < 2e-10. Bound: 1.2e-8."""
    given = batches(method, options, left)
    field = "hidden" if method == "rmu" else "logits"
    leaves = {name: getattr(outputs, field).clone().requires_grad_() for name, outputs in given.items()}
    moved = {name: replace(outputs, **{field: leaves[name]}) for name, outputs in given.items()}
    method_loss(method, moved, **options).value.backward()
    for name, leaf in leaves.items():
        assert (leaf.grad - finite_differences(method, options, given, name, field)).abs().max() < 1.2e-8, name
        assert leaf.grad.abs().max() > 1e-3, name


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, options", OPTIONS)
def test_no_gradient_reaches_rows_that_a_method_does_not_read(method, options, left):
    given = batches(method, options, left)
    field = "hidden" if method == "rmu" else "logits"
    for outputs in given.values():
        getattr(outputs, field).requires_grad_()
    method_loss(method, given, **options).value.backward()
    for outputs in given.values():
        read = outputs.attention_mask == 1
        if method != "rmu":
            read = torch.zeros_like(read)
            read[:, :-1] = outputs.labels[:, 1:] != IGNORE
        touched = getattr(outputs, field).grad.abs().amax(-1) > 0
        assert torch.equal(touched, read)


def test_every_method_is_certified():
    assert {method for method, _ in OPTIONS} == set(METHODS)
