"""Distances of samples and distributions: Jensen-Shannon, Kolmogorov-Smirnov, ROC area."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from clear_ref.common.errors import UserError


def jensen_shannon_distance(p: ArrayLike, q: ArrayLike) -> float:
    """Square root of the Jensen-Shannon divergence of two distributions, in [0, sqrt(ln 2)].

    formula sqrt((KL(p || m) + KL(q || m)) / 2), m = (p + q) / 2, natural logarithm; p and q are
            first divided by their sums
    source  Endres and Schindelin 2003; scipy.spatial.distance.jensenshannon is the same
    """
    first = np.asarray(p, float)
    second = np.asarray(q, float)
    if not _are_distributions(first, second):
        raise UserError(
            f"distributions of shapes {first.shape} and {second.shape}; expected equal lengths, no "
            "negative share and a positive sum"
        )
    first = first / first.sum()
    second = second / second.sum()
    middle = (first + second) / 2
    terms = []
    for distribution in (first, second):
        for share, middle_share in zip(distribution, middle, strict=True):
            if share > 0:
                terms.append(share * math.log(share / middle_share))
    return math.sqrt(max(math.fsum(terms) / 2, 0.0))


def _are_distributions(first: np.ndarray, second: np.ndarray) -> bool:
    """True for two vectors of one length without a negative entry, each with a positive sum."""
    if first.shape != second.shape or first.ndim != 1:
        return False
    return min(first.sum(), second.sum()) > 0 and min(first.min(), second.min()) >= 0


def ks_statistic(a: Iterable[float], b: Iterable[float]) -> float:
    """The two-sample Kolmogorov-Smirnov statistic, in [0, 1]: the largest difference of the two
    empirical distribution functions.

    a, b    [n_a], [n_b] finite numbers, one or more each; UserError otherwise
    """
    h, n_a, n_b = _largest_difference(a, b)
    return h / math.lcm(n_a, n_b)


def ks_p_value(a: Iterable[float], b: Iterable[float]) -> float:
    """Exact probability, in [0, 1], of a KS statistic that is at least as large, if both samples
    were drawn from one continuous distribution.

    formula       the share of the C(n_a + n_b, n_a) orders of the samples in which the largest
                  difference of the two distribution functions is at least as large
    equal sizes   2 T_1 (1 - T_2 (1 - T_3 ...)), T_k = prod_{j<h} (n - (k-1)h - j) / (n + (k-1)h + j
                  + 1), in doubles: the order of operations of scipy.stats.ks_2samp, whose doubles
                  TOFU and open-unlearning published
    other sizes   the quotient of two counts of lattice paths, integers, rounded once
    large sizes   exact too; scipy's ks_2samp, which TOFU and open-unlearning call, changes to an
                  asymptotic approximation if a sample has more than 10,000 numbers
    source        Gnedenko and Korolyuk 1951; Hodges 1958, "The significance probability of the
                  Smirnov two-sample test"
    flaw          as a forget quality: for the same difference it falls with the number of records;
                  it underflows below 1e-308 (log10_ks_p_value does not); with ties it is
                  conservative
    """
    return p_of_difference(*_largest_difference(a, b))


def p_of_difference(h: int, n_a: int, n_b: int) -> float:
    """ks_p_value of two samples of n_a and n_b numbers with the statistic h / lcm(n_a, n_b)."""
    if h == 0:
        return 1.0
    if n_a != n_b:
        n_reaching, n_orders = _orders_as_far_apart(h, n_a, n_b)
        return n_reaching / n_orders
    nested = 0.0
    for first in range(n_a // h * h, -1, -h):
        term = 1.0
        for j in range(h):
            term = (n_a - first - j) * term / (n_a + first + j + 1)
        nested = term * (1.0 - nested)
    return min(max(2.0 * nested, 0.0), 1.0)


def log10_ks_p_value(a: Iterable[float], b: Iterable[float]) -> float:
    """log10 of ks_p_value, from integers alone, at most 0. Finite also for a p-value that is too
    small for a double.

    source  as ks_p_value; the paper's text tables print the natural logarithm, ln(10) times this
    """
    return log10_p_of_difference(*_largest_difference(a, b))


def log10_p_of_difference(h: int, n_a: int, n_b: int) -> float:
    """log10_ks_p_value of two samples of n_a and n_b numbers with the statistic h / lcm."""
    if h == 0:
        return 0.0
    n_reaching, n_orders = _orders_as_far_apart(h, n_a, n_b)
    p = n_reaching / n_orders
    if p > 1e-290:
        return math.log10(p)
    return math.log10(n_reaching) - math.log10(n_orders)


def auc(low: Iterable[float], high: Iterable[float]) -> float:
    """Probability, in [0, 1], that a number drawn from `low` is less than one drawn from `high`;
    a tie counts half.

    formula (pairs with low < high + half the equal pairs) / all pairs; the area under the ROC curve
    source  open-unlearning's mia_auc (src/evals/metrics/mia/utils.py): low are the scores of forget
            records, high those of records that no model has seen
    flaw    1/2 is perfect unlearning, and 0 is as far from it as 1
    """
    low_sorted = _sorted_sample(low)
    high_sorted = _sorted_sample(high)
    n_less = np.searchsorted(low_sorted, high_sorted, "left").sum()
    n_less_or_equal = np.searchsorted(low_sorted, high_sorted, "right").sum()
    return int(n_less + n_less_or_equal) / (2 * len(low_sorted) * len(high_sorted))


def true_positive_rate(low: Iterable[float], high: Iterable[float], most_false: float) -> float:
    """The largest share of `low` that a threshold finds, in [0, 1], where it finds at most the
    share `most_false` of `high`.

    formula max over t of (numbers of low that are t or less) / their number, where the same of
            high is at most most_false
    source  Carlini et al. 2022, "Membership inference attacks from first principles": the ROC curve
            at a low false positive rate; low: scores of records that a model was trained on, high:
            of others, and the attack calls a score of t or less trained on
    flaw    with fewer than 1 / most_false numbers of high no false positive is allowed, so the
            lowest one of them decides
    """
    low_sorted, high_sorted = _sorted_sample(low), _sorted_sample(high)
    n_allowed = math.floor(most_false * len(high_sorted) * (1 + 1e-12))
    if n_allowed >= len(high_sorted):
        return 1.0
    # Every threshold below this number finds at most n_allowed of high; one at it finds more.
    limit = high_sorted[n_allowed]
    return int(np.searchsorted(low_sorted, limit, "left")) / len(low_sorted)


def _sorted_sample(values: Iterable[float]) -> np.ndarray:
    """The numbers in ascending order; UserError unless there is one or more and all are finite."""
    sample = np.sort(np.asarray(list(values), float))
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        n_not_finite = int((~np.isfinite(sample)).sum())
        raise UserError(
            f"a sample of shape {sample.shape} with {n_not_finite} that are not finite; expected "
            "one finite number or more"
        )
    return sample


def _largest_difference(a: Iterable[float], b: Iterable[float]) -> tuple[int, int, int]:
    """(h, n_a, n_b): the KS statistic is h / lcm(n_a, n_b). h is an integer, so it has no rounding
    error."""
    sample_a = _sorted_sample(a)
    sample_b = _sorted_sample(b)
    n_a, n_b = len(sample_a), len(sample_b)
    values = np.concatenate([sample_a, sample_b])
    divisor = math.gcd(n_a, n_b)
    height_of_a = np.searchsorted(sample_a, values, "right") * (n_b // divisor)
    height_of_b = np.searchsorted(sample_b, values, "right") * (n_a // divisor)
    return int(np.abs(height_of_a - height_of_b).max()), n_a, n_b


def _orders_as_far_apart(h: int, n_a: int, n_b: int) -> tuple[int, int]:
    """(number of orders in which the distribution functions differ by h/lcm or more somewhere,
    number of all orders); h >= 1."""
    n_orders = math.comb(n_a + n_b, n_a)
    if n_a == n_b:
        # Lattice paths that reach one of the two lines, counted by reflections.
        signed = sum(
            (-1) ** (k + 1) * math.comb(2 * n_a, n_a - k * h) for k in range(1, n_a // h + 1)
        )
        return 2 * signed, n_orders
    wide = max(n_a, n_b)
    narrow = min(n_a, n_b)
    divisor = math.gcd(n_a, n_b)
    # After x of the wide sample and y of the narrow one the difference is |x run - y rise| / lcm.
    run = narrow // divisor
    rise = wide // divisor
    # inside[y]: number of orders up to (x, y) in which the difference was always smaller than h/lcm
    inside = [1] + [0] * narrow
    for x in range(wide + 1):
        first = max((x * run - h) // rise + 1, 0)
        last = min(-((-x * run - h) // rise) - 1, narrow)
        from_left = 0
        for y in range(first, last + 1):
            from_left += inside[y]
            inside[y] = from_left
    return n_orders - inside[narrow], n_orders
