"""Products with a weight, and attention, in 16 bits on any CPU.

torch multiplies matrices in bfloat16 or float16 on a CPU without instructions for them (AVX-512 or
AMX) with a plain loop: at 0.5 GFLOP/s, where float32 reaches 50 on the same core. There a large
weight is converted to float32 block by block, multiplied, and the result is rounded once. The sums
are float32's in both ways; only their order differs. Small weights and few rows are left to torch.
Attention is the same: its backward takes 20 times as long as in float32.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 2**24  # numbers of a weight that are in float32 at a time: 64 MB
LEAST_NUMBERS = 2**16  # of a weight that is converted
LEAST_ROWS = 16  # with fewer the conversion takes longer than the plain loop
LEAST_QUERIES = 2**18  # numbers of the queries of an attention that is converted


@cache
def has_instructions(dtype: torch.dtype) -> bool:
    """True if this CPU multiplies matrices of a dtype with instructions of its own."""
    if not torch.backends.mkldnn.is_available():  # then torch has no such functions
        return dtype.itemsize > 2
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def _is_slow(tensor: Tensor) -> bool:
    """True for a tensor whose products this CPU computes in a plain loop; False for fake ones."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and not has_instructions(tensor.dtype)
    )


def is_widened(x: Tensor, weight: Tensor) -> bool:
    """True for a product that is computed in float32."""
    return (
        not weight.requires_grad
        and weight.numel() >= LEAST_NUMBERS
        and x.numel() >= LEAST_ROWS * x.shape[-1]
        and _is_slow(weight)
    )


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """torch's scaled_dot_product_attention of q, k, v [B, heads, T or S, head_dim]."""
    if q.numel() >= LEAST_QUERIES and _is_slow(q):
        return WideAttention.apply(q, k, v, mask, is_causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b in x's dtype: [..., out] of x [..., in], weight [out, in], bias [out] or None."""
    if is_widened(x, weight):
        return Widened.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def gradient(grad_rows: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a product's input: [rows, in] of grad_rows [rows, out], weight [out, in]."""
    if not is_widened(grad_rows, weight):
        return grad_rows @ weight
    wide = grad_rows.float()
    total = wide.new_zeros(len(wide), weight.shape[1])
    n = _block_rows(weight)
    for columns, block in zip(wide.split(n, 1), weight.split(n), strict=True):
        total.addmm_(columns, block.float())
    return total.to(grad_rows.dtype)


def _block_rows(weight: Tensor) -> int:
    return max(1, BLOCK // weight.shape[1])


class Widened(torch.autograd.Function):
    """x W^T + b of a frozen weight, computed in float32. Nothing but the weight is kept.

    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        rows = x.reshape(-1, x.shape[-1]).float()
        y = x.new_empty(len(rows), len(weight))
        n = _block_rows(weight)
        biases = [None] * -(-len(weight) // n) if bias is None else bias.float().split(n)
        blocks = zip(y.split(n, 1), weight.split(n), biases, strict=True)
        for columns, block, its_bias in blocks:
            columns.copy_(F.linear(rows, block.float(), its_bias))
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        grad_rows = grad.reshape(-1, grad.shape[-1])
        return gradient(grad_rows, weight).view(*grad.shape[:-1], weight.shape[1]), None, None


class WideAttention(torch.autograd.Function):
    """Attention computed in float32, its result rounded once; backward computes it again.

    ctx  torch's context object, on which forward stores what backward needs
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.is_causal = is_causal
        y = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=mask, is_causal=is_causal
        )
        return y.to(q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, mask = ctx.saved_tensors
        with torch.enable_grad():
            q, k, v = (each.detach().float().requires_grad_() for each in inputs)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=ctx.is_causal)
        gradients = torch.autograd.grad(y, (q, k, v), grad.float())
        narrow = (each.to(grad.dtype) for each in gradients)
        return *narrow, None, None
