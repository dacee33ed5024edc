"""AM-softmax: values worked out by hand in both readings of W, gradients by finite differences,
and a finite value where the released formula overflows in float32.
"""

import math

import pytest
import torch

from clear_ref.common.errors import LabelError, ShapeError
from clear_ref.visual.head import am_softmax, cosine_logits, new_head

READINGS = pytest.mark.parametrize("normalise", [True, False], ids=["paper", "released"])


def released_formula(embeddings, weight, labels):
    """The released code's formula, restated: no largest value is subtracted, W is raw."""
    cosines = embeddings / embeddings.norm(dim=1, keepdim=True) @ weight.T
    own = 30 * (cosines[torch.arange(len(labels)), labels] - 0.4)
    others = torch.exp(30 * cosines).sum(1) - torch.exp(30 * cosines)[range(len(labels)), labels]
    return -(own - torch.log(torch.exp(own) + others))


def test_values_by_hand():
    """e = (3, 4): e_hat = (0.6, 0.8). W = (1, 0), (0, 2): cosines 0.6 and 1.6 raw, 0.6 and 0.8
    normalised. Label 0: z = 30 * 0.2 = 6 against 48 or 24. Label 1: 18 against 36 or 12.
    """
    embeddings = torch.tensor([[3.0, 4.0], [3.0, 4.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    raw = [math.log1p(math.exp(42)), math.log1p(math.exp(-18))]
    normalised = [math.log1p(math.exp(18)), math.log1p(math.exp(6))]
    for normalise, expected in ((False, raw), (True, normalised)):
        found = am_softmax(embeddings, weight, labels, normalise)
        assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert cosine_logits(embeddings, weight, False)[0].tolist() == pytest.approx([18, 48])
    assert cosine_logits(embeddings, weight, True)[0].tolist() == pytest.approx([18, 24])


def test_the_released_reading_is_the_released_formula_where_that_is_finite():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    ours = am_softmax(embeddings, weight, labels, False)
    theirs = released_formula(embeddings, weight, labels)
    assert torch.allclose(ours, theirs, rtol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), [embeddings, weight]),
        torch.autograd.grad(theirs.sum(), [embeddings, weight]),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    normalised = am_softmax(embeddings, weight, labels, True)
    assert float((normalised - ours).detach().abs().max()) > 1


def test_a_value_is_finite_where_the_released_formula_overflows():
    """A row of W of length 3 in the direction of the embedding: z = 90, exp(90) = inf in float32.
    By hand: label 0 is the other class, of z = -12: loss 102.
    """
    embeddings = torch.tensor([[2.0, 0.0]])
    weight = torch.tensor([[0.0, 1.0], [3.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0])
    assert float(released_formula(embeddings, weight.detach(), labels)) == math.inf
    loss = am_softmax(embeddings, weight, labels, False)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(102, rel=1e-6)
    assert bool(torch.isfinite(weight.grad).all())


@READINGS
def test_gradients_by_finite_differences(normalise):
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(
        lambda e, w: am_softmax(e, w, labels, normalise), (embeddings, weight), rtol=1e-5
    )


@READINGS
def test_the_length_of_an_embedding_has_no_effect_that_of_w_only_in_the_released_reading(normalise):
    embeddings = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    weight = torch.tensor([[0.3, 0.1, 0.2], [-0.2, 0.5, 0.1]], dtype=torch.float64)
    labels = torch.tensor([1])
    loss = am_softmax(embeddings, weight, labels, normalise)
    assert torch.allclose(am_softmax(7 * embeddings, weight, labels, normalise), loss)
    changed = am_softmax(embeddings, 2 * weight, labels, normalise)
    assert torch.allclose(changed, loss) is normalise


def test_without_a_margin_it_is_cross_entropy():
    embeddings = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[0.1, 0.0], [0.0, 0.1]], dtype=torch.float64)
    loss = am_softmax(embeddings, weight, torch.tensor([0]), False, margin=0)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-3)), rel=1e-12)


def test_initial_rows_are_0_577_long():
    """A uniform value in (-b, b) has the mean square b^2 / 3, here 1 / (3 * 512)."""
    head = new_head(200, 512, seed=0)
    lengths = head.weight.detach().norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1 / math.sqrt(3), abs=0.005)
    assert float(head.weight.detach().abs().max()) <= 1 / math.sqrt(512)
    assert torch.equal(head.weight, new_head(200, 512, seed=0).weight)


@pytest.mark.parametrize(
    "embeddings, weight, labels, error",
    [
        (torch.zeros(2, 3), torch.zeros(5, 4), torch.tensor([0, 1]), ShapeError),
        (torch.zeros(2, 3), torch.zeros(5, 3).double(), torch.tensor([0, 1]), ShapeError),
        (torch.zeros(3), torch.zeros(5, 3), torch.tensor([0]), ShapeError),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0]), ShapeError),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0.0, 1.0]), ShapeError),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 5]), LabelError),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([-1, 0]), LabelError),
    ],
)
def test_shapes_and_labels_are_checked(embeddings, weight, labels, error):
    with pytest.raises(error, match="expected"):
        am_softmax(embeddings, weight, labels, True)
