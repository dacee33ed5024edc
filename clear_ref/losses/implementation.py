"""Chooses the implementation of the token terms: native (compiled) or torch (formulas.py).

`token_terms(impl="auto")` asks here what "auto" means. It is, in this order: what the innermost
`with use_implementation(...)` says, what the environment variable CLEAR_REF_IMPL says, native where
the kernel is built.
"""

import warnings
from functools import cache

import torch

from clear_ref.common.errors import ShapeError, UserError

from . import native
from .choice import check_name, default_implementation

_WITHOUT_PREDICTIONS = (
    "the compiled kernel was built from older sources, without predictions; expected one of these "
    "sources: install clear_ref again"
)
NATIVE_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def choose_implementation(
    impl: str = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    predictions: bool = False,
) -> str:
    """ "native" or "torch": which one runs for `impl` on a device, for logits of a dtype.

    auto     see above; then native where it is built and supports device and dtype, else torch. If
             the choice or the environment says native, a missing kernel is an error
    native   must be built and support device and dtype (float64 runs in torch only)
    predictions  whether they are asked for: a kernel from older sources has none
    raises   UserError for an unknown name, or native where it is not built; ShapeError where it
             does not support device or dtype
    """
    check_name(impl, "impl")
    wanted = default_implementation() if impl == "auto" else impl
    if wanted == "torch":
        return "torch"
    if wanted == "native":
        native.kernel()  # raises if it is not built
    if not native.built():
        return "torch"
    device = torch.device(device)
    if impl == "native":
        _check_native_supports(device, dtype, predictions)
        return "native"
    if dtype not in NATIVE_DTYPES:
        return "torch"
    if not _supports_device(device):
        if device.type == "cuda":
            _warn_without_cuda()
        return "torch"
    if predictions and not native.HAS_PREDICTIONS:
        _warn_without_predictions()
        return "torch"
    return "native"


def _supports_device(device: torch.device) -> bool:
    return device.type == "cpu" or (device.type == "cuda" and bool(native.CUDA_TARGETS))


def _check_native_supports(device: torch.device, dtype: torch.dtype, predictions: bool) -> None:
    if dtype not in NATIVE_DTYPES:
        raise ShapeError(
            f"student_logits has dtype {dtype}; expected bfloat16, float16 or float32 for "
            "impl='native': use impl='torch'"
        )
    if not _supports_device(device):
        raise ShapeError(
            f"student_logits is on {device}; expected a device the kernel was built for: "
            "use impl='torch'"
        )
    if predictions and not native.HAS_PREDICTIONS:
        raise UserError(f"impl is 'native', but {_WITHOUT_PREDICTIONS}")


@cache
def _warn_without_cuda() -> None:
    warnings.warn(
        "the compiled kernel has no CUDA part: token terms on the GPU run in plain PyTorch; "
        "install where nvcc is found",
        stacklevel=3,
    )


@cache
def _warn_without_predictions() -> None:
    warnings.warn(
        f"{_WITHOUT_PREDICTIONS}. Predictions run in plain PyTorch",
        stacklevel=3,
    )
