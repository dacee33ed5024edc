"""Logistic regression with one feature, by Newton's method."""

import numpy as np

from clear_ref.common.errors import RunFailed, UserError

MOST_STEPS = 200
SMALLEST_STEP = 1e-13  # relative to the coefficients


def logistic_regression(
    feature: np.ndarray, is_member: np.ndarray, strength: float = 1.0
) -> tuple[float, float]:
    """(weight, bias) that minimise 1/2 weight^2 + C sum softplus(-y (weight x + bias)).

    y is 1 for a member, else -1.

    feature    [n] float64, finite
    is_member  [n] bool; both values occur
    strength   C; the bias is not penalised
    source     scikit-learn's LogisticRegression (L2, C = 1), which the released attack calls
    raises     UserError for features that are not finite and for one class alone; RunFailed if the
               steps do not end
    """
    x = np.asarray(feature, dtype=np.float64)
    if not np.isfinite(x).all():
        raise UserError("a feature of the logistic regression is not finite; expected numbers")
    if is_member.all() or not is_member.any():
        raise UserError("all rows are of one class; expected members and others")
    y = np.where(is_member, 1.0, -1.0)
    at = np.zeros(2)
    value = _value(x, y, at, strength)
    for _ in range(MOST_STEPS):
        step = _newton_step(x, y, at, strength)
        length = 1.0
        # The function is convex: a short enough part of the step lowers it.
        while length > 1e-10 and _value(x, y, at - length * step, strength) > value:
            length /= 2
        after = at - length * step
        if np.abs(length * step).max() <= SMALLEST_STEP * (1.0 + np.abs(at).max()):
            return float(after[0]), float(after[1])
        at, value = after, min(value, _value(x, y, after, strength))
    raise RunFailed(f"the logistic regression of {len(x)} rows did not end in {MOST_STEPS} steps")


def _value(x: np.ndarray, y: np.ndarray, at: np.ndarray, strength: float) -> float:
    """The function that is minimised, at (weight, bias)."""
    margin = y * (at[0] * x + at[1])
    return float(0.5 * at[0] ** 2 + strength * np.logaddexp(0.0, -margin).sum())


def _newton_step(x: np.ndarray, y: np.ndarray, at: np.ndarray, strength: float) -> np.ndarray:
    """[2] the inverse of the second derivative times the first."""
    margin = y * (at[0] * x + at[1])
    wrong = np.exp(-np.logaddexp(0.0, margin))  # sigmoid(-margin)
    slope = -strength * y * wrong
    first = np.array([at[0] + (slope * x).sum(), slope.sum()])
    curve = strength * wrong * (1.0 - wrong)
    mixed = (curve * x).sum()
    second = np.array([[1.0 + (curve * x * x).sum(), mixed], [mixed, curve.sum() + 1e-300]])
    return np.linalg.solve(second, first)
