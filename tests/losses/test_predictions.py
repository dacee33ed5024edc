"""arg_max and log_p_squared of each row are those of float64 logits, in every path.

The paths: both implementations, every instruction set, chunks, a frozen output layer. Expected
values are by hand, or float64 log_softmax, or a search of the row for its first largest number.
Run: python -m pytest tests/losses/test_predictions.py
"""

from math import inf, log, nan

import pytest
import torch
import torch.nn.functional as F

from clear_ref.common.errors import ShapeError
from clear_ref.losses import IGNORE, BatchRows, native, token_terms
from clear_ref.losses.choice import use_implementation
from clear_ref.losses.fused_head import HeadRows, head_predictions
from clear_ref.losses.operand_checks import check_vocabulary
from clear_ref.losses.rows import FrozenHead

IMPLEMENTATIONS = [
    "torch",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(
            not native.built(), reason="clear_ref was installed without the compiled kernel"
        ),
    ),
]


def first_largest(row):
    """The first column of the largest number, found one by one."""
    numbers = row.tolist()
    best = 0
    for column, number in enumerate(numbers):
        if number > numbers[best]:
            best = column
    return best


def second_moment(logits):
    """[n]: sum p (log p)^2 in float64, where 0 times anything is 0."""
    log_p = logits.double().log_softmax(-1)
    return torch.where(log_p == -inf, 0, log_p.exp() * log_p.square()).sum(-1)


def found(logits, impl, **options):
    labels = torch.zeros(len(logits), dtype=torch.int64)
    return token_terms(logits, labels, impl=impl, predictions=True, **options)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_values_worked_out_by_hand(impl):
    """p = (1/4, 3/4): E[log p^2] = 1/4 (2 log 2)^2 + 3/4 (log 3 - 2 log 2)^2. p = (1/4, ...) four
    times: log(4)^2, and all equal: the lowest id. A sure token: log p = 0.
    """
    logits = torch.tensor(
        [[0, log(3), -inf, -inf], [7.0, 7, 7, 7], [-inf, -inf, -3e4, -inf], [-0.0, 0, -9e9, -9e9]]
    )
    terms = found(logits, impl)
    assert terms.arg_max.tolist() == [1, 0, 2, 0] and terms.arg_max.dtype == torch.int64
    wanted = (
        log(2) ** 2 + 3 / 4 * (log(3) - 2 * log(2)) ** 2,
        log(4) ** 2,
        0,
        log(2) ** 2,
    )
    assert terms.log_p_squared.tolist() == pytest.approx(wanted, abs=3e-7)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("vocabulary", [1, 2, 17, 255, 4113])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_they_are_those_of_float64_and_the_other_columns_keep_their_bits(vocabulary, dtype, impl):
    """fp32: every x is rounded by 2^-24 of the row's range, twice in a square; 4e-7 of the moment
    is four times that and the sum's rounding. bf16 has many equal largest numbers.
    """
    g = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(9, vocabulary, generator=g)).to(dtype)
    logits[3] = logits[3].sort().values  # the largest changes in every block
    teacher = (logits + torch.randn(9, vocabulary, generator=g)).to(dtype)
    labels = torch.randint(0, vocabulary, (9,), generator=g)
    for given in (None, teacher):
        terms = token_terms(logits, labels, given, impl=impl, predictions=True)
        assert terms.arg_max.tolist() == [first_largest(row) for row in logits]
        wanted = second_moment(logits)
        assert (terms.log_p_squared - wanted).abs().max() <= 4e-7 * wanted.max() + 1e-7
        without = token_terms(logits, labels, given, impl=impl)
        assert without.arg_max is None and without.log_p_squared is None
        for name in ("nll", "lse", "entropy", "kl_teacher_student", "kl_student_teacher"):
            if getattr(without, name) is not None:
                assert torch.equal(getattr(terms, name), getattr(without, name)), name


@pytest.mark.skipif(not native.built(), reason="clear_ref was installed without the kernel")
def test_instruction_sets_agree_and_threads_and_place_change_no_bit():
    g = torch.Generator().manual_seed(1)
    logits = 30 * torch.randn(40, 4099, generator=g)
    by_set = {}
    for name in native.instruction_sets():
        with native.use_instruction_set(name):
            by_set[name] = found(logits, "native")
            alone = found(logits[7:8, :].clone(), "native")
        assert torch.equal(alone.log_p_squared, by_set[name].log_p_squared[7:8])
        assert torch.equal(by_set[name].arg_max, logits.argmax(1))
    for terms in by_set.values():
        wanted = second_moment(logits)
        assert (terms.log_p_squared - wanted).abs().max() <= 1e-6 * wanted.max()
    if len(by_set) > 2:
        assert torch.equal(by_set["avx2"].log_p_squared, by_set["avx512"].log_p_squared)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_row_without_a_distribution_has_no_arg_max_and_other_rows_are_not_affected(impl):
    logits = torch.zeros(5, 33)
    logits[:, 20] = 1
    logits[1, 4], logits[2, 4], logits[3] = nan, inf, -inf
    terms = found(logits, impl)
    assert terms.arg_max.tolist() == [20, -1, -1, -1, 20]
    assert terms.log_p_squared.isnan().tolist() == [False, True, True, True, False]
    labels = torch.tensor([0, IGNORE, IGNORE, IGNORE, 0])
    terms = token_terms(logits, labels, impl=impl, predictions=True, skip_ignored=True)
    assert terms.arg_max.tolist() == [20, -1, -1, -1, 20]
    assert terms.log_p_squared[1:4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_nearly_sure_token_keeps_its_digits(impl):
    """p = 1 - d with d = e^-10 / (1 + e^-10), and p = d: in float64."""
    logits = torch.tensor([[10.0, 0, -inf]])
    wanted = second_moment(logits)
    assert (found(logits, impl).log_p_squared - wanted).abs() < 3e-7 * wanted


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_they_have_no_gradient_and_the_other_columns_keep_theirs(impl):
    logits = torch.linspace(-2, 3, 30).reshape(3, 10).requires_grad_()
    labels = torch.tensor([1, IGNORE, 3])
    terms = token_terms(logits, labels, impl=impl, predictions=True)
    assert not terms.arg_max.requires_grad and not terms.log_p_squared.requires_grad
    (gradient,) = torch.autograd.grad(terms.nll.sum() + terms.entropy.sum(), logits)
    plain = token_terms(logits, labels, impl=impl)
    (wanted,) = torch.autograd.grad(plain.nll.sum() + plain.entropy.sum(), logits)
    assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_chunks_and_a_frozen_head_have_the_values_of_all_logits(temperature, dtype, impl):
    """37 rows in chunks of 5, with a teacher; whole logits in float64."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 6, generator=g, dtype=torch.float64).to(dtype)
    weight = torch.randn(53, 6, generator=g, dtype=torch.float64).to(dtype)
    ids = torch.randint(0, 53, (1, 38), generator=g)

    def logits_of(sequence, position):
        return hidden[position] @ weight.T

    def batch(chunk_rows, head):
        made = BatchRows(
            labels=ids,
            student_logits=logits_of,
            teacher_logits=lambda sequence, position: hidden[position.flip(0)] @ weight.T,
            chunk_rows=chunk_rows,
            frozen_head=head,
        )
        return made if temperature == 1 else made.at_temperature(temperature)

    head = FrozenHead(lambda sequence, position: hidden[position], weight)
    whole = hidden.double() @ weight.double().T / temperature
    nll = F.cross_entropy(whole, ids[0, 1:], reduction="none")
    with use_implementation("auto" if dtype == torch.float64 else impl):
        for made in (batch(5, head), batch(5, None), batch(100, None)):
            terms = made.predictions("answer")
            assert torch.equal(terms.arg_max, whole.argmax(1))
            assert (terms.log_p_squared - second_moment(whole)).abs().max() < 1e-5
            assert (terms.nll - nll).abs().max() < 1e-5
            assert terms.kl_teacher_student.shape == (37,)
            assert not terms.nll.requires_grad


def test_a_frozen_head_without_rows_or_a_teacher():
    rows = HeadRows(torch.eye(3), torch.zeros(0, dtype=torch.int64))
    terms = head_predictions(torch.zeros(0, 3), rows)
    assert terms.arg_max.shape == (0,) and terms.kl_teacher_student is None


def test_an_id_that_fp32_does_not_have_is_refused():
    check_vocabulary(2**24)
    with pytest.raises(ShapeError, match="16777217 columns; expected at most 16777216"):
        check_vocabulary(2**24 + 1)
