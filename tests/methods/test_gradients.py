"""Every method and semantics: its gradient against central finite differences, in float64.

The gradient is that of the raw logits, for rmu of the hidden states. Also: which rows get a
gradient, and that the Need of a variant declares exactly what it reads. Sequences differ in length,
some prompt tokens come after answer tokens, and padding is on either side.
Run: python -m pytest tests/methods/test_gradients.py
"""

from dataclasses import replace

import pytest
import torch

from clear_ref.losses import IGNORE, Outputs
from clear_ref.methods import METHODS, make_options, method_loss, needs
from clear_ref.oracle.reference.cases import NEAR

STEP = 1e-4
# Labels of two sequences over 6 positions. None: padding; the second sequence has 4 real tokens.
# Vocabulary 4, width 3.
LABELS = [[IGNORE, 2, 1, IGNORE, 3, 0], [IGNORE, IGNORE, 0, 2, None, None]]
# Options that reach other code than the defaults do, or keep the loss below 100. Every variant runs
# at least with its defaults.
MORE = {
    ("grad_diff", "paper"): [{"lambda_retain": 0.7}, {"forget": "entropy"}],
    ("grad_diff", "released"): [
        {},
        {"forget": "entropy", "beta": 0.3},
        {"forget": "kl", "retain": "kl"},
    ],
    ("grad_diff", "original"): [{}, {"retain": "kl"}],
    ("dpo", "paper"): [
        {},
        {"beta": 0.8, "lambda_idk": 0.5, "lambda_dpo": 1.5, "retain_weight": 0.3},
    ],
    ("npo", "paper"): [{}, {"beta": 0.1}],
    ("npo", "released"): [{}, {"beta": 0.5}],
    ("npo", "original"): [{}, {"retain": "ce"}, {"retain": "kl"}],
    ("scrub", "paper"): [{"alpha": 0.6, "gamma": 1.3}],
    ("scrub", "original"): [{"temperature": 3, "gamma": 0.7}],
    ("llmu", "paper"): [{}, {"kl": "teacher_student"}],
    ("llmu", "original"): [{"n_random": 2}],
    ("rmu", "paper"): [{"c": 3, "alpha": 0.8}],
    ("rmu", "original"): [{"c": 3, "alpha": 0.8}],
    ("rmu", "released"): [{"c": 3, "beta": 0.8}, {"c": 3, "n_vectors": 3}],
    ("rmu", "released@2024-12-10"): [{"c": 3, "beta": 0.8}],
    ("rmu", "released@nlp"): [{"c": 3, "beta": 0.8}],
    ("sku", "paper"): [{"n_random": 2}],
    ("sku", "released"): [{"n_random": 2}],
    ("sku", "original"): [{"n_random": 2}],
}
CASES = [
    (method, semantics, options)
    for method, module in METHODS.items()
    for semantics in module.VARIANTS
    for options in MORE.get((method, semantics), [{}])
]
PADDED = [(*case, left) for case in CASES for left in (False, True) if left or case[1] == "paper"]


def batch(seed, left, gap):
    g = torch.Generator().manual_seed(seed)
    table = [row[-2:] + row[:-2] if left and None in row else row for row in LABELS]
    labels = torch.tensor([[IGNORE if label is None else label for label in row] for row in table])
    mask = torch.tensor([[int(label is not None) for label in row] for row in table])
    draw = lambda width: torch.randn(2, 6, width, generator=g, dtype=torch.float64)  # noqa: E731
    logits, other = draw(4), draw(4)
    return Outputs(
        logits, labels, other if gap is None else logits + gap * other, mask, draw(3), draw(3)
    )


def batches(method, semantics, options, left):
    gap = 0.1 if (method, semantics) in NEAR else None  # it is NaN further from the teacher
    return {
        name: batch(seed, left, gap)
        for seed, name in enumerate(
            needs(method, semantics, make_options(method, options, semantics))
        )
    }


def finite_differences(method, semantics, options, given, name, field):
    tensor = getattr(given[name], field)
    slope = torch.zeros_like(tensor)
    for index in range(tensor.numel()):
        values = []
        for step in (STEP, -STEP):
            moved = tensor.clone()
            moved.view(-1)[index] += step
            moved = {**given, name: replace(given[name], **{field: moved})}
            values.append(method_loss(method, moved, semantics, **options).value)
        slope.view(-1)[index] = (values[0] - values[1]) / (2 * STEP)
    return slope


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics, options, left", PADDED)
def test_the_gradient_equals_finite_differences(method, semantics, options, left):
    """The bound 1.2e-8 is the sum of two errors.

    Truncation: STEP^2 / 6 * |third derivative| (below 6 for these sums of log-probabilities) <
    1e-8. Rounding: 2^-53 * |loss| / STEP (loss below 100) < 2e-10.
    """
    given = batches(method, semantics, options, left)
    field = "hidden" if method == "rmu" else "logits"
    leaves = {
        name: getattr(outputs, field).clone().requires_grad_() for name, outputs in given.items()
    }
    moved = {name: replace(outputs, **{field: leaves[name]}) for name, outputs in given.items()}
    method_loss(method, moved, semantics, **options).value.backward()
    for name, leaf in leaves.items():
        assert (
            leaf.grad - finite_differences(method, semantics, options, given, name, field)
        ).abs().max() < 1.2e-8, name
        assert leaf.grad.abs().max() > 1e-3, name


def rows_of(outputs, row_sets):
    """[B, T], True at the rows of any of the row sets, as the docstring of select_rows says."""
    read = torch.zeros(outputs.labels.shape, dtype=torch.bool)
    for row_set in row_sets:
        if row_set == "all":
            read[:] = True
        elif row_set == "attention":
            read |= outputs.attention_mask == 1
        else:
            read[:, :-1] |= outputs.labels[:, 1:] != IGNORE
    return read


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, semantics, options", CASES)
def test_the_rows_that_a_need_declares_get_a_gradient_and_no_other_row_does(
    method, semantics, options, left
):
    given = batches(method, semantics, options, left)
    declared = needs(method, semantics, make_options(method, options, semantics))
    field = "hidden" if method == "rmu" else "logits"
    for outputs in given.values():
        getattr(outputs, field).requires_grad_()
    method_loss(method, given, semantics, **options).value.backward()
    for name, outputs in given.items():
        touched = getattr(outputs, field).grad.abs().amax(-1) > 0
        assert torch.equal(touched, rows_of(outputs, declared[name].rows)), name


@pytest.mark.parametrize("method, semantics, options", CASES)
def test_a_need_declares_the_teacher_and_the_hidden_states_exactly(method, semantics, options):
    """What is not declared may be None; what is declared changes the loss."""
    given = batches(method, semantics, options, True)
    declared = needs(method, semantics, make_options(method, options, semantics))
    value = method_loss(method, given, semantics, **options).value
    bare = {}
    for name, outputs in given.items():
        need = declared[name]
        other = (
            {"logits": None, "teacher_logits": None}
            if need.hidden
            else {"hidden": None, "teacher_hidden": None}
        )
        if not need.teacher:
            other["teacher_hidden" if need.hidden else "teacher_logits"] = None
        bare[name] = replace(outputs, **other)
    assert torch.equal(method_loss(method, bare, semantics, **options).value, value)
    for name, need in declared.items():
        if need.teacher:
            field = "teacher_hidden" if need.hidden else "teacher_logits"
            read = rows_of(bare[name], need.rows)[..., None]
            for where, changes in ((read, True), (~read, False)):
                tensor = getattr(bare[name], field)
                ramp = 0.1 * torch.arange(tensor.shape[2], dtype=tensor.dtype)
                moved = {**bare, name: replace(bare[name], **{field: tensor + ramp * where})}
                assert (
                    torch.equal(method_loss(method, moved, semantics, **options).value, value)
                    != changes
                ), (name, changes)


def test_every_method_and_semantics_is_certified():
    assert {case[:2] for case in CASES} == {
        (method, name) for method, module in METHODS.items() for name in module.VARIANTS
    }
    assert set(MORE) <= {case[:2] for case in CASES}
