"""AUC, exact p-value and rank correlation equal to those of scikit-learn and scipy.

Where one of the packages is not installed (the parity extra), this file is skipped.
"""

import numpy as np
import pytest

from clear_ref.audit.telling import exact_p, rank_correlation, telling_auc

sklearn = pytest.importorskip("sklearn.metrics", reason="the parity extra")
stats = pytest.importorskip("scipy.stats", reason="the parity extra")


@pytest.mark.parametrize("seed", range(20))
def test_auc_and_rank_correlation_with_ties(seed):
    """Whole numbers from 0 to 4, so most values are ties."""
    draws = np.random.default_rng(seed)
    high, low = draws.integers(0, 5, 8).tolist(), draws.integers(0, 5, 6).tolist()
    labels = [1] * len(high) + [0] * len(low)
    expected = sklearn.roc_auc_score(labels, high + low)
    assert telling_auc(high, low, 1) == pytest.approx(expected, abs=1e-15)
    u = stats.mannwhitneyu(high, low).statistic
    assert telling_auc(high, low, 1) == u / (len(high) * len(low))
    other = draws.integers(0, 5, 14).tolist()
    expected = stats.spearmanr(high + low, other).statistic
    assert rank_correlation(high + low, other) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("m,n", [(5, 5), (8, 8), (3, 7)])
def test_the_p_value_without_ties(m, n):
    """To 1e-12: scipy divides floats."""
    for seed in range(10):
        draws = np.random.default_rng(seed)
        high, low = draws.normal(1, 1, m), draws.normal(0, 1, n)
        expected = stats.mannwhitneyu(high, low, method="exact").pvalue
        assert exact_p(high.tolist(), low.tolist()) == pytest.approx(expected, rel=1e-12)
