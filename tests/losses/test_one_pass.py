"""Values and gradient from one reading of the logits are those of two passes; which losses take it.

fp32: the same bits. 16 bits: the error against float64 has the same limit, and stored numbers that
differ from those of two passes are few. Upstream gradients other than the planned one are right.
Run: python -m pytest tests/losses/test_one_pass.py
"""

from math import inf, nan

import pytest
import torch
import torch.nn.functional as F

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.losses import IGNORE, BatchRows, native, sequence_sum, token_mean, token_terms
from clear_ref.losses import rows as rows_module
from clear_ref.losses.operators import _problem
from clear_ref.losses.planning import plan
from clear_ref.losses.stats_table import (
    COLUMNS,
    ENTROPY,
    KL_STUDENT_TEACHER,
    KL_TEACHER_STUDENT,
    LSE,
    N_STATS,
    NLL,
)
from tests.helpers.token_term_rows import by_torch, rows, weighted

pytestmark = pytest.mark.skipif(
    not native.HAS_ONE_PASS, reason="clear_ref was installed without the compiled kernel"
)
OPS = torch.ops.clear_ref
# Sets of upstream gradients that are not 0, one for each version of the gradient loop.
UPSTREAMS = [
    (NLL,),
    (LSE, ENTROPY),
    (KL_TEACHER_STUDENT,),
    (KL_STUDENT_TEACHER,),
    (NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER),
    (NLL, KL_TEACHER_STUDENT, ENTROPY),
    (KL_STUDENT_TEACHER, ENTROPY),
    (NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY),
]


@pytest.fixture(params=native.instruction_sets())
def instruction_set(request):
    with native.use_instruction_set(request.param):
        yield request.param


def upstream_of(n, table_rows, seed=0):
    """[N_STATS, n] random numbers in some rows of the table, 0 in the others; the last n is 0."""
    upstream = torch.zeros(N_STATS, n)
    for row in table_rows:
        upstream[row] = torch.randn(n, generator=torch.Generator().manual_seed(seed + row))
    upstream[:, -1] = 0
    return upstream


def both(student, teacher, labels, upstream, skip=False):
    """((table, gradient) of two passes, the same of one)."""
    table = OPS.token_stats(student, teacher, labels, skip, True, True)
    gradient = OPS.token_dlogits(student, teacher, labels, table, upstream, skip, True)
    one = OPS.token_stats_and_dlogits(student, teacher, labels, upstream, skip, True, True)
    return (table, gradient), one


def same(a, b):
    return torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) and torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("vocabulary", [1, 17, 2049, 4113])
def test_fp32_has_the_bits_of_two_passes(vocabulary, instruction_set):
    student, teacher, labels, _ = rows(9, vocabulary, dtype=torch.float32)
    student[2] *= 9
    wide = torch.zeros(9, vocabulary + 3)
    wide[:, 1:-2] = student
    for table_rows in UPSTREAMS:
        upstream = upstream_of(9, table_rows)
        for given in (None, teacher):
            for one_student in (student, wide[:, 1:-2]):
                (table, gradient), found = both(one_student, given, labels, upstream)
                assert same(found[0], table) and same(found[1], gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_have_the_table_of_two_passes_and_few_other_numbers(dtype, instruction_set):
    """A number before rounding differs by up to 4e-7 of its terms. Between two numbers of bfloat16
    are 2^-8 of it: one in 10,000 or 20,000 is near enough to the middle. fp16 has eight times as
    many numbers; most of these are its subnormals, where few differ.
    """
    student, teacher, labels, _ = rows(24, 8209, dtype=dtype)
    for table_rows in UPSTREAMS:
        upstream = upstream_of(24, table_rows)
        for given in (None, teacher):
            (table, gradient), found = both(student, given, labels, upstream)
            assert same(found[0], table)
            differ = (found[1] != gradient).sum() / gradient.numel()
            assert differ < 5e-4, (table_rows, float(differ))
            assert (found[1].double() - gradient.double()).abs().max() <= torch.finfo(
                dtype
            ).eps * gradient.double().abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_16_bits_are_rounded_once_beside_float64(scale, dtype, instruction_set):
    """Half a unit of the stored number, fp16's half subnormal, and 6e-7 of the largest in the row:
    the exponential, its factor and their product are each rounded by 2^-24, for two rows.
    """
    student, teacher, labels, upstream = rows(8, 5003, scale=scale, dtype=dtype)
    leaf = student.double().requires_grad_()
    weighted(by_torch(leaf, labels, teacher), upstream).backward()
    truth = leaf.grad
    table_upstream = torch.zeros(N_STATS, 8)
    order = (NLL, ENTROPY, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER)
    table_upstream[list(order)] = upstream.T.float()
    found = OPS.token_stats_and_dlogits(
        student, teacher, labels, table_upstream, False, True, True
    )[1]
    size = truth.abs().amax(1, keepdim=True)
    allowed = torch.finfo(dtype).eps / 2 * truth.abs() + 2**-25 + 6e-7 * size
    assert ((found.double() - truth).abs() <= allowed).all()
    assert (found[4] == 0).all() and found[0].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_teacher_equal_to_the_student_gives_zeros(dtype, instruction_set):
    student, _, labels, _ = rows(9, 4113, dtype=dtype, scale=8.0)
    for table_rows in ((KL_TEACHER_STUDENT,), (KL_TEACHER_STUDENT, KL_STUDENT_TEACHER)):
        found = both(student, student.clone(), labels, upstream_of(9, table_rows))[1]
        assert (found[1] == 0).all(), table_rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_differences_between_almost_sure_rows_keep_their_digits(dtype, instruction_set):
    """p and q of the largest column are 1 - d and 1 - e with d, e of 1e-5; float64."""
    student = torch.full((1, 40), -4.0)
    student[0, 7] = 12.0
    teacher = student.clone()
    teacher[0, 7] = 11.0
    student, teacher = student.to(dtype), teacher.to(dtype)
    labels = torch.tensor([3])
    upstream = torch.zeros(N_STATS, 1)
    upstream[KL_TEACHER_STUDENT] = 1
    found = both(student, teacher, labels, upstream)[1][1]
    truth = student.double().softmax(-1) - teacher.double().softmax(-1)
    assert ((found.double() - truth).abs() <= torch.finfo(dtype).eps * truth.abs()).all()
    assert 0 < truth[0, 7] < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_special_rows_are_those_of_two_passes(dtype, instruction_set):
    """NaN, infinities, ignored and skipped rows: the same rows and columns are NaN, 0, infinite."""
    student, teacher, labels, _ = rows(12, 4113, dtype=dtype)
    student[1, 5] = nan
    student[2, 9] = inf
    student[3] = -inf
    student[4, :7] = teacher[4, :7] = -inf
    student[5, 3] = -inf
    teacher[6, 3] = -inf
    teacher[7, 8] = nan
    student[8, labels[8]] = -inf
    for skip in (False, True):
        for table_rows in UPSTREAMS:
            upstream = upstream_of(12, table_rows)
            for given in (None, teacher):
                (table, two), (one_table, one) = both(student, given, labels, upstream, skip)
                assert same(one_table, table)
                finite = two.isfinite() & one.isfinite()
                whole = finite.all(1)
                assert torch.equal(whole, two.isfinite().all(1)), table_rows
                if given is not None and KL_STUDENT_TEACHER in table_rows:
                    assert one[6, 3].isnan() and two[6, 3].isnan()
                gap = (one[whole].double() - two[whole].double()).abs()
                assert gap.max() <= torch.finfo(dtype).eps * two[whole].double().abs().max()
                assert torch.equal(one[-1], torch.zeros_like(one[-1]))


def test_threads_place_and_pieces_change_no_bit():
    student, teacher, labels, _ = rows(40, 5003, dtype=torch.bfloat16)
    upstream = upstream_of(40, UPSTREAMS[4])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = both(student, teacher, labels, upstream)[1]
        torch.set_num_threads(3)
        three = both(student, teacher, labels, upstream)[1]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[1], three[1]) and torch.equal(one[0], three[0])
    own = slice(7, 9)
    part = both(student[own], teacher[own], labels[own], upstream[:, own])[1]
    assert torch.equal(part[1], one[1][own])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gradient_may_be_written_over_the_logits(dtype, instruction_set):
    """The compiled functions read the label's logits before they write there."""
    student, teacher, labels, _ = rows(6, 2100, dtype=dtype)
    upstream = upstream_of(6, UPSTREAMS[4])
    (table, two), (_, one) = both(student, teacher, labels, upstream)
    for wanted in (one, two):
        logits = student.clone()
        problem, operands = _problem(logits, teacher, labels, False)
        end = (upstream.data_ptr(), logits.data_ptr(), native.instruction_set_index(), 1)
        if wanted is one:
            made = torch.empty_like(table)
            native.kernel().cpu_stats_and_dlogits(problem, 1, made.data_ptr(), *end)
        else:
            native.kernel().cpu_dlogits(problem, table.data_ptr(), *end)
        del operands
        assert torch.equal(logits, wanted)


# ---- through token_terms ----


def test_planned_or_any_other_upstream_gives_the_gradient_without_a_plan():
    student, teacher, labels, _ = rows(7, 33, dtype=torch.float32)
    planned = {"nll": torch.linspace(-1, 2, 7), "kl_teacher_student": torch.full((7,), 0.5)}
    leaf = student.requires_grad_()
    for factor in (1.0, -3.0):
        found = []
        for given in (None, planned):
            terms = token_terms(leaf, labels, teacher, impl="native", planned=given)
            asked = [factor * planned[name] for name in planned]
            columns = [getattr(terms, name) for name in planned]
            found.append((terms, torch.autograd.grad(columns, leaf, asked)[0]))
        for name in (*COLUMNS, "teacher_nll", "teacher_entropy"):
            assert torch.equal(getattr(found[0][0], name), getattr(found[1][0], name))
        assert torch.equal(found[0][1], found[1][1]) and found[1][1].abs().max() > 0.1
    terms = token_terms(leaf, labels, teacher, impl="native", planned=planned)
    with pytest.raises(RuntimeError, match="differentiable once; found create_graph=True"):
        torch.autograd.grad(terms.nll.sum(), leaf, create_graph=True)
    with pytest.raises(UserError, match="planned and predictions are both given"):
        token_terms(leaf, labels, impl="native", planned=planned, predictions=True)
    with torch.no_grad():
        assert not token_terms(leaf, labels, impl="native", planned=planned).nll.requires_grad


def test_a_wrong_upstream_table_is_refused():
    student, _, labels, _ = rows(4, 9, dtype=torch.float32)
    with pytest.raises(ShapeError, match=r"upstream is \[15, 4\]"):
        OPS.token_stats_and_dlogits(student, None, labels, torch.zeros(15, 4), False, True, True)
    torch.library.opcheck(
        OPS.token_stats_and_dlogits,
        (student, None, labels, upstream_of(4, (NLL,)), False, True, True),
        test_utils=("test_schema", "test_faketensor"),
    )


# ---- which losses take it ----

LOSSES = {  # name -> (is it linear in the columns, loss)
    "a mean": (True, lambda b: token_mean(b["forget"], "nll")),
    "ascent and two columns": (
        True,
        lambda b: token_mean(b["forget"], "kl_student_teacher") - token_mean(b["forget"], "nll"),
    ),
    "entropy": (True, lambda b: -token_mean(b["forget"], "entropy")),
    "softplus of a sequence": (
        False,
        lambda b: F.softplus(sequence_sum(b["forget"], "nll") / 9).sum(),
    ),
    "a product": (
        False,
        lambda b: token_mean(b["forget"], "nll") * token_mean(b["forget"], "entropy"),
    ),
    "softplus of a log ratio": (
        False,
        lambda b: F.softplus(
            sequence_sum(b["forget"], "nll") - sequence_sum(b["forget"], "teacher_nll")
        ).sum(),
    ),
    "a relu": (False, lambda b: F.relu(token_mean(b["forget"], "nll") - 0.5)),
    "weighted by itself": (
        False,
        lambda b: token_mean(
            b["forget"], b["forget"].terms("answer").nll.detach() * b["forget"].terms("answer").nll
        ),
    ),
}


def batch_of(student, teacher, labels, **options):
    return BatchRows(
        labels=F.pad(labels, (1, 0), value=IGNORE)[None],
        student_logits=lambda sequence, position: student[position],
        teacher_logits=lambda sequence, position: teacher[position],
        **options,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_linear_loss_takes_one_pass_and_any_loss_has_its_gradient(name, monkeypatch):
    """The reference is the same batch without a vocabulary, which is not planned."""
    monkeypatch.setattr(rows_module, "ONE_PASS", (1, 1 << 25))
    monkeypatch.setattr("clear_ref.losses.planning.ONE_PASS", (1, 1 << 25))
    student, teacher, labels, _ = rows(9, 33, dtype=torch.float32)
    student.requires_grad_()
    is_linear, loss = LOSSES[name]
    found = []
    for vocabulary in (None, 33):
        batches = {"forget": batch_of(student, teacher, labels, vocabulary=vocabulary)}
        plan(loss, batches)
        assert bool(batches["forget"].planned) == (is_linear and vocabulary is not None)
        value = loss(batches)
        found.append((value.detach(), torch.autograd.grad(value, student)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][1].abs().max() > 0


def test_few_logits_too_many_and_more_rows_than_a_chunk_are_not_planned():
    student, teacher, labels, _ = rows(9, 33, dtype=torch.float32)
    batch = batch_of(student, teacher, labels, vocabulary=33)
    assert not batch.takes_one_pass(9)
    assert batch.takes_one_pass(40000) is False  # more than chunk_rows
    for vocabulary, takes in ((1 << 17, True), (1 << 23, False)):
        batch = batch_of(student, teacher, labels, vocabulary=vocabulary)
        assert batch.takes_one_pass(9) == takes
    assert not BatchRows(labels=torch.zeros(1, 9).long(), vocabulary=1 << 17).takes_one_pass(9)
