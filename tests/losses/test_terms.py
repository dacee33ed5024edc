"""Per-token terms: values by hand, float64 gradients, another route through torch, special cases.

Run: python -m pytest tests/losses/test_terms.py
"""

from math import inf, log, nan

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.losses import formulas
from clear_ref.losses.terms import IGNORE, token_terms
from tests.helpers.token_term_rows import COLUMNS, by_torch, rows, weighted


def columns(student, labels, teacher):
    found = token_terms(student, labels, teacher)
    return tuple(getattr(found, name) for name in COLUMNS)


def gradient(function, student, labels, teacher, upstream):
    leaf = student.detach().clone().requires_grad_()
    weighted(function(leaf, labels, teacher), upstream).backward()
    return leaf.grad


def test_terms_and_gradients_worked_out_by_hand():
    """z = (log 3, 0): p = (3/4, 1/4). Teacher (0, 0): q = (1/2, 1/2). Label 1.

    nll = -log 1/4 = log 4.  teacher_nll = log 2.
    entropy = 3/4 log 4/3 + 1/4 log 4 = log 4 - 3/4 log 3.
    KL(q||p) = 1/2 log(2/3) + 1/2 log 2 = 1/2 log(4/3).
    KL(p||q) = 3/4 log(3/2) + 1/4 log(1/2) = 3/4 log 3 - log 2.
    d nll = p - (0, 1) = (3/4, -3/4).
    d KL(q||p) = p - q = (1/4, -1/4).
    d KL(p||q)[0] = 3/4 (log 3/2 - KL) = 3/4 (log 3 - log 2 - 3/4 log 3 + log 2) = 3/16 log 3;
    gradients sum to 0.
    d entropy[0] = -3/4 (log 3/4 + log 4 - 3/4 log 3) = -3/16 log 3.
    """
    student = torch.tensor([[log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    found = columns(student, torch.tensor([1]), torch.zeros(1, 2, dtype=torch.float64))
    values = (log(4), log(4) - 3 / 4 * log(3), log(2), 1 / 2 * log(4 / 3), 3 / 4 * log(3) - log(2))
    assert [column.item() for column in found] == pytest.approx(values, abs=1e-15)
    slopes = {
        "nll": 3 / 4,
        "kl_teacher_student": 1 / 4,
        "kl_student_teacher": 3 / 16 * log(3),
        "entropy": -3 / 16 * log(3),
    }
    for name, slope in slopes.items():
        (grad,) = torch.autograd.grad(found[COLUMNS.index(name)].sum(), student, retain_graph=True)
        assert grad[0].tolist() == pytest.approx([slope, -slope], abs=1e-15), name


@pytest.mark.parametrize("with_teacher", [True, False])
def test_gradients_agree_with_finite_differences(with_teacher):
    student, teacher, labels, _ = rows(4, 5, scale=1.5)
    names = COLUMNS[:2] + COLUMNS[3:] if with_teacher else COLUMNS[:2]
    teacher = teacher if with_teacher else None
    assert torch.autograd.gradcheck(
        lambda z: tuple(getattr(token_terms(z, labels, teacher), name) for name in names),
        student.requires_grad_(),
    )


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 37, 255, 4113])
def test_float64_equals_log_softmax_and_kl_div(vocabulary):
    """Both routes round V terms of size up to |log p| < 64.

    1e-13 is 64 * 2^-53 with a factor 14 for the sums.
    """
    student, teacher, labels, upstream = rows(7, vocabulary)
    for name, found, wanted in zip(
        COLUMNS, columns(student, labels, teacher), by_torch(student, labels, teacher), strict=True
    ):
        assert (found - wanted).abs().max() < 1e-13, name
    found, wanted = (gradient(f, student, labels, teacher, upstream) for f in (columns, by_torch))
    assert (found - wanted).abs().max() < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [3, 37, 4113])
def test_every_dtype_is_accumulated_in_fp32_and_rounded_once(dtype, vocabulary):
    """Truth: float64 on the same rounded input. x = z - max is off by at most range * 2^-24, and so
    are log p and all terms, a few times over: bound 4 * range * 2^-23. A gradient carries that
    times its factors (at most 1 + |KL|), and half a unit in the last place of its own dtype: eps /
    2 relative, and half the smallest subnormal of fp16.
    """
    student, teacher, labels, upstream = rows(9, vocabulary, dtype=dtype)
    wanted = by_torch(student, labels, teacher)
    bound = 4 * float(student.double().max() - student.double().min()) * 2**-23
    for name, found, truth in zip(COLUMNS, columns(student, labels, teacher), wanted, strict=True):
        assert found.dtype == torch.float32
        assert (found - truth).abs().max() <= bound, name
    found = gradient(columns, student, labels, teacher, upstream)
    truth = gradient(by_torch, student.double(), labels, teacher, upstream)
    assert found.dtype == dtype
    slack = bound * float(upstream.abs().max()) * (1 + float(max(wanted[3].max(), wanted[4].max())))
    assert (
        (found.double() - truth).abs() <= slack + torch.finfo(dtype).eps / 2 * truth.abs() + 2**-25
    ).all()


def test_student_and_teacher_may_differ_in_dtype():
    student, teacher, labels, _ = rows(5, 11, dtype=torch.bfloat16)
    mixed, plain = columns(student, labels, teacher.float()), columns(student, labels, teacher)
    for name, found, wanted in zip(COLUMNS, mixed, plain, strict=True):
        assert torch.equal(found, wanted), name
    assert token_terms(student, labels, teacher.double()).nll.dtype == torch.float64


def test_fp32_gradient_survives_large_logits():
    """The lse is kept in two parts. Without the low part p would be off by half a unit of lse (at
    1e4: 5e-4). A common offset of 2^20 keeps the differences of logits exact, which are multiples
    of 1/8.
    """
    student, teacher, labels, upstream = rows(6, 33)
    student, teacher = (student * 8).round() / 8, (teacher * 8).round() / 8
    truth = gradient(by_torch, student, labels, teacher, upstream)
    for offset in (1e4, 2.0**20):
        found = gradient(
            columns, (student + offset).float(), labels, (teacher - offset).float(), upstream
        )
        assert (found - truth).abs().max() < 1e-5


def test_ignored_rows_have_no_likelihood_but_keep_entropy_and_kl():
    student, teacher, labels, _ = rows(5, 7)
    found = token_terms(student.requires_grad_(), labels, teacher)
    for row in (0, -1):
        assert found.nll[row] == 0 and found.teacher_nll[row] == 0
        assert found.entropy[row] > 0 and found.kl_teacher_student[row] > 0
    found.nll.sum().backward()
    assert (
        student.grad[0].abs().max() == 0
        and student.grad[-1].abs().max() == 0
        and student.grad[1].abs().max() > 0
    )


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_bad_row_is_nan_and_no_other_row_feels_it(bad):
    student, teacher, labels, upstream = rows(5, 7)
    clean, clean_gradient = (
        columns(student, labels, teacher),
        gradient(columns, student, labels, teacher, upstream),
    )
    broken = student.clone()
    broken[1] = -inf if bad == -inf else broken[1]
    broken[1, 3] = bad
    found, found_gradient = (
        columns(broken, labels, teacher),
        gradient(columns, broken, labels, teacher, upstream),
    )
    others = [0, 2, 3, 4]
    for name, column, wanted in zip(COLUMNS, found, clean, strict=True):
        assert torch.isnan(column[1]) == (name != "teacher_nll"), name
        assert torch.equal(column[others], wanted[others]), name
    assert torch.isnan(found_gradient[1]).all() and torch.equal(
        found_gradient[others], clean_gradient[others]
    )


def test_a_row_with_zero_upstream_gets_an_exactly_zero_gradient_even_if_it_holds_nan():
    student, teacher, labels, upstream = rows(6, 7)
    student[0], teacher[5], student[3, 2] = nan, nan, inf
    upstream[[0, 3, 5]] = 0
    leaf = student.requires_grad_()
    table = formulas.stats(leaf.detach(), teacher, labels)
    weights = torch.zeros_like(table)
    for row, weight in zip(
        (formulas.NLL, formulas.ENTROPY, formulas.KL_TEACHER_STUDENT, formulas.KL_STUDENT_TEACHER),
        upstream.T,
        strict=True,
    ):
        weights[row] = weight
    found = formulas.dlogits(leaf.detach(), teacher, labels, table, weights)
    assert (found[[0, 3, 5]] == 0).all() and torch.isfinite(found).all() and (found[1] != 0).any()
    selected = token_terms(leaf, labels, teacher).kl_student_teacher[[1, 2, 4]].sum()
    selected.backward()
    assert (leaf.grad[[0, 3, 5]] == 0).all() and torch.isfinite(leaf.grad).all()


def test_the_teacher_of_a_row_is_not_read_where_no_kl_is_asked_for():
    student, teacher, labels, _ = rows(6, 7)
    teacher[2] = nan
    leaf = student.requires_grad_()
    found = token_terms(leaf, labels, teacher)
    (
        found.nll.sum()
        + found.kl_student_teacher[[1, 3]].sum()
        + found.kl_teacher_student[[1, 3]].sum()
    ).backward()
    assert torch.isfinite(leaf.grad).all() and (leaf.grad[2] != 0).any()


def test_minus_infinity_in_the_same_columns_of_both_contributes_nothing():
    student, teacher, labels, upstream = rows(5, 6)
    wide = [F.pad(z, (1, 2), value=-inf) for z in (student, teacher)]
    shifted = torch.where(labels == IGNORE, labels, labels + 1)
    for name, found, wanted in zip(
        COLUMNS, columns(wide[0], shifted, wide[1]), columns(student, labels, teacher), strict=True
    ):
        assert (found - wanted).abs().max() < 1e-14, name
    found = gradient(columns, wide[0], shifted, wide[1], upstream)
    assert (found[:, [0, 7, 8]] == 0).all()
    assert (
        found[:, 1:7] - gradient(columns, student, labels, teacher, upstream)
    ).abs().max() < 1e-14


def test_minus_infinity_in_one_tensor_makes_one_kl_infinite_and_keeps_the_rest_finite():
    student, teacher, _, _ = rows(1, 4)
    labels = torch.tensor([2])
    cut = student.clone()
    cut[0, 1] = -inf
    nll, entropy, teacher_nll, kl_ts, kl_st = columns(cut, labels, teacher)
    assert kl_ts == inf and all(map(torch.isfinite, (nll, entropy, teacher_nll, kl_st)))
    assert torch.isfinite(gradient(columns, cut, labels, teacher, torch.ones(1, 4))).all()
    cut = teacher.clone()
    cut[0, 1] = -inf
    nll, entropy, teacher_nll, kl_ts, kl_st = columns(student, labels, cut)
    assert kl_st == inf and all(map(torch.isfinite, (nll, entropy, teacher_nll, kl_ts)))
    assert torch.isfinite(
        gradient(columns, student, labels, cut, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    ).all()
    assert torch.isnan(gradient(columns, student, labels, cut, torch.ones(1, 4))[0, 1])


def test_minus_infinity_at_the_label_gives_infinite_nll_and_a_finite_gradient():
    student, teacher, _, _ = rows(1, 4)
    student[0, 2] = -inf
    leaf = student.requires_grad_()
    found = token_terms(leaf, torch.tensor([2]))
    assert found.nll == inf
    found.nll.backward()
    assert torch.isfinite(leaf.grad).all() and leaf.grad[0, 2] == -1


def test_far_apart_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    found = columns(student, torch.tensor([1]), torch.tensor([[-1e4, 1e4, 0.0]]))
    assert [column.item() for column in found] == [2e4, 0, 0, 2e4, 2e4]
    weighted(found, torch.ones(1, 4)).backward()
    assert torch.isfinite(student.grad).all()


def test_kl_of_equal_logits_is_exactly_zero_and_rounding_never_makes_one_negative():
    student, teacher, labels, _ = rows(200, 1001, dtype=torch.float32)
    same = token_terms(student, labels, student)
    assert (same.kl_teacher_student == 0).all() and (same.kl_student_teacher == 0).all()
    near = token_terms(student, labels, student + 1e-5 * teacher)
    assert (near.kl_teacher_student >= 0).all() and (near.kl_student_teacher >= 0).all()


def test_no_rows_give_empty_columns_and_an_empty_gradient():
    student = torch.randn(0, 5, requires_grad=True)
    found = columns(student, torch.zeros(0, dtype=torch.int64), torch.randn(0, 5))
    assert all(column.shape == (0,) for column in found)
    weighted(found, torch.zeros(0, 4)).backward()
    assert student.grad.shape == (0, 5)


def test_strided_rows_and_columns_equal_contiguous_ones():
    student, teacher, labels, upstream = rows(6, 9)
    padded = F.pad(student, (2, 3))[:, 2:-3]
    turned = teacher.T.contiguous().T
    for name, found, wanted in zip(
        COLUMNS, columns(padded, labels, turned), columns(student, labels, teacher), strict=True
    ):
        assert torch.equal(found, wanted), name
    found = torch.autograd.grad(
        weighted(columns(padded.requires_grad_(), labels, turned), upstream), padded
    )[0]
    assert found.is_contiguous() and torch.equal(
        found, gradient(columns, student, labels, teacher, upstream)
    )


@pytest.mark.parametrize("elements", [1, 40, 200, 9000])
@pytest.mark.parametrize("vocabulary", [37, 2049])
def test_row_chunks_change_no_bit(monkeypatch, elements, vocabulary):
    student, teacher, labels, upstream = rows(11, vocabulary, dtype=torch.float32)
    whole, whole_gradient = (
        columns(student, labels, teacher),
        gradient(columns, student, labels, teacher, upstream),
    )
    monkeypatch.setattr(formulas, "CHUNK_ELEMENTS", elements)
    for name, found, wanted in zip(COLUMNS, columns(student, labels, teacher), whole, strict=True):
        assert torch.equal(found, wanted), name
    assert torch.equal(gradient(columns, student, labels, teacher, upstream), whole_gradient)


def test_only_inputs_and_row_scalars_are_kept_for_backward():
    student, teacher, labels, _ = rows(50, 101, dtype=torch.float32)
    student.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        token_terms(student, labels, teacher)
    own = [
        t
        for t in saved
        if t.data_ptr() not in (student.data_ptr(), teacher.data_ptr(), labels.data_ptr())
    ]
    assert sum(t.numel() for t in own) <= formulas.N_STATS * 50
    assert len(saved) - len(own) == 3


def test_temporaries_stay_within_one_chunk(monkeypatch):
    """The largest tensor made is a chunk in forward, and in backward the gradient itself, in the
    logits' own dtype.
    """
    monkeypatch.setattr(formulas, "CHUNK_ELEMENTS", 4 * 1001)
    student, teacher, labels, upstream = rows(50, 1001, dtype=torch.bfloat16)
    student.requires_grad_()

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in known:
                made.append((out.numel() * out.element_size(), out.dtype))
            return out

    known, made = {t.untyped_storage().data_ptr() for t in (student, teacher, labels)}, []
    with Largest():
        found = columns(student, labels, teacher)
    assert max(made)[0] <= 4 * 1001 * 4
    loss = weighted(found, upstream)
    made.clear()
    with Largest():
        loss.backward()
    whole = [entry for entry in made if entry[0] > 4 * 1001 * 4]
    assert whole and all(entry == (50 * 1001 * 2, torch.bfloat16) for entry in whole)


@pytest.mark.parametrize("n, vocabulary", [(1, 151936), (40, 33001)])
def test_the_same_bits_on_one_thread_and_on_two(n, vocabulary):
    student, teacher, labels, upstream = rows(n, vocabulary, dtype=torch.float32)
    labels[0], upstream[0] = 5, 1
    before, results = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(
                (
                    *columns(student, labels, teacher),
                    gradient(columns, student, labels, teacher, upstream),
                )
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_the_teacher_gets_no_gradient():
    student, teacher, labels, _ = rows(4, 5)
    student.requires_grad_(), teacher.requires_grad_()
    found = token_terms(student, labels, teacher)
    assert not found.teacher_nll.requires_grad
    (found.nll.sum() + found.kl_teacher_student.sum() + found.kl_student_teacher.sum()).backward()
    assert teacher.grad is None and student.grad is not None


def test_a_second_derivative_is_refused():
    student, _, labels, _ = rows(4, 5)
    nll = token_terms(student.requires_grad_(), labels).nll.sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(nll, student, create_graph=True)


def test_without_a_teacher_its_columns_are_none():
    student, _, labels, _ = rows(4, 5)
    found = token_terms(student, labels)
    assert found.teacher_nll is found.kl_teacher_student is found.kl_student_teacher is None


@pytest.mark.parametrize("label", [5, -1, -99])
def test_a_label_outside_the_vocabulary_is_named(label):
    student, _, labels, _ = rows(4, 5)
    labels[2] = label
    with pytest.raises(LabelError, match=rf"labels\[2\] is {label}; .*\[0, 5\)"):
        token_terms(student, labels)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(student_logits=torch.zeros(1, 4, 5)), r"student_logits has shape \[1, 4, 5\]"),
        (dict(student_logits=torch.zeros(4, 0)), r"student_logits has shape \[4, 0\]"),
        (
            dict(student_logits=torch.zeros(4, 5, dtype=torch.int64)),
            "student_logits has dtype torch.int64",
        ),
        (dict(labels=torch.zeros(4, 1, dtype=torch.int64)), r"labels has shape \[4, 1\]"),
        (dict(labels=torch.zeros(1, dtype=torch.int64)), r"labels has shape \[1\]"),
        (dict(labels=torch.zeros(4, dtype=torch.int32)), "labels has dtype torch.int32"),
        (dict(teacher_logits=torch.zeros(1, 5)), r"teacher_logits has shape \[1, 5\]"),
        (
            dict(teacher_logits=torch.zeros(4, 5, dtype=torch.bool)),
            "teacher_logits has dtype torch.bool",
        ),
        (dict(teacher_logits=torch.zeros(4, 5, device="meta")), "teacher_logits is on meta"),
    ],
)
def test_tensors_that_disagree_are_named(change, message):
    logits = torch.zeros(4, 5)
    good = dict(
        student_logits=logits, labels=torch.zeros(4, dtype=torch.int64), teacher_logits=logits
    )
    with pytest.raises(ShapeError, match=message):
        token_terms(**{**good, **change})


def test_an_unknown_impl_is_refused():
    with pytest.raises(UserError, match="impl is 'fast'"):
        token_terms(torch.zeros(1, 2), torch.tensor([0]), impl="fast")
