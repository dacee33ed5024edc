"""The compiled token terms beside plain PyTorch.

Accuracy against float64, every special case of the contract, equal bits, offsets, operators.

Run: python -m pytest tests/losses/test_kernel_accuracy.py
"""

from math import inf, nan

import pytest
import torch
import torch.nn.functional as F

from clear_ref.common.errors import LabelError, ShapeError
from clear_ref.losses import formulas, native
from clear_ref.losses.terms import IGNORE, token_terms
from tests.helpers.token_term_rows import COLUMNS, by_torch, rows, weighted

pytestmark = pytest.mark.skipif(
    not native.built(), reason="clear_ref was installed without the compiled kernel"
)

SETS = native.instruction_sets()
NATIVE_BEST = pytest.mark.skipif(len(SETS) < 3, reason="this processor lacks AVX2 or AVX-512")
UPSTREAM_ROWS = (
    formulas.NLL,
    formulas.ENTROPY,
    formulas.KL_TEACHER_STUDENT,
    formulas.KL_STUDENT_TEACHER,
)


@pytest.fixture(params=[*SETS, "torch"])
def impl(request):
    """ "native", once with each instruction set of this processor, and "torch"."""
    if request.param == "torch":
        yield "torch"
    else:
        with native.use_instruction_set(request.param):
            yield "native"


@pytest.fixture(params=SETS)
def instruction_set(request):
    with native.use_instruction_set(request.param):
        yield request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def columns(student, labels, teacher, impl="native", **options):
    found = token_terms(student, labels, teacher, impl=impl, **options)
    return tuple(getattr(found, name) for name in COLUMNS)


def values_and_gradient(function, student, labels, teacher, upstream):
    leaf = student.detach().clone().requires_grad_()
    found = function(leaf, labels, teacher)
    weighted(found, upstream).backward()
    return [column.detach() for column in found], leaf.grad


def ours(impl, **options):
    return lambda student, labels, teacher: columns(student, labels, teacher, impl, **options)


def plain(student, labels, teacher):
    """The five columns by torch's own operators in the working dtype, as a training script writes
    them.
    """
    ls, lt = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return (
        F.cross_entropy(student, labels, ignore_index=IGNORE, reduction="none"),
        -(ls.exp() * ls).sum(-1),
        F.cross_entropy(teacher, labels, ignore_index=IGNORE, reduction="none"),
        F.kl_div(ls, lt, log_target=True, reduction="none").sum(-1),
        F.kl_div(lt, ls, log_target=True, reduction="none").sum(-1),
    )


def errors(found, truth, relative=True):
    """The largest error of each column, relative to max(1, |value|)."""
    return [
        float(
            ((f.double() - t).abs() / (t.abs().clamp_min(1) if relative else 1))
            .nan_to_num(inf)
            .max()
        )
        for f, t in zip(found, truth, strict=True)
    ]


def gradient_error(found, truth):
    """The largest error, relative to the largest gradient of its row.

    Rows without gradient must be exactly 0.
    """
    largest = truth.abs().amax(1, keepdim=True)
    assert (found[(largest == 0).squeeze(1)] == 0).all()
    return float(((found.double() - truth).abs() / largest.masked_fill(largest == 0, 1)).max())


# 1. Three ways: float64, plain torch, and each implementation.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_no_implementation_is_further_from_float64_than_plain_torch(impl, dtype, seed):
    """At most plain torch's error and the store's rounding: values are stored in fp32 (2^-24
    relative), and both sums round V terms of size log p, of which 2^-22 is four roundings of the
    largest. A gradient is stored in its own dtype (half an eps), and its factor holds fp32 numbers
    as large as log p and KL, four roundings again.
    """
    g = torch.Generator().manual_seed(1000 + seed)
    n = int(torch.randint(1, 10, (), generator=g))
    vocabulary = int(2 ** (13 * torch.rand((), generator=g)))
    scale = (0.1, 3.0, 30.0)[seed % 3]
    student, teacher, labels, upstream = rows(n, vocabulary, scale, seed, dtype)
    truth, slope = values_and_gradient(
        by_torch, student.double(), labels, teacher.double(), upstream
    )
    usual, usual_slope = values_and_gradient(plain, student, labels, teacher, upstream)
    found, found_slope = values_and_gradient(ours(impl), student, labels, teacher, upstream)
    for name, mine, theirs in zip(COLUMNS, errors(found, truth), errors(usual, truth), strict=True):
        assert mine <= theirs + 2**-22, (name, n, vocabulary, mine, theirs)
    factor = 1 + float(
        max(truth[3].max(), truth[4].max(), -F.log_softmax(student.double(), -1).min())
    )
    mine, theirs = (
        float((s.double() - slope).abs().nan_to_num(inf).max()) for s in (found_slope, usual_slope)
    )
    allowed = (
        2**-22 * factor * float(upstream.abs().max())
        + torch.finfo(dtype).eps / 2 * float(slope.abs().max())
        + 2**-25
    )
    assert mine <= theirs + allowed, (n, vocabulary, mine, theirs)


# 2. Accuracy, in numbers. Truth: the same fp32 logits in float64, by definition. Student and
# teacher are independent: KL is as large as the scale makes it.

LIMITS = {
    "nll": 7e-7,
    "entropy": 3e-7,
    "teacher_nll": 7e-7,
    "kl_teacher_student": 3e-7,
    "kl_student_teacher": 3e-7,
}
PLAIN_FACTOR = 10  # the torch route sums in fp32 where the kernel sums in double


@pytest.mark.slow
@pytest.mark.parametrize("scale", [3.0, 10.0, 30.0, 100.0, 1e4])
def test_values_at_a_real_vocabulary(impl, scale):
    student, teacher, labels, _ = rows(16, 32064, scale, seed=3, dtype=torch.float32)
    truth = by_torch(student, labels, teacher)
    for name, error in zip(
        COLUMNS, errors(columns(student, labels, teacher, impl), truth), strict=True
    ):
        assert error <= LIMITS[name] * (1 if impl == "native" else PLAIN_FACTOR), (
            f"{name}: {error:.2e}"
        )


# Relative to the largest entry of the row, at every scale. The rounding at the store is at most
# 6e-8, the exponential's rest 3e-8, and the mean of x or of the gap, which the factors of entropy
# and KL(p||q) are relative to, has an error of 1e-9 to 3e-8 of itself: fp32 sums where many columns
# make it, double where few do. All three at their worst would be 1.2e-7, of one row in thousands.
# Without fused multiply-add the rounding of upstream times factor stays: half as much again. The
# torch route rounds log p, both factors and every product in fp32, and its sums: ten times that.
GRADIENT_LIMITS = {"avx512": 1e-7, "avx2": 1e-7, "baseline": 1.5e-7, "torch": 1e-6}
ALONE = ("nll", "entropy", "kl_teacher_student", "kl_student_teacher")


def by_definition(which, student, teacher, labels):
    """Gradient [n, V] of one term in float64: no autograd, whose sums would be the larger error
    where all but one p is 0. The gradients of entropy and KL(p||q) are unchanged by a constant in
    log p or log p - log q, here that of the largest column: a mean that is a difference of logs
    would have no digits left where that column is sure.
    """
    student, teacher, top = student.double(), teacher.double(), student.argmax(1, keepdim=True)
    log_p, log_q, x = (
        student.log_softmax(-1),
        teacher.log_softmax(-1),
        student - student.gather(1, top),
    )
    p, q, gap = log_p.exp(), log_q.exp(), (student - teacher) - (student - teacher).gather(1, top)
    if which == "nll":
        chosen = labels.clamp(min=0).unsqueeze(1)
        return p.scatter(1, chosen, torch.expm1(log_p.gather(1, chosen))) * (
            labels != IGNORE
        ).unsqueeze(1)
    if which == "entropy":
        return -p * (x - (p * x).sum(-1, keepdim=True))
    return p - q if which == "kl_teacher_student" else p * (gap - (p * gap).sum(-1, keepdim=True))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [3.0, 10.0, 30.0, 100.0, 1e4])
@pytest.mark.parametrize("which", ALONE)
@pytest.mark.parametrize("sure", [False, True], ids=["any label", "largest label"])
def test_each_gradient_beside_the_largest_of_its_row(impl, scale, which, sure):
    """lse in two fp32 parts is right to 2^-48 of logits: that counts where p - 1 or p - q is all
    there is of a row. Entropy and KL(p||q) have no such slack, and no row of a gradient that fp32
    can hold is left out.
    """
    student, teacher, labels, upstream = rows(16, 32064, scale, seed=4, dtype=torch.float32)
    labels, upstream = (
        student.argmax(1) if sure else labels,
        upstream.float().double(),
    )  # as the kernel gets it: fp32
    upstream[:, [i for i, name in enumerate(ALONE) if name != which]] = 0
    weight = upstream[:, [ALONE.index(which)]]
    truth = by_definition(which, student, teacher, labels) * weight
    if impl == "torch" and which not in ("entropy", "kl_student_teacher"):
        return  # p - 1 and p - q of fp32 probabilities: below, beside the size of the factor
    _, found = values_and_gradient(ours(impl), student, labels, teacher, upstream)
    own = (
        2**-48 * (student.abs().amax(1) + teacher.abs().amax(1)).double() * weight.abs().squeeze(1)
    )
    own = 1e-36 if which in ("entropy", "kl_student_teacher") else own
    limit = GRADIENT_LIMITS[impl if impl == "torch" else native.instruction_set()]
    excess = (found - truth).abs().amax(1) - own - limit * truth.abs().amax(1)
    assert (excess <= 0).all(), (
        f"{which} at scale {scale}: "
        f"{float((excess / truth.abs().amax(1).clamp_min(1e-300)).max()):.1e}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [3.0, 10.0])
@pytest.mark.parametrize("which", ["entropy", "kl_student_teacher"])
def test_of_many_rows_none_is_further_off(instruction_set, scale, which):
    """256 rows, upstream 1.

    One rounding more, of the factor, shows in the furthest of them and not in sixteen.
    """
    student, teacher, labels, _ = rows(256, 32064, scale, seed=1, dtype=torch.float32)
    leaf = student.requires_grad_()
    getattr(
        token_terms(leaf, labels, teacher if which != "entropy" else None, impl="native"), which
    ).sum().backward()
    for part in range(0, 256, 32):
        truth = by_definition(
            which, *(x[part : part + 32].detach() for x in (student, teacher, labels))
        )
        error = float(
            ((leaf.grad[part : part + 32] - truth).abs().amax(1) / truth.abs().amax(1)).max()
        )
        assert error <= GRADIENT_LIMITS[instruction_set], f"{which} at scale {scale}: {error:.2e}"


@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_a_teacher_equal_to_the_student_has_no_gradient(instruction_set, scale):
    """KL(q||p): p - q of equal logits, bit for bit.

    KL(p||q): the mean of log p - log q = 0 and the gap are both exactly 0.
    """
    student, _, labels, upstream = rows(8, 4113, scale, seed=6, dtype=torch.float32)
    upstream[:, :2] = 0
    _, slope = values_and_gradient(ours("native"), student, labels, student.clone(), upstream)
    assert (slope == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("which", ALONE)
def test_gradients_of_the_torch_route_beside_the_size_of_their_factor(which):
    """One term at a time, beside the upstream times 1 + its own value. Where p is near 1 the factor
    cancels, so that the gradient itself is no measure of fp32 sums. 2^-21: eight roundings of p,
    log p and the factor.
    """
    for scale in (3.0, 30.0):
        student, teacher, labels, upstream = rows(16, 32064, scale, seed=4, dtype=torch.float32)
        upstream[:, [i for i, name in enumerate(ALONE) if name != which]] = 0
        values, truth = values_and_gradient(
            by_torch, student.double(), labels, teacher.double(), upstream
        )
        _, found = values_and_gradient(ours("torch"), student, labels, teacher, upstream)
        own = (
            values[COLUMNS.index(which)]
            if which in ("entropy", "kl_student_teacher")
            else torch.zeros(16)
        )
        size = upstream.abs().amax(1) * (1 + own)
        error = float(((found - truth).abs().amax(1) / size.masked_fill(size == 0, 1)).max())
        assert error <= 2**-21, f"{which} at scale {scale}: {error:.2e}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 8))
def test_the_whole_gradient_beside_the_largest_of_its_row(impl, seed):
    """All terms at once at scale 3, where no row is so certain that its gradient cancels: four
    roundings of the factor, which is up to twice the gradient that is left; of the torch route
    sixteen.
    """
    student, teacher, labels, upstream = rows(16, 32064, seed=seed, dtype=torch.float32)
    _, truth = values_and_gradient(by_torch, student.double(), labels, teacher.double(), upstream)
    _, found = values_and_gradient(ours(impl), student, labels, teacher, upstream)
    error = gradient_error(found, truth)
    assert error <= (2**-21 if impl == "native" else 2**-20), f"{error:.2e}"


@pytest.mark.slow
def test_gradients_of_the_torch_route_at_logits_of_1e4():
    """p is 1 in one column.

    KL ~ 1e5 is stored in fp32, so that of KL(p||q) has an error of 2^-24 KL beside KL itself.
    """
    student, teacher, labels, upstream = rows(16, 32064, 1e4, seed=5, dtype=torch.float32)
    values, truth = values_and_gradient(
        by_torch, student.double(), labels, teacher.double(), upstream
    )
    _, found = values_and_gradient(ours("torch"), student, labels, teacher, upstream)
    size = (1 + values[4][:, None]) * upstream.abs().amax(1, keepdim=True)
    error = float(((found - truth).abs() / size.clamp_min(1e-30)).max())
    assert error <= 4 * 2**-24, f"{error:.2e}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "vocabularies", [range(1, 70), (2047, 2048, 2049, 4113)], ids=["small", "blocks"]
)
def test_every_tail_and_misaligned_rows(impl, vocabularies):
    worst = {}
    for vocabulary in vocabularies:
        student, teacher, labels, upstream = rows(
            7, vocabulary, seed=vocabulary, dtype=torch.float32
        )
        wide = [
            F.pad(z, (1 + vocabulary % 5, 2), value=nan)[:, 1 + vocabulary % 5 : -2]
            for z in (student, teacher)
        ]
        truth, slope = values_and_gradient(
            by_torch, student.double(), labels, teacher.double(), upstream
        )
        found = columns(wide[0], labels, wide[1], impl)
        leaf = F.pad(student, (1, 2), value=nan).requires_grad_()
        weighted(columns(leaf[:, 1:-2], labels, wide[1], impl), upstream).backward()
        for name, error in zip(COLUMNS, errors(found, truth), strict=True):
            worst[name] = max(worst.get(name, (0, 0)), (error, vocabulary))
        size = upstream.abs().amax(1) * (1 + truth[4])
        off = (leaf.grad[:, 1:-2] - slope).abs().amax(1)
        error = float((off / size.masked_fill(size == 0, 1)).max())
        worst["gradient"] = max(worst.get("gradient", (0, 0)), (error, vocabulary))
    factor = 1 if impl == "native" else PLAIN_FACTOR
    assert max(error for error, _ in worst.values()) <= 1e-6 * factor, (
        worst
    )  # beside max(1, |value|), and the factor


# 3. The contract, row by row (csrc/token_terms.h, Edges).


def case(n=4, vocabulary=37, dtype=torch.float32, seed=0):
    student, teacher, labels, upstream = rows(n, vocabulary, seed=seed, dtype=dtype)
    labels[0], labels[-1], upstream[n // 2] = 3, 4, 1
    return student, teacher, labels, upstream


def test_far_apart_logits_by_hand(impl):
    """p = (1, 0, 0), q = (0, 1, 0): KL = 2e4 either way, nll of column 1 is 2e4, entropy 0."""
    student, teacher = torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])
    found, slope = values_and_gradient(
        ours(impl), student, torch.tensor([1]), teacher, torch.ones(1, 4)
    )
    assert [float(column) for column in found] == [2e4, 0, 0, 2e4, 2e4]
    assert slope.tolist() == [
        [2.0, -2.0, 0.0]
    ]  # nll: (1, -1, 0); KL(q||p): p - q; KL(p||q) and entropy: 0


@pytest.mark.parametrize("offset", [1e4, 2.0**20])
def test_a_common_offset_changes_nll_and_kl_by_nothing(impl, offset):
    """Logits are multiples of 1/8, so that the offset is exact in fp32 and the values are those
    without it, bit for bit.
    """
    student, teacher, labels, _ = case()
    student, teacher = (student * 8).round() / 8, (teacher * 8).round() / 8
    for name, moved, still in zip(
        COLUMNS,
        columns(student + offset, labels, teacher - offset, impl),
        columns(student, labels, teacher, impl),
        strict=True,
    ):
        assert torch.equal(moved, still), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocabulary", [5, 37, 4113])
def test_minus_infinity_in_both_contributes_nothing(impl, dtype, vocabulary):
    """Truth: the same rows without those columns, in float64.

    Fp32 sums and one rounding at the store as in test_terms.
    """
    student, teacher, labels, upstream = case(5, vocabulary, dtype)
    wide = [F.pad(z, (1, 2), value=-inf) for z in (student, teacher)]
    truth, slope = values_and_gradient(
        by_torch, student.double(), labels, teacher.double(), upstream
    )
    found, found_slope = values_and_gradient(ours(impl), wide[0], labels + 1, wide[1], upstream)
    assert max(errors(found, truth)) <= 2e-6
    assert (found_slope[:, [0, -2, -1]] == 0).all()
    assert (found_slope[:, 1:-2].double() - slope).abs().max() <= 4e-6 + torch.finfo(
        dtype
    ).eps * slope.abs().max()


@pytest.mark.parametrize("column", [0, 17, 36])
def test_minus_infinity_only_in_the_student(impl, column):
    student, teacher, labels, _ = case()
    student[1, column] = -inf
    labels[1] = 5
    nll, entropy, teacher_nll, kl_ts, kl_st = (
        c[1] for c in columns(student, labels, teacher, impl)
    )
    assert kl_ts == inf and all(map(torch.isfinite, (nll, entropy, teacher_nll, kl_st)))
    _, slope = values_and_gradient(ours(impl), student, labels, teacher, torch.ones(4, 4))
    assert torch.isfinite(slope).all()
    q = F.softmax(teacher.double(), -1)[1, column]
    assert float(slope[1, column]) == pytest.approx(
        -float(q), rel=1e-6
    )  # p = 0: only - a q is left


@pytest.mark.parametrize("column", [0, 17, 36])
def test_minus_infinity_only_in_the_teacher(impl, column):
    student, teacher, labels, _ = case()
    teacher[1, column] = -inf
    labels[1] = 5
    nll, entropy, teacher_nll, kl_ts, kl_st = (
        c[1] for c in columns(student, labels, teacher, impl)
    )
    assert kl_st == inf and all(map(torch.isfinite, (nll, entropy, teacher_nll, kl_ts)))
    _, without = values_and_gradient(
        ours(impl), student, labels, teacher, torch.tensor([[1.0, 1, 1, 0]]).expand(4, 4)
    )
    assert torch.isfinite(without).all()
    _, slope = values_and_gradient(ours(impl), student, labels, teacher, torch.ones(4, 4))
    assert torch.isnan(slope[1, column]) and torch.isfinite(slope[[0, 2, 3]]).all()


def test_minus_infinity_at_the_label(impl):
    student, teacher, labels, _ = case()
    student[1, labels[1]] = -inf
    leaf = student.requires_grad_()
    found = token_terms(leaf, labels, impl=impl)
    assert found.nll[1] == inf and torch.isfinite(found.entropy).all()
    found.nll.sum().backward()
    assert torch.isfinite(leaf.grad).all() and leaf.grad[1, labels[1]] == -1


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [1, 15, 37, 4113])
@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_bad_row_is_nan_and_no_other_row_feels_it(impl, vocabulary, bad, side):
    student, teacher, labels, upstream = rows(5, vocabulary, dtype=torch.float32)
    labels[:] = 0
    clean, clean_slope = values_and_gradient(ours(impl), student, labels, teacher, upstream)
    broken = (student if side == "student" else teacher).clone()
    broken[1] = -inf if bad == -inf else broken[1]
    broken[1, -1] = bad
    pair = (broken, labels, teacher) if side == "student" else (student, labels, broken)
    found, slope = values_and_gradient(ours(impl), *pair, upstream)
    theirs = {"nll": "student", "entropy": "student", "teacher_nll": "teacher"}
    for name, column, wanted in zip(COLUMNS, found, clean, strict=True):
        assert torch.isnan(column[1]) == (theirs.get(name, side) == side), name
        assert torch.equal(column[[0, 2, 3, 4]], wanted[[0, 2, 3, 4]]), name
    assert torch.isnan(slope[1]).all() and torch.equal(
        slope[[0, 2, 3, 4]], clean_slope[[0, 2, 3, 4]]
    )


def test_probabilities_below_the_threshold_are_dropped(impl):
    """z = (0, -d, 0 at the label).

    For d = 200 column 1 has p = 0 in fp32, its gradient is exactly 0 and nothing is NaN.
    """
    student, teacher = torch.tensor([[0.0, -200.0, 0.0]]), torch.zeros(1, 3)
    found, slope = values_and_gradient(
        ours(impl), student, torch.tensor([2]), teacher, torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    )
    assert all(torch.isfinite(column) for column in found) and slope[0, 1] == 0
    assert float(found[1]) == pytest.approx(
        0.6931471805599453, rel=1e-7
    )  # two equal columns: log 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kl_is_never_negative_and_of_equal_logits_nothing(impl, dtype):
    student, teacher, labels, _ = rows(100, 1001, dtype=dtype)
    same = token_terms(student, labels, student, impl=impl)
    assert (
        same.kl_teacher_student.abs().max() <= 1e-15
        and same.kl_student_teacher.abs().max() <= 1e-15
    )
    near = token_terms(student, labels, student + 1e-5 * teacher, impl=impl)
    assert (near.kl_teacher_student >= 0).all() and (near.kl_student_teacher >= 0).all()


def test_ignored_rows(impl):
    """nll, teacher_nll and the gradient of nll are 0.

    Entropy and KL are those of the same row with a label.
    """
    student, teacher, labels, upstream = case(6)
    with_label = columns(student, labels, teacher, impl)
    labels[2] = IGNORE
    found = columns(student, labels, teacher, impl)
    for name, column, wanted in zip(COLUMNS, found, with_label, strict=True):
        if "nll" in name:
            assert column[2] == 0 and wanted[2] != 0
        else:
            assert torch.equal(column, wanted), name
    leaf = student.requires_grad_()
    token_terms(leaf, labels, teacher, impl=impl).nll.sum().backward()
    assert (leaf.grad[2] == 0).all() and (leaf.grad[[0, 1, 3, 4, 5]] != 0).any(1).all()


def test_skipped_rows_are_not_read(impl):
    student, teacher, labels, upstream = case(6)
    labels[2] = labels[5] = IGNORE
    student[2], teacher[5] = nan, inf
    found, slope = values_and_gradient(
        ours(impl, skip_ignored=True), student, labels, teacher, upstream
    )
    clean = columns(student[[0, 1, 3, 4]], labels[[0, 1, 3, 4]], teacher[[0, 1, 3, 4]], impl)
    for name, column, wanted in zip(COLUMNS, found, clean, strict=True):
        assert (column[[2, 5]] == 0).all() and torch.equal(column[[0, 1, 3, 4]], wanted), name
    assert (slope[[2, 5]] == 0).all() and torch.isfinite(slope).all()


def test_all_rows_ignored(impl):
    student, teacher, labels, upstream = case()
    labels[:] = IGNORE
    found, slope = values_and_gradient(
        ours(impl, skip_ignored=True), student, labels, teacher, upstream
    )
    assert all((column == 0).all() for column in found) and (slope == 0).all()


def test_rows_without_upstream_are_not_read(impl):
    student, teacher, labels, upstream = case(6)
    student[0], teacher[5], student[3, 2] = nan, nan, inf
    upstream[[0, 3, 5]] = 0
    _, slope = values_and_gradient(ours(impl), student, labels, teacher, upstream)
    assert (
        (slope[[0, 3, 5]] == 0).all()
        and torch.isfinite(slope).all()
        and (slope[[1, 2, 4]] != 0).any(1).all()
    )


@pytest.mark.parametrize("label", [37, -1, -99, 2**62, -(2**63)])
def test_labels_out_of_range(impl, label):
    """Refused by name on the CPU.

    The backward operator, which does not look, never uses one as an index.
    """
    student, teacher, labels, upstream = case()
    table = torch.ops.clear_ref.token_stats(student, teacher, labels, False, True, impl == "native")
    labels[1] = label
    with pytest.raises(LabelError, match=rf"labels\[1\] is {label}; .*\[0, 37\)"):
        token_terms(student, labels, teacher, impl=impl)
    weights = torch.ones(formulas.N_STATS, 4)
    slope = torch.ops.clear_ref.token_dlogits(
        student, teacher, labels, table, weights, False, impl == "native"
    )
    assert torch.isnan(slope[1]).all() and torch.isfinite(slope[[0, 2, 3]]).all()
    weights[formulas.NLL] = 0
    slope = torch.ops.clear_ref.token_dlogits(
        student, teacher, labels, table, weights, False, impl == "native"
    )
    assert torch.isfinite(slope).all()


def test_no_rows(impl):
    student = torch.randn(0, 5, requires_grad=True)
    found = columns(student, torch.zeros(0, dtype=torch.int64), torch.randn(0, 5), impl)
    weighted(found, torch.zeros(0, 4)).backward()
    assert all(column.shape == (0,) for column in found) and student.grad.shape == (0, 5)


def test_float64_belongs_to_torch():
    student, teacher, labels, _ = rows(3, 5)
    with pytest.raises(ShapeError, match="dtype torch.float64"):
        token_terms(student, labels, teacher, impl="native")
    assert token_terms(student, labels, teacher).nll.dtype == torch.float64


def test_student_and_teacher_may_differ_in_dtype(impl):
    student, teacher, labels, _ = rows(5, 37, dtype=torch.bfloat16)
    for name, mixed, wanted in zip(
        COLUMNS,
        columns(student, labels, teacher.float(), impl),
        columns(student.float(), labels, teacher.float(), impl),
        strict=True,
    ):
        assert torch.equal(mixed, wanted), name


# 4. Bits.

SHAPES = [(1, 151936), (11, 2049), (40, 32064), (3, 37)]


def bits(student, labels, teacher, upstream):
    found, slope = values_and_gradient(ours("native"), student, labels, teacher, upstream)
    return [*found, slope]


def same(one, two):
    """Equal bits of what both have: one of them may be without the gradient."""
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bits_on_every_run_and_any_number_of_threads(
    instruction_set, threads, shape, dtype
):
    inputs = rows(*shape, dtype=dtype)
    student, teacher, labels, upstream = inputs
    labels[0], upstream[0] = 3, 1
    threads(1)
    first = bits(student, labels, teacher, upstream)
    for count in (1, 2, 5):
        threads(count)
        assert same(first, bits(student, labels, teacher, upstream)), count


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocabulary", [37, 2049, 4113])
def test_a_rows_bits_do_not_depend_on_its_place_or_alignment(instruction_set, dtype, vocabulary):
    student, teacher, labels, upstream = rows(9, vocabulary, dtype=dtype)
    whole = bits(student, labels, teacher, upstream)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    turned = bits(student[order], labels[order], teacher[order], upstream[order])
    assert same([value[order] for value in whole], turned)
    for i in range(9):
        assert same(
            [value[i : i + 1] for value in whole],
            bits(*(x[i : i + 1] for x in (student, labels, teacher, upstream))),
        )
    for left in range(1, 5):
        wide = [F.pad(z, (left, 3), value=nan)[:, left:-3] for z in (student, teacher)]
        found = [column.detach() for column in columns(wide[0], labels, wide[1])]
        assert same(whole, found), left
        leaf = wide[0].requires_grad_()
        (slope,) = torch.autograd.grad(weighted(columns(leaf, labels, wide[1]), upstream), leaf)
        assert torch.equal(slope, whole[-1]) and slope.is_contiguous(), left


@pytest.mark.parametrize("vocabulary", [37, 2049])
def test_any_column_stride_gives_the_same_bits(instruction_set, vocabulary):
    student, teacher, labels, upstream = rows(6, vocabulary, dtype=torch.float32)
    whole = columns(student, labels, teacher)
    spread = torch.stack([student, student + 1], -1)[..., 0]
    assert same(whole, columns(spread, labels, teacher.T.contiguous().T))
    assert same(
        columns(student[:1].repeat(6, 1), labels, teacher),
        columns(student[:1].expand(6, -1), labels, teacher),
    )


@NATIVE_BEST
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (7, 1), (7, 16), (7, 33), (5, 4113)])
@pytest.mark.parametrize("scale", [3.0, 1e3])
def test_avx2_and_avx512_give_the_same_bits(shape, dtype, scale):
    student, teacher, labels, upstream = rows(*shape, scale, dtype=dtype)
    results = []
    for name in ("avx2", "avx512"):
        with native.use_instruction_set(name):
            results.append(bits(student, labels, teacher, upstream))
    assert same(*results)


# 5. Offsets beyond 2^31 elements. The buffers are virtual memory: only the pages under the rows are
# touched.


def test_offsets_beyond_32_bits(impl):
    step, vocabulary = 2**30, 4113
    student, teacher, labels, upstream = case(3, vocabulary, torch.bfloat16)
    try:
        buffers = [torch.empty(2 * step + vocabulary + 7, dtype=torch.bfloat16) for _ in range(2)]
    except RuntimeError as error:
        pytest.skip(f"8 GiB of address space cannot be had: {error}")
    far = [buffer.as_strided((3, vocabulary), (step, 1), 5) for buffer in buffers]
    for view, near in zip(far, (student, teacher), strict=True):
        view.copy_(near)
    native_too = impl == "native"
    table = torch.ops.clear_ref.token_stats(far[0], far[1], labels, False, True, native_too)
    assert torch.equal(
        table, torch.ops.clear_ref.token_stats(student, teacher, labels, False, True, native_too)
    )
    weights = torch.randn(formulas.N_STATS, 3, generator=torch.Generator().manual_seed(2))
    found = torch.ops.clear_ref.token_dlogits(
        far[0], far[1], labels, table, weights, False, native_too
    )
    near = torch.ops.clear_ref.token_dlogits(
        student, teacher, labels, table, weights, False, native_too
    )
    assert torch.equal(found, near) and found.is_contiguous()
    truth = by_torch(student, labels, teacher)
    assert (
        max(
            errors(
                [
                    table[row]
                    for row in (
                        formulas.NLL,
                        formulas.ENTROPY,
                        formulas.TEACHER_NLL,
                        formulas.KL_TEACHER_STUDENT,
                        formulas.KL_STUDENT_TEACHER,
                    )
                ],
                truth,
            )
        )
        <= 2e-6
    )


# 6. The operators under torch's own tools.


@pytest.mark.slow
@pytest.mark.parametrize("native_too", [True, False])
@pytest.mark.parametrize("with_teacher", [True, False])
def test_opcheck(native_too, with_teacher):
    student, teacher, labels, _ = case()
    teacher = teacher if with_teacher else None
    torch.library.opcheck(
        torch.ops.clear_ref.token_stats, (student, teacher, labels, False, True, native_too)
    )
    leaf = student.clone().requires_grad_()
    torch.library.opcheck(
        torch.ops.clear_ref.token_stats, (leaf, teacher, labels, True, True, native_too)
    )
    table = torch.ops.clear_ref.token_stats(student, teacher, labels, False, True, native_too)
    inputs = (student, teacher, labels, table, torch.ones(formulas.N_STATS, 4), False, native_too)
    torch.library.opcheck(torch.ops.clear_ref.token_dlogits, inputs)


@pytest.mark.slow
def test_compiled_whole_equals_eager(impl):
    def loss(student, labels, teacher, upstream):
        return weighted(columns(student, labels, teacher, impl), upstream)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, vocabulary in ((4, 37), (9, 101)):
        student, teacher, labels, upstream = case(n, vocabulary)
        results = []
        for function in (loss, compiled):
            leaf = student.clone().requires_grad_()
            value = function(leaf, labels, teacher, upstream)
            value.backward()
            results.append((value.detach(), leaf.grad))
        assert same(*results), (n, vocabulary)


# 7. Gradients: once, the student's only, the label's column.


def test_differentiable_once(impl):
    student, teacher, labels, _ = case()
    nll = token_terms(student.requires_grad_(), labels, teacher, impl=impl).nll.sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(nll, student, create_graph=True)


def test_the_teacher_gets_no_gradient(impl):
    student, teacher, labels, upstream = case()
    student.requires_grad_(), teacher.requires_grad_()
    found = token_terms(student, labels, teacher, impl=impl)
    assert not found.teacher_nll.requires_grad and not found.teacher_entropy.requires_grad
    weighted([getattr(found, name) for name in COLUMNS], upstream).backward()
    assert teacher.grad is None and torch.isfinite(student.grad).all()
    only = token_terms(student.detach(), labels, teacher, impl=impl)
    assert not only.kl_teacher_student.requires_grad


def test_the_gradient_of_lse(impl):
    """d lse / dz = p, to fp32: 4 roundings of log p < 16, relative."""
    student, _, labels, _ = case()
    leaf = student.requires_grad_()
    token_terms(leaf, labels, impl=impl).lse.sum().backward()
    p = F.softmax(student.detach().double(), -1)
    assert ((leaf.grad - p).abs() <= 16 * 4 * 2**-24 * p).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gap", [4.0, 8.0, 12.0, 14.0])
def test_the_label_column_of_a_confident_token_is_not_lost(impl, dtype, gap):
    """z = (gap, 0): p - 1 = -1 / (1 + e^gap) at the label. Formed after rounding p to bf16 it would
    be 0 from gap 6 on. fp32: the kernel has expm1 in double of a sum whose lanes are fp32, sixteen
    roundings; torch's p - 1 is a difference of fp32 numbers near 1, good to 2^-24 absolute.
    """
    leaf = torch.tensor([[gap, 0.0]], dtype=dtype, requires_grad=True)
    token_terms(leaf, torch.tensor([0]), impl=impl).nll.backward()
    wanted = -1 / (1 + torch.tensor(gap, dtype=torch.float64).exp())
    slack = 0 if impl == "native" else 2**-23
    allowed = (torch.finfo(dtype).eps + 2**-20) * wanted.abs() + slack
    assert (leaf.grad[0, 0].double() - wanted).abs() <= allowed and leaf.grad[0, 0] < 0
