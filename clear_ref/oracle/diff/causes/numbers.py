"""Causes that any tensor of floats can have: rounded to a narrower dtype, or times a constant."""

import torch

from ..comparison import Causes, Fit, tolerance

NARROW = {"rounded_to_bfloat16": torch.bfloat16, "rounded_to_float16": torch.float16}
LARGEST_ROUNDED = 8  # times the tolerance of the narrow dtype: a forward rounds in every layer


def number_causes(fit: Fit, ours: torch.Tensor) -> Causes:
    """The causes of this difference that do not depend on what the tensor is.

    ours  the tensor that it differs from
    """
    ours = ours.detach().double().cpu()
    theirs = fit.theirs[fit.places]
    right = ours[fit.places]
    causes: Causes = {}
    for name, dtype in NARROW.items():
        if torch.finfo(fit.dtype).bits <= 16 or not bool(
            (theirs.to(dtype).double() == theirs).all()
        ):
            continue
        allowed, _ = tolerance(dtype, float(right.abs().max()), in_loss=False)
        if bool(((theirs - right).abs() <= LARGEST_ROUNDED * allowed).all()):
            causes[name] = ""
            break  # numbers of bfloat16 are often numbers of float16 too
    total = float(right.square().sum())
    if total:
        factor = float((theirs * right).sum()) / total
        if factor and fit.explained_by(factor * ours):
            causes["times_a_constant"] = f"the constant is {factor:.6g}"
    return causes
