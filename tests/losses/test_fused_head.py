"""Terms and gradients of a head that gets no gradient equal those of all logits at once.

Expected values are F.cross_entropy, F.kl_div and autograd in float64 on whole logits, or worked out
by hand. The upstream gradient is the planned one, a multiple of it, and another.
Run: python -m pytest tests/losses/test_fused_head.py
"""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clear_ref.common.errors import LabelError, ShapeError
from clear_ref.losses import IGNORE, BatchRows, native, sequence_sum, token_mean, token_terms
from clear_ref.losses.choice import use_implementation
from clear_ref.losses.fused_head import HeadRows, head_terms
from clear_ref.losses.planning import MadeRows, plan
from clear_ref.losses.rows import FrozenHead
from clear_ref.model import products

N, D, V = 37, 6, 53  # divided by no chunk and no vector
CHUNK = 5
IMPLEMENTATIONS = [
    "torch",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(
            not native.built(), reason="clear_ref was installed without the compiled kernel"
        ),
    ),
]


class Given:
    """Random hidden states of a student and a teacher, a head, labels, weights of three columns."""

    def __init__(self, dtype=torch.float64, n=N):
        g = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        self.hidden = normal(n, D).requires_grad_()
        self.teacher_hidden = (self.hidden + normal(n, D) / 2).detach()
        self.weight = normal(V, D)
        self.labels = torch.randint(0, V, (n,), generator=g)
        self.labels[::7] = IGNORE
        self.labels[-1] = IGNORE
        self.weights = torch.randn(3, n, generator=g, dtype=torch.float64)

    def teacher(self, rows):
        return self.teacher_hidden[rows] @ self.weight.T

    def rows(self, temperature=1.0, teacher=None):
        head = teacher or self.teacher
        if temperature != 1:
            return HeadRows(
                self.weight, self.labels, lambda rows: head(rows) / temperature, temperature, CHUNK
            )
        return HeadRows(self.weight, self.labels, head, 1.0, CHUNK)

    def planned(self):
        return dict(
            zip(
                ("nll", "kl_teacher_student", "kl_student_teacher"),
                self.weights.float() if self.hidden.dtype != torch.float64 else self.weights,
                strict=True,
            )
        )


def loss_of(terms, weights):
    """sum over rows of weights times nll, KL(teacher || student), KL(student || teacher)."""
    columns = (terms.nll, terms.kl_teacher_student, terms.kl_student_teacher)
    return sum((w.to(c.dtype) * c).sum() for w, c in zip(weights, columns, strict=True))


def exact(given, weights, temperature=1.0):
    """(loss, gradient of hidden) in float64, by torch's own functions on whole logits."""
    hidden = given.hidden.detach().double().requires_grad_()
    head = given.weight.double().T
    log_p = (hidden @ head / temperature).log_softmax(-1)
    log_q = (given.teacher_hidden.double() @ head / temperature).log_softmax(-1)
    columns = (
        F.nll_loss(log_p, given.labels, ignore_index=IGNORE, reduction="none"),
        F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1),
        F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1),
    )
    loss = sum((w * c).sum() for w, c in zip(weights, columns, strict=True))
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]


def found(given, rows, planned, weights):
    loss = loss_of(head_terms(given.hidden, rows, planned), weights)
    return loss.detach(), torch.autograd.grad(loss, given.hidden)[0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_value_and_gradient_are_those_of_all_logits(dtype, within, temperature, impl):
    """fp32: products of 6 and sums of 53 numbers, each rounded by 6e-8."""
    given = Given(dtype)
    with use_implementation(impl):
        loss, gradient = found(given, given.rows(temperature), given.planned(), given.weights)
    wanted_loss, wanted = exact(given, given.weights, temperature)
    assert gradient.dtype == dtype
    assert abs(loss - wanted_loss) < within * given.weights.abs().sum() * 10
    assert (gradient - wanted).abs().max() < within * wanted.abs().max()
    assert wanted.abs().max() > 1


UPSTREAMS = {
    "twice": lambda weights: 2 * weights,
    "a third": lambda weights: weights / 3,
    "a number for each row": lambda weights: weights * torch.linspace(-3, 3, N),
    "zero in some rows": lambda weights: weights * (torch.arange(N) % 2),
    "one column alone": lambda weights: weights * torch.tensor([[0.0], [1], [0]]),
    "other numbers": lambda weights: weights.flip(1),
}


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_any_upstream_gradient_is_right_whatever_was_planned(upstream, dtype, within):
    given = Given(dtype)
    asked = UPSTREAMS[upstream](given.weights)
    _, gradient = found(given, given.rows(), given.planned(), asked)
    wanted = exact(given, asked)[1]
    assert (gradient - wanted).abs().max() < within * wanted.abs().max()


@pytest.mark.parametrize(
    "upstream, again",
    [("twice", 0), ("a third", 0), ("a number for each row", 0), ("other numbers", 1)],
)
def test_chunks_are_computed_again_only_for_an_upstream_that_is_no_multiple(upstream, again):
    """The teacher is asked once for no row (its dtype), then once for each of 8 chunks."""
    given, asked = Given(), []

    def teacher(rows):
        asked.append(rows)
        return given.teacher(rows)

    found(given, given.rows(teacher=teacher), given.planned(), UPSTREAMS[upstream](given.weights))
    assert len(asked) == 1 + 8 * (1 + again)


@pytest.mark.parametrize("factor", [1, 0.25, -2, 1 / 3])
def test_bfloat16_is_rounded_as_often_as_by_autograd(factor):
    """A chunk's gradient is rounded as logits and as hidden states, and never a third time.

    1/3 is no power of two: the stored gradient is not used, or it would be rounded again. Expected:
    autograd through the same operator and the same product, on whole logits.
    """
    given = Given(torch.bfloat16)
    weights = factor * given.weights.float()
    _, gradient = found(given, given.rows(), given.planned(), weights)
    hidden = given.hidden.detach().clone().requires_grad_()
    logits = hidden @ given.weight.T
    whole = loss_of(token_terms(logits, given.labels, given.teacher(slice(None))), weights)
    (wanted,) = torch.autograd.grad(whole, hidden)
    assert torch.equal(gradient, wanted)
    error = (gradient.double() - exact(given, weights)[1]).norm()
    assert error < 2**-8 * exact(given, weights)[1].norm()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_row_that_is_not_asked_for_has_zeros_even_if_it_holds_nan(impl):
    given = Given(torch.float32)
    with torch.no_grad():
        given.hidden[3] = torch.nan
    asked = given.weights.clone()
    asked[:, 3] = 0
    with use_implementation(impl):
        for planned in (given.weights, asked):
            columns = dict(zip(given.planned(), planned.float(), strict=True))
            terms = head_terms(given.hidden, given.rows(), columns)
            assert terms.nll[3].isnan() and terms.kl_teacher_student.isfinite().sum() == N - 1
            used = (terms.nll, terms.kl_teacher_student, terms.kl_student_teacher)
            gradients = torch.autograd.grad(used, given.hidden, list(asked.float()))[0]
            assert (gradients[3] == 0).all() and gradients.isfinite().all()


def test_columns_without_a_teacher_and_the_other_columns():
    """entropy and lse in float64 by their definitions; no teacher: its columns are None."""
    given = Given()
    rows = HeadRows(given.weight, given.labels, chunk_rows=CHUNK)
    e, s = given.weights[:2]
    terms = head_terms(given.hidden, rows, {"entropy": e, "lse": s})
    assert terms.teacher_nll is None and terms.kl_teacher_student is None
    (gradient,) = torch.autograd.grad((terms.entropy, terms.lse), given.hidden, [e, s])
    hidden = given.hidden.detach().requires_grad_()
    logits = hidden @ given.weight.T
    log_p = logits.log_softmax(-1)
    entropy, lse = -(log_p.exp() * log_p).sum(-1), logits.logsumexp(-1)
    assert torch.allclose(terms.entropy, entropy, rtol=1e-13, atol=0)
    wanted = torch.autograd.grad((entropy, lse), hidden, [e, s])[0]
    assert (gradient - wanted).abs().max() < 1e-13 * wanted.abs().max()


def test_a_second_derivative_a_transform_and_a_bad_label_are_refused():
    given = Given()
    terms = head_terms(given.hidden, given.rows(), given.planned())
    with pytest.raises(RuntimeError, match="differentiable once; found create_graph=True"):
        torch.autograd.grad(terms.nll.sum(), given.hidden, create_graph=True)
    with pytest.raises(ShapeError, match="hidden is inside torch.func"):
        torch.func.grad(lambda h: head_terms(h, given.rows(), given.planned()).nll.sum())(
            given.hidden.detach()
        )
    given.labels[30] = V
    with pytest.raises(LabelError, match=r"labels\[30\] is 53"):
        head_terms(given.hidden, given.rows(), given.planned())


def test_backward_twice_gives_the_same_bits():
    given = Given(torch.float32)
    loss = loss_of(head_terms(given.hidden, given.rows(), given.planned()), given.weights)
    one, two = (torch.autograd.grad(loss, given.hidden, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, two) and one.abs().max() > 1


# ---- through BatchRows, as training uses it ----


def batch_of(given, chunk_rows=CHUNK, frozen=True):
    labels = F.pad(given.labels, (1, 0), value=IGNORE)[None]
    return BatchRows(
        labels=labels,
        student_logits=lambda sequence, position: given.hidden[position] @ given.weight.T,
        teacher_logits=lambda sequence, position: given.teacher(position),
        chunk_rows=chunk_rows,
        frozen_head=FrozenHead(lambda sequence, position: given.hidden[position], given.weight)
        if frozen
        else None,
    )


LOSSES = {  # of batches -> scalar
    "two columns": lambda b: (
        token_mean(b["forget"], "nll") - 3 * token_mean(b["forget"], "kl_teacher_student")
    ),
    "of a sequence, not linear": lambda b: F.softplus(sequence_sum(b["forget"], "nll") / 99).sum(),
    "two columns, not linear": lambda b: (
        token_mean(b["forget"], "nll") * token_mean(b["forget"], "entropy")
    ),
    "temperature": lambda b: token_mean(b["forget"].at_temperature(2.0), "kl_teacher_student"),
    "label lowered": lambda b: token_mean(
        b["forget"].with_lowered_labels(1.5), "kl_teacher_student"
    ),
    "weighted by a constant": lambda b: token_mean(
        b["forget"], b["forget"].terms("answer").nll.detach() * b["forget"].terms("answer").nll
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("factor", [1.0, 1 / 3])
def test_a_planned_loss_is_that_of_whole_logits(loss, factor):
    """Against the same loss on logits that are all in memory, through autograd, in float64."""
    results = []
    for frozen in (True, False):
        given = Given()
        batches = {"forget": batch_of(given, CHUNK if frozen else 10**6, frozen)}
        plan(lambda zeros: factor * LOSSES[loss](zeros), batches)
        assert bool(batches["forget"].planned) == frozen
        value = factor * LOSSES[loss](batches)
        results.append((value.detach(), torch.autograd.grad(value, given.hidden)[0]))
    assert abs(results[0][0] - results[1][0]) < 1e-13 * results[1][0].abs()
    assert (results[0][1] - results[1][1]).abs().max() < 1e-13 * results[1][1].abs().max()


def test_a_linear_loss_is_planned_exactly():
    """nll mean of the 30 answer rows, minus 3 times the KL: 1/30 and -3/30, times 1/2."""
    given = Given()
    assert int((given.labels != IGNORE).sum()) == 30
    batches = {"forget": batch_of(given)}
    plan(lambda zeros: LOSSES["two columns"](zeros) / 2, batches)
    ((key, columns),) = batches["forget"].planned.items()
    assert key == ("", "answer") and set(columns) == {"nll", "kl_teacher_student"}
    assert torch.allclose(columns["nll"], torch.full((30,), 1 / 60, dtype=torch.float64))
    assert torch.allclose(columns["kl_teacher_student"], torch.full((30,), -0.05).double())


def test_nothing_is_planned_for_few_rows_or_a_head_that_is_trained():
    given = Given()
    for batch in (batch_of(given, chunk_rows=N + 1), batch_of(given, frozen=False)):
        batches = {"forget": batch}
        plan(LOSSES["two columns"], batches)
        assert not batch.planned
    zeros = MadeRows(batch_of(given))
    assert (zeros.terms("answer").nll == 0).all() and zeros.column("all", max).shape == (N + 1,)


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that a tensor made inside had."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape[-1:] != (D,):
            self.largest = max(self.largest, result.numel())
        return result


def test_no_more_than_a_chunk_of_logits_is_ever_in_memory():
    """Forward and backward; the other tensors are smaller: the table has 16 x 37 numbers."""
    given = Given(n=400)
    batches = {"forget": batch_of(given, chunk_rows=200)}
    with LargestTensor() as seen:
        plan(LOSSES["two columns"], batches)
        LOSSES["two columns"](batches).backward()
    assert 16 * 400 <= seen.largest <= 128 * V
    assert given.hidden.grad is not None


class Products(TorchDispatchMode):
    """Remembers the dtypes of the products that were made inside."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.dtypes.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("instructions", [True, False])
def test_in_bfloat16_products_are_in_float32_where_the_cpu_has_no_instructions(
    instructions, monkeypatch
):
    """There torch's own product of 16-bit numbers takes 20 to 100 times as long. Both ways give the
    gradient of float64 within a few roundings to bfloat16 (2^-8 each).
    """
    monkeypatch.setattr(products, "has_instructions", lambda dtype: instructions)
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(32, 64, generator=g), torch.randn(1024, 64, generator=g) / 8
    hidden, weight = hidden.bfloat16().requires_grad_(), weight.bfloat16()
    labels = torch.randint(0, 1024, (32,), generator=g)
    with Products() as seen:
        terms = head_terms(hidden, HeadRows(weight, labels), {"nll": torch.ones(32)})
        terms.nll.sum().backward()
    assert set(seen.dtypes) == {torch.bfloat16 if instructions else torch.float32}
    wide = hidden.detach().double().requires_grad_()
    F.cross_entropy(wide @ weight.double().T, labels, reduction="sum").backward()
    error = (hidden.grad - wide.grad).abs().max() / wide.grad.abs().max()
    assert error < 2.0**-7
