"""SKU's second stage, on weights: the trained change, subtracted from the model before it."""

from clear_ref.common.errors import ShapeError
from clear_ref.losses.formulas import accumulation_dtype


def negate_delta(theta_0, theta_1):
    """{name: 2 theta_0 - theta_1} of two dicts of weights: stage 2. Computed in fp32 or float64; theta_0's dtypes.

    raises  ShapeError naming the tensor that is missing, extra or of another shape
    """
    for name in sorted(theta_0.keys() ^ theta_1.keys()):
        raise ShapeError(
            f"weight {name} is in only one of the two models; expected the same names in both"
        )
    for name in theta_0:
        if theta_0[name].shape != theta_1[name].shape:
            raise ShapeError(
                f"weight {name} has shape {list(theta_1[name].shape)} after training; "
                f"expected {list(theta_0[name].shape)}"
            )
    return {name: _negated(theta_0[name], theta_1[name]) for name in theta_0}


def _negated(before, after):
    dtype = accumulation_dtype(before, after)
    return (2 * before.to(dtype) - after.to(dtype)).to(before.dtype)
