"""95 % intervals: Student's t by hand, the bootstrap against the binomial distribution."""

import math

import numpy as np
import pytest

from clear_ref.evaluation import intervals, metrics
from tests.helpers import made_runs


def test_over_seeds_by_hand():
    """0.1, 0.2, 0.3: mean 0.2, s 0.1, t(2) = 4.303: half 4.303 * 0.1 / sqrt(3) = 0.24843."""
    low, high = intervals.over_seeds([0.1, 0.2, 0.3])
    assert (low, high) == pytest.approx((0.2 - 0.248434, 0.2 + 0.248434), abs=1e-5)


def test_students_t_peer():
    """scipy's quantiles, rounded to three digits."""
    stats = pytest.importorskip("scipy.stats")
    for n, value in enumerate(intervals.T_975, 1):
        assert value == pytest.approx(stats.t.ppf(0.975, n), abs=6e-4)


def two_models():
    """ROUGE of 40 records is 0 or 1 with mean 0.5; the other parts are 0.5 in every record."""
    models = {}
    for name, first in (("base", 1.0), ("other", 0.0)):
        logs = made_runs.logs({**made_runs.BASE, "text_forget": 0.5}, n=20)
        log = logs["eval_text_forget"]
        log["rougeL_recall"] = {
            index: abs(first - int(index) % 2) for index in log["rougeL_recall"]
        }
        models[name] = logs
    return models


def test_the_bootstrap_of_a_share_is_binomial_and_takes_the_same_records_of_every_model():
    """Of n = 20 records, half of them 1, a draw's ROUGE is Binomial(20, 1/2) / 20.

    Its standard deviation is sqrt(1/80) = 0.1118; of 1000 draws the estimate's error is below 10 %
    (4 standard errors of 1 / sqrt(2000)). The other model has 1 where base has 0, so the two
    ROUGEs of a draw sum to 1. The harmonic mean with two parts of 0.5 is 3 / (1/r + 4).
    """
    drawn = intervals.draw(two_models(), "text_forget")
    rouge = {name: 1 / (3 / values - 4) for name, values in drawn.items()}
    assert np.allclose(rouge["base"] + rouge["other"], 1.0)
    assert rouge["base"].std() == pytest.approx(math.sqrt(1 / 80), rel=0.1)
    assert rouge["base"].mean() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 80 / 1000))
    low, high = intervals.over_draws(rouge["base"])
    # Binomial(20, 1/2): 2.5 % and 97.5 % quantiles are 6 and 14.
    assert (low, high) == pytest.approx((0.3, 0.7), abs=0.051)


def test_the_same_seed_gives_the_same_draws_and_no_spread_of_records_gives_none():
    models = two_models()
    first, second = (intervals.draw(models, "text_forget")["base"] for _ in range(2))
    assert (first == second).all()
    values = intervals.draw(models, "retain")["base"]
    assert np.allclose(values, metrics.score(models["base"])["retain"], rtol=0, atol=1e-12)
