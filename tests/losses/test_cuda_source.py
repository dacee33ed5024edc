"""csrc/token_terms_cuda.cu, compiled as C++ and run by the emulator in tests/cuda_on_cpu.

Its logic is compared with float64; no GPU is needed.

The emulator's 2^x is wrong by 2 units in the last place everywhere but at 0, as PTX allows the real
one to be.
Run: python -m pytest tests/losses/test_cuda_source.py
"""

import ctypes
import shutil
import subprocess
from math import inf, isnan, log, nan
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IGNORE = -100
ROWS = (
    "lse",
    "nll",
    "teacher_lse",
    "teacher_nll",
    "kl_teacher_student",
    "kl_student_teacher",
    "entropy",
    "teacher_entropy",
    "lse_low",
    "teacher_lse_low",
    "top",
    "teacher_at_top",
    "gap",
    "gap_low",
    "drop",
    "drop_low",
)
(
    LSE,
    NLL,
    TEACHER_LSE,
    TEACHER_NLL,
    KL_TEACHER_STUDENT,
    KL_STUDENT_TEACHER,
    ENTROPY,
    TEACHER_ENTROPY,
    LSE_LOW,
    TEACHER_LSE_LOW,
    TOP,
    TEACHER_AT_TOP,
    GAP,
    GAP_LOW,
    DROP,
    DROP_LOW,
) = range(len(ROWS))
READ_BY_BACKWARD = (LSE, NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY)
TYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
)  # by the number that token_terms.h gives them
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
GUARD = 64  # elements on both sides of every output

# Relative to max(1, |value|). A sum of V positive fp32 terms, each wrong by 2^-22 (two units of
# 2^x) or less, over many lanes: its relative error, hence nll's absolute one, is below 2^-22 and in
# the mean far less. The KL divergences multiply the error of a weight by the distance of its log
# ratio from the mean one, which is of order one for the rows drawn here. Added to that is the
# rounding of the result itself, 2^-24.
CLOSE = {
    LSE: 3e-7,
    NLL: 7e-7,
    TEACHER_LSE: 3e-7,
    TEACHER_NLL: 7e-7,
    KL_TEACHER_STUDENT: 4e-7,
    KL_STUDENT_TEACHER: 4e-7,
    ENTROPY: 4e-7,
    TEACHER_ENTROPY: 4e-7,
}
# Of the store: half a unit in the last place, and fp16's half of the smallest subnormal.
STORED = {torch.float32: (0, 0), torch.bfloat16: (2**-8, 0), torch.float16: (2**-11, 2**-25)}
# Relative to the size of the terms that a gradient row is the sum of. fp32: the row's scalars, the
# product, the sums and the store each round by 2^-24 or less. 16 bits: 2^x is wrong by 2^-22 and
# its argument's rounding adds about as much.
COMPUTED = {torch.float32: 3e-7, torch.bfloat16: 1e-6, torch.float16: 1e-6}


def compiled(directory, *flags):
    """The C++ functions of entry.cpp, compiled with further flags."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the CUDA source as C++")
    built = directory / "emulated.so"
    here = ROOT / "tests" / "cuda_on_cpu"
    # No contraction: products and sums round as they are written. No fortified longjmp: fibres jump
    # between stacks.
    command = [
        compiler,
        "-O2",
        "-std=c++17",
        "-ffp-contract=off",
        "-U_FORTIFY_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-shared",
        "-I",
        str(here),
        "-I",
        str(ROOT / "csrc"),
        *flags,
        str(here / "entry.cpp"),
        "-o",
        str(built),
    ]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(built))
    for name in ("stats", "dlogits", "both", "broken_barrier", "broken_shuffle"):
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.workspace.restype = ctypes.c_int64
    loaded.missing_barrier.restype = loaded.ex2.restype = ctypes.c_float
    return loaded


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("cuda_on_cpu"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: a second thread only waits, and on a busy machine it waits long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gpu(library):
    return Emulated(library)


class Emulated:
    """The two C++ functions on torch tensors.

    Outputs are placed between guards, which must keep their bits.
    """

    def __init__(self, library):
        self.library = library
        self.machine()

    def machine(
        self, order=0, multiprocessors=1, largest_grid=2**31 - 1, device=0, driver=True, fails_at=-1
    ):
        """Thread order 0 (forward), 1 (reverse) or a seed.

        One multiprocessor: two rows or more are a block each.
        """
        self.library.machine(order, multiprocessors, largest_grid, device, int(driver), fails_at)

    def happened(self):
        numbers = (ctypes.c_int64 * 5)()
        self.library.happened(numbers)
        return dict(
            zip(
                ("device", "devices_set", "launches", "student_read", "teacher_read"),
                numbers,
                strict=True,
            )
        )

    def launched(self, i):
        numbers = (ctypes.c_int64 * 4)()
        self.library.launched(ctypes.c_int64(i), numbers)
        return dict(zip(("stream", "device", "blocks", "threads"), numbers, strict=True))

    def stats(
        self,
        student,
        teacher,
        labels,
        entropy=True,
        skip=False,
        device=0,
        stream=0,
        error=None,
        predictions=False,
    ):
        n, n_rows = len(student), len(ROWS) + (2 if predictions else 0)
        numbers = self._numbers(student, teacher, skip)
        floats = self.library.workspace(numbers, device)
        workspace = guarded(floats, torch.float32) if floats else None
        table = guarded(n_rows * n, torch.float32)
        text = self.library.stats(
            pointer(student),
            pointer(teacher),
            pointer(labels),
            numbers,
            2 if predictions else int(entropy),
            inside(table),
            None if workspace is None else inside(workspace),
            device,
            ctypes.c_void_p(stream),
        )
        assert text == error, text
        if workspace is not None:
            opened(workspace)
        return opened(table).reshape(n_rows, n)

    def dlogits(
        self, student, teacher, labels, table, upstream, skip=False, device=0, stream=0, error=None
    ):
        gradient = guarded(student.numel(), student.dtype)
        text = self.library.dlogits(
            pointer(student),
            pointer(teacher),
            pointer(labels),
            self._numbers(student, teacher, skip),
            pointer(table.contiguous()),
            pointer(upstream.contiguous()),
            inside(gradient),
            device,
            ctypes.c_void_p(stream),
        )
        assert text == error, text
        return opened(gradient).reshape(student.shape)

    def one_pass(
        self, student, teacher, labels, upstream, entropy=True, skip=False, device=0, stream=0
    ):
        """(table, gradient) of stats_and_dlogits."""
        numbers = self._numbers(student, teacher, skip)
        floats = self.library.workspace(numbers, device)
        workspace = guarded(floats, torch.float32) if floats else None
        table = guarded(len(ROWS) * len(student), torch.float32)
        gradient = guarded(student.numel(), student.dtype)
        text = self.library.both(
            pointer(student),
            pointer(teacher),
            pointer(labels),
            numbers,
            int(entropy),
            inside(table),
            None if workspace is None else inside(workspace),
            pointer(upstream.contiguous()),
            inside(gradient),
            device,
            ctypes.c_void_p(stream),
        )
        assert text is None, text
        return opened(table).reshape(len(ROWS), -1), opened(gradient).reshape(student.shape)

    def both(self, student, teacher, labels, upstream, **options):
        table = self.stats(student, teacher, labels, **options)
        return table, self.dlogits(
            student, teacher, labels, table, upstream, options.get("skip", False)
        )

    def _numbers(self, student, teacher, skip):
        assert student.stride(1) == 1 and (teacher is None or teacher.dtype == student.dtype)
        teacher_stride = 0 if teacher is None else teacher.stride(0)
        return (ctypes.c_int64 * 7)(
            student.stride(0),
            teacher_stride,
            *student.shape,
            IGNORE,
            TYPES.index(student.dtype),
            int(skip),
        )


def pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def guarded(count, dtype):
    return torch.full((count + 2 * GUARD,), -77.0, dtype=dtype)


def inside(buffer):
    return ctypes.c_void_p(buffer.data_ptr() + GUARD * buffer.element_size())


def opened(buffer):
    """The output between the guards.

    -77 is what was there before: no row drawn here has it as a result.
    """
    assert (buffer[:GUARD] == -77).all() and (buffer[-GUARD:] == -77).all(), (
        "written outside an output"
    )
    return buffer[GUARD:-GUARD].clone()


def rows(n, vocabulary, dtype=torch.float32, scale=3.0, seed=0, noise=1.0):
    """Student, teacher (the student with noise), labels with the first and last ignored, upstream
    with a row of zeros.
    """
    g = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(n, vocabulary, generator=g)
    teacher = student + noise * torch.randn(n, vocabulary, generator=g)
    labels = torch.randint(0, vocabulary, (n,), generator=g)
    labels[0] = labels[-1] = IGNORE
    upstream = torch.randn(len(ROWS), n, generator=g)
    upstream[:, n // 2] = 0
    return student.to(dtype), teacher.to(dtype), labels, upstream


def columns(student, teacher, labels):
    """The rows of the table that are terms, in float64, by torch's own functions.

    -inf columns add 0.
    """
    ls = F.log_softmax(student.double(), -1)
    found = {
        LSE: student.double().logsumexp(-1),
        ENTROPY: mean(ls, -ls),
        NLL: F.cross_entropy(student.double(), labels, ignore_index=IGNORE, reduction="none"),
    }
    if teacher is not None:
        lt = F.log_softmax(teacher.double(), -1)
        found |= {
            TEACHER_LSE: teacher.double().logsumexp(-1),
            TEACHER_ENTROPY: mean(lt, -lt),
            TEACHER_NLL: F.cross_entropy(
                teacher.double(), labels, ignore_index=IGNORE, reduction="none"
            ),
            KL_TEACHER_STUDENT: mean(lt, lt - ls),
            KL_STUDENT_TEACHER: mean(ls, ls - lt),
        }
    return found


def mean(log_weight, value):
    return torch.where(
        log_weight.exp() == 0, torch.zeros_like(value), log_weight.exp() * value
    ).sum(-1)


def weights(upstream, labels):
    """[n, 1] in float64: l, c, a, b, h of token_terms.h; c = 0 where the label is ignored."""
    lse, c, a, b, h = (upstream[k].double() for k in READ_BY_BACKWARD)
    return (column.unsqueeze(1) for column in (lse, torch.where(labels == IGNORE, 0, c), a, b, h))


def certified(student, teacher, labels, upstream):
    """The gradient by float64 automatic differentiation of `columns`."""
    leaf = student.double().requires_grad_()
    found = columns(leaf, teacher, labels)
    sum((found[k] * upstream[k].double()).sum() for k in READ_BY_BACKWARD if k in found).backward()
    return leaf.grad


def term_sizes(student, teacher, labels, upstream):
    """[n, 1]: the largest over a row's columns of the sum of the absolute terms of the gradient's
    formula; a log is at least 1, since the rounding of lse does not shrink with it.
    """
    lse, c, a, b, h = weights(upstream, labels)
    found = columns(student, teacher, labels)
    log_p = F.log_softmax(student.double(), -1).clamp(-1e38)
    sizes = c.abs() + lse.abs() + h.abs() * (found[ENTROPY].unsqueeze(1) + log_p.abs() + 1)
    if teacher is not None:
        log_q = F.log_softmax(teacher.double(), -1).clamp(-1e38)
        kl = found[KL_STUDENT_TEACHER].unsqueeze(1)
        sizes = (
            log_p.exp() * (sizes + a.abs() + b.abs() * (kl + log_p.abs() + log_q.abs() + 1))
            + a.abs() * log_q.exp()
        )
    else:
        sizes = log_p.exp() * sizes
    return (sizes + c.abs() * F.one_hot(labels.clamp(min=0), student.shape[1])).amax(
        1, keepdim=True
    )


def assert_terms(table, student, teacher, labels):
    for k, expected in columns(student, teacher, labels).items():
        error = (table[k].double() - expected).abs() / expected.abs().clamp(min=1)
        assert error.max() <= CLOSE[k], f"{ROWS[k]}: {error.max():.2e}, allowed {CLOSE[k]:.0e}"
    for high, low, logits in ((LSE, LSE_LOW, student), (TEACHER_LSE, TEACHER_LSE_LOW, teacher)):
        if logits is not None:  # together far closer than fp32: the low part is what rounding lost
            gap = (
                (table[high].double() + table[low].double() - logits.double().logsumexp(-1))
                .abs()
                .max()
            )
            assert gap <= 3e-7, f"{ROWS[high]}: {gap:.2e}"


def assert_gradient(gradient, student, teacher, labels, upstream):
    expected = certified(student, teacher, labels, upstream)
    relative, absolute = STORED[student.dtype]
    allowed = (
        relative * expected.abs()
        + absolute
        + COMPUTED[student.dtype] * term_sizes(student, teacher, labels, upstream)
    )
    error = (gradient.double() - expected).abs()
    assert (error <= allowed).all(), f"gradient: {(error - allowed).max():.2e} more than allowed"


def same_bits(a, b):
    return torch.equal(a.contiguous().view(BITS[a.dtype]), b.contiguous().view(BITS[b.dtype]))


# ---- the emulator itself ----


def test_the_emulator_finds_a_barrier_that_some_threads_miss(gpu):
    assert b"barrier" in gpu.library.broken_barrier()
    gpu.machine()
    assert b"shuffle" in gpu.library.broken_shuffle()


def test_the_emulator_shows_a_missing_barrier_by_the_order_of_threads(gpu):
    seen = []
    for order in (0, 1):
        gpu.machine(order=order)
        seen.append(gpu.library.missing_barrier())
    assert seen == [0.0, 1.0]


def test_the_emulated_power_of_two_is_as_wrong_as_allowed_and_no_more(gpu):
    wrong = []
    for x in np.linspace(-100, 0, 4001, dtype=np.float32)[:-1]:
        exact = np.float32(2.0 ** np.float64(x))
        wrong.append(
            abs(np.float64(gpu.library.ex2(ctypes.c_float(x))) - np.float64(exact))
            / np.spacing(exact)
        )
    assert (
        max(wrong) == 2 and min(wrong) >= 1
    )  # below a power of two the next number is half a unit away
    assert gpu.library.ex2(ctypes.c_float(0)) == 1 and gpu.library.ex2(ctypes.c_float(-inf)) == 0
    assert isnan(gpu.library.ex2(ctypes.c_float(nan)))


# ---- values and gradients ----


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocabulary", [*range(1, 70), 2047, 2048, 2049, 4113, 9000])
def test_terms_and_gradient_agree_with_float64(gpu, dtype, vocabulary):
    student, teacher, labels, upstream = rows(4, vocabulary, dtype, seed=vocabulary)
    table, gradient = gpu.both(student, teacher, labels, upstream)
    assert_terms(table, student, teacher, labels)
    assert_gradient(gradient, student, teacher, labels, upstream)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("upstream_row", READ_BY_BACKWARD)
def test_each_term_alone_has_its_gradient(gpu, dtype, upstream_row):
    student, teacher, labels, upstream = rows(5, 300, dtype)
    table = gpu.stats(student, teacher, labels)
    alone = torch.zeros_like(upstream)
    alone[upstream_row] = upstream[upstream_row]
    assert_gradient(
        gpu.dlogits(student, teacher, labels, table, alone), student, teacher, labels, alone
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocabulary", [24, 4113])
def test_without_a_teacher_its_rows_are_zero_and_its_upstream_is_not_used(gpu, dtype, vocabulary):
    student, _, labels, upstream = rows(4, vocabulary, dtype)
    table, gradient = gpu.both(student, None, labels, upstream)
    of_teacher = [
        TEACHER_LSE,
        TEACHER_NLL,
        KL_TEACHER_STUDENT,
        KL_STUDENT_TEACHER,
        TEACHER_ENTROPY,
        TEACHER_LSE_LOW,
        TEACHER_AT_TOP,
        GAP,
        GAP_LOW,
    ]
    assert (table[of_teacher] == 0).all()
    upstream[[KL_TEACHER_STUDENT, KL_STUDENT_TEACHER]] = 0
    assert_terms(table, student, None, labels)
    assert_gradient(gradient, student, None, labels, upstream)


@pytest.mark.parametrize("teacher_too", [False, True])
def test_entropies_are_zero_unless_asked_for_and_change_nothing_else(gpu, teacher_too):
    student, teacher, labels, _ = rows(4, 4113, torch.bfloat16)
    teacher = teacher if teacher_too else None
    full, lean = (
        gpu.stats(student, teacher, labels),
        gpu.stats(student, teacher, labels, entropy=False),
    )
    assert (lean[[ENTROPY, TEACHER_ENTROPY]] == 0).all() and (full[ENTROPY] > 0).all()
    full[[ENTROPY, TEACHER_ENTROPY, DROP, DROP_LOW]] = 0
    assert same_bits(full, lean)


@pytest.mark.parametrize("scale", [30.0, 1e3, 1e4])
def test_large_logits_are_right_to_the_rounding_of_the_result(gpu, scale):
    for dtype in (torch.float32, torch.bfloat16):
        student, teacher, labels, upstream = rows(6, 2049, dtype, scale=scale, noise=scale / 3)
        table, gradient = gpu.both(student, teacher, labels, upstream)
        assert_terms(table, student, teacher, labels)
        assert_gradient(gradient, student, teacher, labels, upstream)


@pytest.mark.parametrize("scale", [3.0, 10.0, 100.0])
@pytest.mark.parametrize("upstream_row", [ENTROPY, KL_STUDENT_TEACHER])
def test_a_sure_students_gradient_is_right_beside_its_largest_entry(gpu, scale, upstream_row):
    """Relative to that entry, by the definition whose logs are relative to the largest column. 2^x
    is wrong by 2^-22, in the sums and not in fp32 gradients; differences of logits, factor, product
    and store round by 2^-24 each. A difference of fp32 sums of the size of KL would be wrong by
    1e-6 of KL, and the gradient may be a small fraction of KL.
    """
    student, _, labels, upstream = rows(6, 4113, scale=scale, seed=8)
    teacher = rows(6, 4113, scale=scale, seed=9)[0]
    upstream[:] = 0
    upstream[upstream_row] = 1
    _, gradient = gpu.both(student, teacher, labels, upstream)
    z, t, top = student.double(), teacher.double(), student.argmax(1, keepdim=True)
    p, x = z.softmax(-1), z - z.gather(1, top)
    factor = -x if upstream_row == ENTROPY else (z - t) - (z - t).gather(1, top)
    expected = p * (factor - (p * factor).sum(-1, keepdim=True))
    error = (gradient.double() - expected).abs().amax(1) / expected.abs().amax(1)
    assert expected.abs().amax(1).min() > 1e-36 and error.max() <= 6e-7, f"{error.max():.1e}"


def test_a_common_offset_does_not_enter(gpu):
    """Offset 2^20 and logits that are multiples of 1/8.

    Exact in fp32, so that the terms are those without the offset.
    """
    student, teacher, labels, upstream = rows(6, 2049)
    student, teacher = (8 * student).round() / 8, (8 * teacher).round() / 8
    table, gradient = gpu.both(student, teacher, labels, upstream)
    moved, moved_gradient = gpu.both(student + 2**20, teacher - 2**20, labels, upstream)
    terms = [NLL, TEACHER_NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY, TEACHER_ENTROPY]
    assert same_bits(table[terms], moved[terms])
    assert (
        moved[LSE].double() + moved[LSE_LOW] - table[LSE].double() - table[LSE_LOW] - 2**20
    ).abs().max() < 1e-7
    upstream[LSE] = 0
    largest = term_sizes(student, teacher, labels, upstream)
    assert ((gradient - moved_gradient).abs() <= 2 * COMPUTED[torch.float32] * largest).all()


def test_nll_is_never_negative_and_a_sure_label_keeps_its_gradient(gpu):
    """p - 1 = -63 e^-gap / (1 + 63 e^-gap).

    Formed after rounding p to bf16 it would be a multiple of 2^-8.
    """
    labels, upstream = torch.zeros(1, dtype=torch.int64), torch.zeros(len(ROWS), 1)
    upstream[NLL] = 1
    for dtype in TYPES:
        for gap in (2.0, 5.5, 8.0, 11.0, 40.0):
            student = torch.zeros(1, 64, dtype=dtype)
            student[0, 0] = gap
            table, gradient = gpu.both(student, None, labels, upstream)
            others = 63 * np.exp(-gap)
            # The 63 weights are one number, wrong by 2^-22; 2^-23 for nll's own rounding, at most
            # 2.3.
            assert (
                0 <= table[NLL, 0]
                and abs(table[NLL, 0].item() - np.log1p(others)) <= 2**-22 + 2**-23
            )
            relative, absolute = STORED[dtype]
            expected = -others / (1 + others)
            assert abs(gradient[0, 0].item() - expected) <= relative * -expected + absolute + 2**-22


@pytest.mark.parametrize("dtype", TYPES)
def test_probabilities_below_the_cut_are_exactly_zero(gpu, dtype):
    """log p is -87 in column 1 and -86.5 in column 2.

    The cut is at -86.9. fp16 rounds both gradients to 0.
    """
    student = torch.tensor([[0.0, -87.0, -86.5, -20.0]], dtype=dtype)
    teacher = torch.zeros_like(student)
    labels, upstream = torch.tensor([IGNORE]), torch.zeros(len(ROWS), 1)
    table = gpu.stats(student, teacher, labels)
    for upstream_row in (LSE, KL_STUDENT_TEACHER, ENTROPY):
        alone = upstream.clone()
        alone[upstream_row] = 2.0**30 if dtype != torch.float16 else 2.0**120
        gradient = gpu.dlogits(student, teacher, labels, table, alone)
        assert gradient[0, 1] == 0 and gradient[0, 2] != 0


def test_kl_of_equal_rows_is_zero_and_of_nearly_equal_rows_not_negative(gpu):
    for dtype in TYPES:
        for multiprocessors in (1, 40):
            gpu.machine(multiprocessors=multiprocessors)
            student, _, labels, _ = rows(4, 4500, dtype)
            table = gpu.stats(student, student.clone(), labels)
            assert (table[[KL_TEACHER_STUDENT, KL_STUDENT_TEACHER]] == 0).all()
    student, _, labels, _ = rows(12, 700)
    teacher = student * (1 + 2**-22)
    table = gpu.stats(student, teacher, labels)
    assert (table[[KL_TEACHER_STUDENT, KL_STUDENT_TEACHER]] >= 0).all()


# ---- edges: row 2 of 5 holds them, in one block (1 multiprocessor) and split (40) ----


def edge(gpu, dtype, multiprocessors, change):
    """Table and gradients with row 2 changed; the other rows keep their bits.

    One gradient is of all terms, one is without kl_student_teacher.
    """
    gpu.machine(multiprocessors=multiprocessors)
    student, teacher, labels, upstream = rows(5, 4500 if multiprocessors > 1 else 45, dtype, seed=3)
    upstream[:, 2] = torch.arange(1, len(ROWS) + 1) / 7
    labels[2] = 7
    plain, plain_gradient = gpu.both(student, teacher, labels, upstream)
    change(student, teacher, labels)
    table, gradient = gpu.both(student, teacher, labels, upstream)
    others = [0, 1, 3, 4]
    assert same_bits(table[:, others], plain[:, others]) and same_bits(
        gradient[others], plain_gradient[others]
    )
    without = upstream.clone()
    without[KL_STUDENT_TEACHER] = 0
    return dict(
        student=student,
        teacher=teacher,
        labels=labels,
        table=table[:, 2],
        gradient=gradient[2],
        upstream=upstream,
        without=without,
        gradient_without=gpu.dlogits(student, teacher, labels, table, without)[2],
    )


def by_formula(found, upstream):
    """Row 2 of the gradient by the formula of token_terms.h, in float64.

    A term whose factor or probability is 0 is left out.
    """
    lse, c, a, b, h = (w[2] for w in weights(upstream, found["labels"]))
    terms = columns(found["student"], found["teacher"], found["labels"])
    log_p, log_q = (F.log_softmax(found[name].double(), -1)[2] for name in ("student", "teacher"))
    p, q = log_p.exp(), log_q.exp()
    alpha = c + a + lse - h * terms[ENTROPY][2]
    inner = alpha + (b - h) * log_p
    if b != 0:
        inner = inner - b * terms[KL_STUDENT_TEACHER][2] - b * log_q
    dz = torch.where(p == 0, 0.0, p * inner) - a * q
    dz[found["labels"][2]] -= c[0]
    return dz


def close_to(gradient, expected, size=20.0):
    """`size` bounds the row's terms: upstreams up to 10/7, logs and divergences up to about 10."""
    relative, absolute = STORED[gradient.dtype]
    return (
        (gradient.double() - expected).abs()
        <= relative * expected.abs() + absolute + COMPUTED[gradient.dtype] * size
    ).all()


def close(found, *which, at_least=0.0):
    expected = columns(found["student"], found["teacher"], found["labels"])
    for k in which:
        value = expected[k][2]
        assert abs(found["table"][k].double() - value) <= max(CLOSE[k], at_least) * max(
            1, abs(value)
        ), ROWS[k]
    return True


STUDENT_ROWS, TEACHER_ROWS = (LSE, NLL, ENTROPY), (TEACHER_LSE, TEACHER_NLL, TEACHER_ENTROPY)
PLACES = pytest.mark.parametrize("multiprocessors", [1, 40])
ALL_TYPES = pytest.mark.parametrize("dtype", TYPES)


@ALL_TYPES
@PLACES
def test_minus_infinity_in_both_contributes_nothing(gpu, dtype, multiprocessors):
    def change(student, teacher, labels):
        student[2, 10:14] = teacher[2, 10:14] = -inf

    found = edge(gpu, dtype, multiprocessors, change)
    assert close(found, *STUDENT_ROWS, *TEACHER_ROWS, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER)
    kept = [v for v in range(found["student"].shape[1]) if not 10 <= v < 14]
    small = dict(
        found, student=found["student"][:, kept], teacher=found["teacher"][:, kept]
    )  # the row without these columns
    expected = by_formula(small, found["upstream"])
    assert close_to(found["gradient"][kept], expected) and (found["gradient"][10:14] == 0).all()


@ALL_TYPES
@PLACES
def test_minus_infinity_in_the_student_makes_only_kl_teacher_student_infinite(
    gpu, dtype, multiprocessors
):
    def change(student, teacher, labels):
        student[2, 11] = -inf

    found = edge(gpu, dtype, multiprocessors, change)
    assert found["table"][KL_TEACHER_STUDENT] == inf
    assert close(found, *STUDENT_ROWS, *TEACHER_ROWS, KL_STUDENT_TEACHER)
    assert close_to(found["gradient"], by_formula(found, found["upstream"]))
    assert close_to(found["gradient_without"], by_formula(found, found["without"]))


@ALL_TYPES
@PLACES
def test_minus_infinity_in_the_teacher_makes_kl_student_teacher_infinite_and_its_gradient_nan(
    gpu, dtype, multiprocessors
):
    def change(student, teacher, labels):
        teacher[2, 11] = -inf

    found = edge(gpu, dtype, multiprocessors, change)
    assert found["table"][KL_STUDENT_TEACHER] == inf
    assert close(found, *STUDENT_ROWS, *TEACHER_ROWS, KL_TEACHER_STUDENT)
    assert found["gradient"][11].isnan()
    assert close_to(found["gradient_without"], by_formula(found, found["without"]))


@ALL_TYPES
@PLACES
def test_minus_infinity_at_the_label_is_an_infinite_nll_with_a_finite_gradient(
    gpu, dtype, multiprocessors
):
    def change(student, teacher, labels):
        student[2, 7] = teacher[2, 7] = -inf

    found = edge(gpu, dtype, multiprocessors, change)
    assert found["table"][NLL] == inf and found["table"][TEACHER_NLL] == inf
    assert close(found, LSE, ENTROPY, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER)
    assert found["gradient"].isfinite().all() and found["gradient"][7] == -found["upstream"][
        NLL, 2
    ].to(dtype)


@ALL_TYPES
@PLACES
@pytest.mark.parametrize("what", ["nan", "+inf", "all -inf", "nan and -inf"])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_nan_plus_infinity_and_an_empty_row_are_nan_in_all_they_touch(
    gpu, dtype, multiprocessors, what, whose
):
    def change(student, teacher, labels):
        row = (student if whose == "student" else teacher)[2]
        if what == "all -inf":
            row[:] = -inf
        else:
            row[-1] = inf if what == "+inf" else nan
            row[3] = -inf if "-inf" in what else row[3]

    found = edge(gpu, dtype, multiprocessors, change)
    own, other = (
        (STUDENT_ROWS, TEACHER_ROWS) if whose == "student" else (TEACHER_ROWS, STUDENT_ROWS)
    )
    assert found["table"][[*own, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER]].isnan().all()
    assert close(found, *other)
    assert found["gradient"].isnan().all() and found["gradient_without"].isnan().all()


@ALL_TYPES
@PLACES
@pytest.mark.parametrize("value", ["lowest", "-1e30", "-1e4"])
def test_finite_masks_are_ordinary_logits(gpu, dtype, multiprocessors, value):
    low = (
        torch.finfo(dtype).min
        if value == "lowest" or dtype == torch.float16 and value == "-1e30"
        else float(value)
    )

    def change(student, teacher, labels):
        student[2, 20:30] = teacher[2, 25:35] = low

    found = edge(gpu, dtype, multiprocessors, change)
    assert close(found, *STUDENT_ROWS, *TEACHER_ROWS)
    # A few columns decide a divergence, so that their weights' errors show: 2^-22 of 2^x, 2^-24 |x|
    # of x, |x| < 16.
    assert close(found, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, at_least=2**-22 + 16 * 2**-24)
    assert found["table"][KL_TEACHER_STUDENT] > 10 and found["table"].isfinite().all()
    assert close_to(found["gradient_without"], by_formula(found, found["without"]))


@ALL_TYPES
@PLACES
@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_rows_at_the_ends_of_the_type_are_uniform_rows(gpu, dtype, multiprocessors, end, whose):
    def change(student, teacher, labels):
        for name, logits in (("student", student), ("teacher", teacher)):
            if whose in (name, "both"):
                logits[2] = getattr(torch.finfo(dtype), end)

    found = edge(gpu, dtype, multiprocessors, change)
    uniform = log(found["student"].shape[1])
    for name, rows_ in (("student", (NLL, ENTROPY)), ("teacher", (TEACHER_NLL, TEACHER_ENTROPY))):
        if whose in (name, "both"):
            assert (found["table"][list(rows_)] - uniform).abs().max() < 1e-6
    assert close(found, *STUDENT_ROWS, *TEACHER_ROWS, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER)
    assert whose != "both" or (found["table"][[KL_TEACHER_STUDENT, KL_STUDENT_TEACHER]] == 0).all()
    assert close_to(found["gradient"], by_formula(found, found["upstream"]))


@ALL_TYPES
@PLACES
def test_a_divergence_near_the_end_of_fp32_does_not_overflow_on_the_way(
    gpu, dtype, multiprocessors
):
    """All but one of V equal teacher probabilities meet a log ratio of the largest number: KL is (V
    - 1) / V of it, and the sum that is divided by V is V - 1 times it.
    """

    def change(student, teacher, labels):
        student[2], teacher[2] = 0, 0
        student[2, 11] = torch.finfo(dtype).max

    found = edge(gpu, dtype, multiprocessors, change)
    assert close(found, *STUDENT_ROWS, *TEACHER_ROWS, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER)
    assert found["table"][KL_TEACHER_STUDENT].isfinite()


@ALL_TYPES
@PLACES
@pytest.mark.parametrize("entropy", [False, True])
def test_a_student_alone_has_the_same_edges(gpu, dtype, multiprocessors, entropy):
    gpu.machine(multiprocessors=multiprocessors)
    student, _, labels, _ = rows(8, 4501 if multiprocessors > 1 else 45, dtype)
    labels[:] = 7
    student[1], student[2, 7], student[3, 1], student[4, 2] = -inf, -inf, inf, nan
    student[5], student[6] = torch.finfo(dtype).min, torch.finfo(dtype).max
    table = gpu.stats(student, None, labels, entropy=entropy)
    own = [LSE, NLL, ENTROPY] if entropy else [LSE, NLL]
    assert table[own][:, [1, 3, 4]].isnan().all() and table[NLL, 2] == inf
    kept, expected = [0, 5, 6, 7], columns(student, None, labels)
    for k in own:
        error = (table[k] - expected[k]).abs() / expected[k].abs().clamp(min=1)
        assert error[kept].max() <= CLOSE[k], ROWS[k]
    assert (table[NLL, [5, 6]] - log(student.shape[1])).abs().max() < 1e-6


@ALL_TYPES
def test_masked_columns_of_a_student_alone_without_entropy_take_the_fast_path(gpu, dtype):
    """-inf adds 0 to a sum of exponentials by itself.

    Each logit is read once, and the label's once more.
    """
    student, _, labels, _ = rows(4, 4096, dtype)
    student[:, 5::2] = -inf
    labels[1:3] = 4
    table = gpu.stats(student, None, labels, entropy=False)
    expected = columns(student, None, labels)
    assert (
        (table[NLL].double() - expected[NLL]).abs() <= CLOSE[NLL] * expected[NLL].clamp(min=1)
    ).all()
    assert gpu.happened()["student_read"] == student.numel() + 2


# ---- labels and upstream ----


@PLACES
def test_an_ignored_label_has_no_nll_and_no_nll_gradient_but_all_other_terms(gpu, multiprocessors):
    gpu.machine(multiprocessors=multiprocessors)
    student, teacher, labels, upstream = rows(4, 4500)
    labels[:] = IGNORE
    table, gradient = gpu.both(student, teacher, labels, upstream)
    assert (table[[NLL, TEACHER_NLL]] == 0).all()
    assert_terms(table, student, teacher, labels)
    assert_gradient(gradient, student, teacher, labels, upstream)


@PLACES
def test_skipped_rows_are_not_read_and_zero(gpu, multiprocessors):
    gpu.machine(multiprocessors=multiprocessors)
    student, teacher, labels, upstream = rows(4, 4500)
    student[0], teacher[3] = nan, nan
    table = gpu.stats(student, teacher, labels, skip=True)
    assert gpu.happened()["student_read"] == 2 * 4500 + 2
    gradient = gpu.dlogits(student, teacher, labels, table, upstream, skip=True)
    assert (table[:, [0, 3]] == 0).all() and (gradient[[0, 3]] == 0).all()
    kept = gpu.stats(student, teacher, labels)
    assert same_bits(kept[:, 1:3], table[:, 1:3])
    assert_gradient(gradient[1:3], student[1:3], teacher[1:3], labels[1:3], upstream[:, 1:3])


@ALL_TYPES
def test_a_row_whose_upstream_is_zero_is_not_read_and_gets_exact_zeros(gpu, dtype):
    student, teacher, labels, upstream = rows(4, 45, dtype)
    table = gpu.stats(student, teacher, labels)
    student[:], teacher[:], table[:] = nan, nan, nan
    upstream[:] = 0
    upstream[[NLL, TEACHER_NLL, TEACHER_LSE, TEACHER_ENTROPY], 0] = (
        1  # its label is ignored; the others are not read
    )
    gradient = gpu.dlogits(student, teacher, labels, table, upstream)
    assert (gradient == 0).all() and not torch.signbit(gradient).any()
    assert gpu.happened()["student_read"] == gpu.happened()["teacher_read"] == 0


def test_the_teacher_is_not_read_without_upstream_of_a_divergence(gpu):
    student, teacher, labels, upstream = rows(4, 8192, torch.bfloat16)
    table = gpu.stats(student, teacher, labels)
    upstream[[KL_TEACHER_STUDENT, KL_STUDENT_TEACHER]] = 0
    gradient = gpu.dlogits(student, teacher, labels, table, upstream)
    assert gpu.happened()["teacher_read"] == 0
    assert same_bits(gradient, gpu.dlogits(student, None, labels, table, upstream))


@PLACES
@pytest.mark.parametrize("label", [-1, 4500, 2**40, -(2**62)])
def test_a_label_out_of_range_is_never_an_index_and_makes_its_own_terms_nan(
    gpu, multiprocessors, label
):
    gpu.machine(multiprocessors=multiprocessors)
    student, teacher, labels, upstream = rows(4, 4500)
    upstream[NLL] = torch.tensor([1.0, 1.0, 0.0, 1.0])
    upstream[KL_TEACHER_STUDENT, 2] = 1
    labels[:] = IGNORE
    ignored, _ = gpu.both(student, teacher, labels, upstream)
    labels[1:3] = label
    table, gradient = gpu.both(student, teacher, labels, upstream)
    assert table[[NLL, TEACHER_NLL], 1:3].isnan().all()
    others = [k for k in range(len(ROWS)) if k not in (NLL, TEACHER_NLL)]
    assert same_bits(table[others], ignored[others])
    assert gradient[1].isnan().all() and gradient[[0, 2, 3]].isfinite().all()


# ---- memory ----


@ALL_TYPES
@pytest.mark.parametrize("vocabulary", [33, 48, 2049, 9000])
def test_alignment_and_row_stride_change_no_bit(gpu, dtype, vocabulary):
    for teacher_too in (True, False):
        student, teacher, labels, upstream = rows(3, vocabulary, dtype)
        teacher = teacher if teacher_too else None
        expected = None
        for offset, stride in (
            (0, vocabulary + -vocabulary % 8),
            (1, vocabulary + 1),
            (8, vocabulary + 7),
            (3, vocabulary + 16),
        ):
            placed = [
                None if t is None else at_offset(t, offset, stride) for t in (student, teacher)
            ]
            found = gpu.both(*placed, labels, upstream)
            expected = expected or found
            assert same_bits(found[0], expected[0]) and same_bits(found[1], expected[1])


def at_offset(rows_, offset, stride):
    """The same rows, `offset` elements behind a 16-byte boundary and `stride` apart, with NaN
    around.
    """
    n, vocabulary = rows_.shape
    room = torch.full((offset + n * stride + 64,), nan, dtype=rows_.dtype)
    first = -(room.data_ptr() // room.element_size()) % (16 // room.element_size())
    placed = torch.as_strided(room, (n, vocabulary), (stride, 1), first + offset)
    placed.copy_(rows_)
    return placed


def test_offsets_are_64_bit(gpu, tmp_path):
    """Rows 2^30 elements apart in a sparse file: the third starts 2^31 elements in."""
    student, teacher, labels, upstream = rows(4, 100, torch.bfloat16)
    expected = gpu.both(student, teacher, labels, upstream)
    stride = 2**30
    spread = []
    for name, rows_ in (("student", student), ("teacher", teacher)):
        room = torch.from_numpy(
            np.memmap(tmp_path / name, np.int16, "w+", shape=(3 * stride + 100,))
        ).view(torch.bfloat16)
        spread.append(torch.as_strided(room, (4, 100), (stride, 1)))
        spread[-1].copy_(rows_)
    table, gradient = gpu.both(*spread, labels, upstream)
    assert same_bits(table, expected[0]) and same_bits(gradient, expected[1])


@pytest.mark.parametrize("dtype", TYPES)
def test_each_logit_is_read_once_forward_and_once_backward(gpu, dtype):
    """And the label's once more. Rows drawn here have no sure student, whose row is read again."""
    student, teacher, labels, upstream = rows(4, 8192, dtype)
    upstream[:] = 1
    table = gpu.stats(student, teacher, labels)
    assert gpu.happened()["student_read"] == gpu.happened()["teacher_read"] == student.numel() + 2
    gpu.dlogits(student, teacher, labels, table, upstream)
    assert gpu.happened()["student_read"] == gpu.happened()["teacher_read"] == student.numel() + 2


# ---- launches ----


@ALL_TYPES
def test_few_rows_are_split_over_blocks_and_merged(gpu, dtype):
    for n, vocabulary, multiprocessors in (
        (1, 20011, 132),
        (3, 9000, 4),
        (2, 40000, 132),
        (1, 4113, 8),
    ):
        gpu.machine(multiprocessors=multiprocessors)
        student, teacher, labels, upstream = rows(n, vocabulary, dtype)
        labels[:] = vocabulary - 1
        table = gpu.stats(student, teacher, labels)
        launches = [gpu.launched(i) for i in range(2)]
        assert gpu.happened()["launches"] == 2 and launches[0]["blocks"] % n == 0
        assert 2 <= launches[0]["blocks"] // n <= 16 and launches[1]["blocks"] == n
        assert_terms(table, student, teacher, labels)
        upstream[:] = 0.5
        assert_gradient(
            gpu.dlogits(student, teacher, labels, table, upstream),
            student,
            teacher,
            labels,
            upstream,
        )


def test_many_rows_or_a_small_vocabulary_need_no_workspace(gpu):
    gpu.machine(multiprocessors=4)
    for n, vocabulary in ((8, 40000), (1, 2048)):
        student, teacher, labels, _ = rows(n, vocabulary)
        assert gpu.library.workspace(gpu._numbers(student, teacher, False), 0) == 0
        before = gpu.happened()["launches"]
        gpu.stats(student, teacher, labels)
        assert gpu.happened()["launches"] == before + 1


@ALL_TYPES
@PLACES
def test_the_order_of_threads_changes_no_bit(gpu, dtype, multiprocessors):
    student, teacher, labels, upstream = rows(5, 9003, dtype)
    student[1, 5] = student[2, 9] = teacher[2, 9] = -inf
    expected = None
    for order in (0, 0, 1, 5, 6):
        gpu.machine(order=order, multiprocessors=multiprocessors)
        found = gpu.both(student, teacher, labels, upstream)
        expected = expected or found
        assert same_bits(found[0], expected[0]) and same_bits(found[1], expected[1])


@PLACES
def test_a_grid_beyond_the_limit_becomes_several_launches_with_the_same_bits(gpu, multiprocessors):
    student, teacher, labels, upstream = rows(7, 9003)
    gpu.machine(multiprocessors=multiprocessors)
    expected = gpu.both(student, teacher, labels, upstream)
    usual = gpu.happened()["launches"]
    gpu.machine(multiprocessors=multiprocessors, largest_grid=11)
    found = gpu.both(student, teacher, labels, upstream)
    assert gpu.happened()["launches"] > usual
    assert all(gpu.launched(i)["blocks"] <= 11 for i in range(gpu.happened()["launches"]))
    assert same_bits(found[0], expected[0]) and same_bits(found[1], expected[1])


def test_no_rows_launch_nothing(gpu):
    gpu.machine(driver=False)
    empty, labels = torch.empty(0, 9), torch.empty(0, dtype=torch.int64)
    assert gpu.library.workspace(gpu._numbers(empty, None, False), 0) == 0
    table = gpu.stats(empty, None, labels)
    assert gpu.dlogits(empty, None, labels, table, torch.empty(len(ROWS), 0)).shape == (0, 9)
    assert gpu.happened()["launches"] == 0


@PLACES
@pytest.mark.parametrize("current, device", [(0, 0), (0, 1), (1, 1), (1, 0)])
def test_launches_use_the_stream_and_device_given_and_the_current_device_is_restored(
    gpu, multiprocessors, current, device
):
    student, teacher, labels, upstream = rows(3, 9000)
    gpu.machine(multiprocessors=multiprocessors, device=current)
    table = gpu.stats(student, teacher, labels, device=device, stream=0x5150)
    gpu.dlogits(student, teacher, labels, table, upstream, device=device, stream=0x5150)
    happened = gpu.happened()
    assert happened["launches"] == (3 if multiprocessors > 1 else 2)
    for i in range(happened["launches"]):
        assert gpu.launched(i)["stream"] == 0x5150 and gpu.launched(i)["device"] == device
    assert happened["device"] == current and happened["devices_set"] == (
        0 if current == device else 4
    )


def test_errors_come_back_in_words_and_the_device_is_restored(gpu):
    student, teacher, labels, upstream = rows(3, 50)
    table = gpu.stats(student, teacher, labels)
    for machine, device, error in (
        (dict(driver=False), 0, b"CUDA driver version is insufficient for CUDA runtime version"),
        (dict(), 9, b"invalid device ordinal"),
        (dict(fails_at=0), 1, b"invalid configuration argument"),
    ):
        gpu.machine(**machine)
        gpu.stats(student, teacher, labels, device=device, error=error)
        gpu.dlogits(student, teacher, labels, table, upstream, device=device, error=error)
        assert gpu.happened()["device"] == 0 and gpu.happened()["launches"] == 0


def test_an_error_is_not_taken_for_one_of_the_next_call(gpu):
    student, teacher, labels, upstream = rows(3, 50)
    expected = gpu.stats(student, teacher, labels)
    gpu.stats(student, teacher, labels, device=9, error=b"invalid device ordinal")
    assert same_bits(gpu.stats(student, teacher, labels), expected)


def test_the_code_for_gpus_without_packed_extremes_gives_the_same_bits(gpu, tmp_path):
    older = Emulated(compiled(tmp_path, "-D__CUDA_ARCH__=750"))
    student, teacher, labels, upstream = rows(6, 4500, torch.bfloat16)
    student[1, 5], student[2, 6], teacher[3, 7], student[4, 8], teacher[4, 9] = (
        -inf,
        nan,
        -inf,
        inf,
        nan,
    )
    for entropy in (False, True):
        for other in (None, teacher):
            assert same_bits(
                older.stats(student, other, labels, entropy),
                gpu.stats(student, other, labels, entropy),
            )


@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("dtype", TYPES)
def test_predictions(gpu, dtype, n, with_teacher):
    """arg_max: the first of equal largest logits. E[(log p)^2] by float64; n = 1: several blocks.

    Each product of a weight, wrong by 2^-24, and a square, wrong by 2^-23, is summed in fp32 lanes.
    """
    gpu.machine(multiprocessors=4)
    student, teacher, labels, _ = rows(n, 5003, dtype)
    student[0, 17] = student[0, 4777] = student[0].max() + 1
    if n > 1:
        student[1, :3] = -inf
        student[2, 9] = nan
        student[3] = -inf
        student[4] *= 20  # one probability of almost 1
    given = teacher if with_teacher else None
    table = gpu.stats(student, given, labels, predictions=True)
    assert torch.equal(
        table[: len(ROWS)].nan_to_num(-5), gpu.stats(student, given, labels).nan_to_num(-5)
    )
    arg_max, squared = table[len(ROWS) :]
    log_p = F.log_softmax(student.double(), -1)
    wanted = mean(log_p, log_p.square())
    for row in range(n):
        if row in (2, 3):
            assert isnan(arg_max[row]) and isnan(squared[row])
        else:
            largest = (student[row] == student[row].max()).nonzero()[0]
            assert arg_max[row] == largest
            assert abs(squared[row] - wanted[row]) <= 1e-6 * max(1, wanted[row])


@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("multiprocessors, vocabulary", [(1, 5000), (4, 5000), (1, 5003)])
@pytest.mark.parametrize("dtype", TYPES)
def test_one_pass_has_the_bits_of_two(gpu, dtype, multiprocessors, vocabulary, with_teacher):
    """In one launch where each row is one block's and is on 16-byte boundaries, else in theirs."""
    gpu.machine(order=5, multiprocessors=multiprocessors)
    student, teacher, labels, upstream = rows(5, vocabulary, dtype)
    student[1, :3] = -inf
    student[3] *= 20  # one probability of almost 1
    given = teacher if with_teacher else None
    for skip in (False, True):
        table, gradient = gpu.both(student, given, labels, upstream, skip=skip)
        before = gpu.happened()["launches"]
        found = gpu.one_pass(student, given, labels, upstream, skip=skip)
        launches = gpu.happened()["launches"] - before
        one = multiprocessors == 1 and vocabulary == 5000
        assert (launches == 1) == one
        for wanted, own in ((table, found[0]), (gradient, found[1])):
            assert torch.equal(wanted.nan_to_num(-5), own.nan_to_num(-5))
            assert torch.equal(wanted.isnan(), own.isnan())
    plain = gpu.stats(student, given, labels, entropy=False)
    found = gpu.one_pass(student, given, labels, upstream * 0, entropy=False)
    assert torch.equal(plain.nan_to_num(-5), found[0].nan_to_num(-5))
    assert (found[1] == 0).all()
