"""How far two samples, or two distributions, are apart: Jensen-Shannon, Kolmogorov-Smirnov, area under the ROC curve."""

import math

import numpy as np

from clear_ref.common.errors import UserError


def jensen_shannon_distance(p, q) -> float:
    """Square root of the Jensen-Shannon divergence of two distributions, natural logarithm; in [0, sqrt(ln 2)].

    formula sqrt((KL(p || m) + KL(q || m)) / 2), m = (p + q) / 2; p and q are first divided by their sums
    source  Endres and Schindelin 2003; scipy.spatial.distance.jensenshannon is the same
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    if p.shape != q.shape or p.ndim != 1 or min(p.sum(), q.sum()) <= 0 or min(p.min(), q.min()) < 0:
        raise UserError(
            f"distributions of shapes {p.shape} and {q.shape}; expected equal lengths, no negative "
            "share and a positive sum"
        )
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    nats = [
        share * math.log(share / middle) for r in (p, q) for share, middle in zip(r, m) if share > 0
    ]
    return math.sqrt(max(math.fsum(nats) / 2, 0.0))


def ks_statistic(a, b) -> float:
    """The two-sample Kolmogorov-Smirnov statistic: how far the two empirical distribution functions are apart, in [0, 1].

    a, b    [n_a], [n_b] finite numbers, one or more each; UserError otherwise
    """
    h, n_a, n_b = _largest_step(a, b)
    return h / math.lcm(n_a, n_b)


def ks_p_value(a, b) -> float:
    """Exact probability of a KS statistic at least as large, if both samples came from one continuous distribution; in [0, 1].

    formula share of the C(n_a + n_b, n_a) orders of the samples in which the two distribution functions are ever as far apart
    equal sizes    2 T_1 (1 - T_2 (1 - T_3 ...)), T_k = prod_{j<h} (n - (k-1)h - j) / (n + (k-1)h + j + 1), in doubles: the
                   order of operations of scipy.stats.ks_2samp, whose doubles are what TOFU and open-unlearning published
    other sizes    the quotient of two counts of lattice paths, whole numbers, rounded once
    source  Gnedenko and Korolyuk 1951; Hodges 1958, "The significance probability of the Smirnov two-sample test"
    flaw    as a forget quality: falls with the number of records for one and the same difference; underflows below 1e-308
            (log10_ks_p_value does not); with ties it is conservative
    """
    h, n_a, n_b = _largest_step(a, b)
    if h == 0:
        return 1.0
    if n_a != n_b:
        outside, every = _orders_as_far_apart(h, n_a, n_b)
        return outside / every
    nested = 0.0
    for first in range(n_a // h * h, -1, -h):
        term = 1.0
        for j in range(h):
            term = (n_a - first - j) * term / (n_a + first + j + 1)
        nested = term * (1.0 - nested)
    return min(max(2.0 * nested, 0.0), 1.0)


def log10_ks_p_value(a, b) -> float:
    """log10 of ks_p_value, from whole numbers alone: finite where the p-value itself is less than any double; at most 0.

    source  as ks_p_value; the paper's text tables print the natural logarithm, ln(10) times this
    """
    h, n_a, n_b = _largest_step(a, b)
    if h == 0:
        return 0.0
    outside, every = _orders_as_far_apart(h, n_a, n_b)
    p = outside / every
    return math.log10(p) if p > 1e-290 else math.log10(outside) - math.log10(every)


def auc(low, high) -> float:
    """Probability that a number drawn from `low` is less than one drawn from `high`, ties counting half; in [0, 1].

    formula (pairs with low < high + half the equal pairs) / all pairs; the area under the ROC curve
    source  open-unlearning's mia_auc (src/evals/metrics/mia/utils.py): low = scores of forget records, high = of unseen ones
    flaw    1/2 is a perfect unlearning, and 0 is as far from it as 1
    """
    low, high = (_sample(values) for values in (low, high))
    twice = np.searchsorted(low, high, "left").sum() + np.searchsorted(low, high, "right").sum()
    return int(twice) / (2 * len(low) * len(high))


def _sample(values) -> np.ndarray:
    """The numbers in order; UserError unless there is one or more and all are finite."""
    found = np.sort(np.asarray(list(values), float))
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise UserError(
            f"a sample of shape {found.shape} with {int((~np.isfinite(found)).sum())} that are not finite; expected "
            "one finite number or more"
        )
    return found


def _largest_step(a, b) -> tuple[int, int, int]:
    """(h, n_a, n_b): the KS statistic as a whole number of 1/lcm(n_a, n_b), so that no rounding can move it."""
    a, b = _sample(a), _sample(b)
    every, common = np.concatenate([a, b]), math.gcd(len(a), len(b))
    steps = np.searchsorted(a, every, "right") * (len(b) // common) - np.searchsorted(
        b, every, "right"
    ) * (len(a) // common)
    return int(np.abs(steps).max()), len(a), len(b)


def _orders_as_far_apart(h: int, n_a: int, n_b: int) -> tuple[int, int]:
    """(orders in which the distribution functions are ever h/lcm apart or more, all orders), whole numbers; h >= 1."""
    every = math.comb(n_a + n_b, n_a)
    if n_a == n_b:  # paths that reach one of the two lines, by reflections
        return 2 * sum(
            (-1) ** (k + 1) * math.comb(2 * n_a, n_a - k * h) for k in range(1, n_a // h + 1)
        ), every
    wide, narrow = max(n_a, n_b), min(n_a, n_b)
    common = math.gcd(wide, narrow)
    run, rise = (
        narrow // common,
        wide // common,
    )  # after x and y of the two: |x run - y rise| / lcm apart
    inside = [1] + [0] * narrow  # inside[y]: orders up to (x, y) that were never as far apart
    for x in range(wide + 1):
        left = 0
        for y in range(
            max((x * run - h) // rise + 1, 0), min(-((-x * run - h) // rise) - 1, narrow) + 1
        ):
            left += inside[y]
            inside[y] = left
    return every - inside[narrow], every
