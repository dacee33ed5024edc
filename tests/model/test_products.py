"""Products in 16 bits that are computed in float32 block by block: as near to float64 as torch's.

Truth is float64 of the same 16-bit numbers. torch's own product in 16 bits and ours both sum in
float32 and round once, so each is within half a unit in the last place (2^-8 of a bfloat16's size,
2^-11 of a float16's) plus float32's rounding of the sum.

Run: python -m pytest tests/model/test_products.py
"""

import pytest
import torch
import torch.nn.functional as F

from clear_ref.data.torch_draws import torch_generator
from clear_ref.model import products

UNIT = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # of a number between 1 and 2


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def dtype(request, monkeypatch):
    """A 16-bit dtype on a CPU that has no instructions for it; 300 rows make 5 blocks."""
    monkeypatch.setattr(products, "has_instructions", lambda dtype: dtype.itemsize > 2)
    monkeypatch.setattr(products, "BLOCK", 2**14)
    return request.param


def normal(name, *shape, dtype):
    return torch.randn(*shape, generator=torch_generator(0, name)).to(dtype)


def check(found, true, dtype, sizes):
    """sizes: the sum of the absolute values of its summands; float32 errs by 2^-22 of it."""
    assert found.dtype == dtype
    wrong = (found.double() - true).abs()
    assert bool((wrong <= UNIT[dtype] / 2 * true.abs() * 1.01 + 2.0**-22 * sizes).all())


def test_a_product_and_its_gradient(dtype):
    x = normal("x", 2, 20, 256, dtype=dtype).requires_grad_()
    weight, bias = normal("w", 300, 256, dtype=dtype), normal("b", 300, dtype=dtype)
    assert products.is_widened(x, weight)
    y = products.linear(x, weight, bias)
    grad = normal("g", *y.shape, dtype=dtype)
    y.backward(grad)
    wide = x.detach().double()
    sizes = F.linear(wide.abs(), weight.double().abs(), bias.double().abs())
    check(y, F.linear(wide, weight.double(), bias.double()), dtype, sizes)
    sizes = grad.double().abs() @ weight.double().abs()
    check(x.grad, grad.double() @ weight.double(), dtype, sizes)


def test_without_bias(dtype):
    x, weight = normal("x", 20, 256, dtype=dtype), normal("w", 300, 256, dtype=dtype)
    sizes = F.linear(x.double().abs(), weight.double().abs())
    found = products.linear(x, weight, None)
    check(found, F.linear(x.double(), weight.double()), dtype, sizes)


def test_nothing_wide_is_kept_for_backward(dtype):
    """Only the weight itself, whatever its size in float32 is."""
    x = normal("x", 20, 256, dtype=dtype).requires_grad_()
    weight, kept = normal("w", 300, 256, dtype=dtype), []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, id):
        products.linear(x, weight, None)
    assert [each.data_ptr() for each in kept] == [weight.data_ptr()]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients(dtype, masked):
    """As near to float64 as torch's own in 16 bits, up to one unit of the largest entry."""
    q, k, v = (normal(name, 1, 4, 600, 128, dtype=dtype).requires_grad_() for name in "qkv")
    mask = torch.ones(600, 600, dtype=torch.bool).tril(2) if masked else None
    grad = normal("g", *q.shape, dtype=dtype)
    results = {}
    for name, function, inputs in (
        ("ours", lambda *qkv: products.attention(*qkv, mask, not masked), (q, k, v)),
        (
            "true",
            lambda *qkv: F.scaled_dot_product_attention(*qkv, mask, is_causal=not masked),
            tuple(each.detach().double().requires_grad_() for each in (q, k, v)),
        ),
    ):
        y = function(*inputs)
        results[name] = (y, *torch.autograd.grad(y, inputs, grad.to(y.dtype)))
    for ours, true in zip(results["ours"], results["true"], strict=True):
        assert ours.dtype == dtype
        ours, true = ours.detach(), true.detach()
        assert float((ours.double() - true).abs().max()) <= UNIT[dtype] * float(true.abs().max())


def test_other_products_are_torchs(monkeypatch):
    """float32, few rows, small weights and weights that are trained are left as they were."""
    monkeypatch.setattr(products, "has_instructions", lambda dtype: dtype.itemsize > 2)
    weight = torch.zeros(300, 256, dtype=torch.bfloat16)
    rows = torch.zeros(20, 256, dtype=torch.bfloat16)
    assert products.is_widened(rows, weight)
    assert not products.is_widened(rows.float(), weight.float())
    assert not products.is_widened(rows[:8], weight)
    assert not products.is_widened(rows[:, :128], weight[:, :128])
    assert not products.is_widened(rows, torch.nn.Parameter(weight))


def test_a_torch_without_mkldnn_is_not_asked_for_instructions(monkeypatch):
    """It has no functions that say: 16-bit products are computed in float32 there."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    found = [products.has_instructions.__wrapped__(dtype) for dtype in (*UNIT, torch.float32)]
    assert found == [False, False, True]
