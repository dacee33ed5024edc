"""U-LIRA, U-MIA and the logistic regression by hand, in both definitions."""

import math

import numpy as np
import pytest

from clear_ref.common.errors import UserError
from clear_ref.visual.attacks import Guessed, guessed, logits_of, u_lira, u_mia
from clear_ref.visual.logistic import logistic_regression

ONE = [Guessed(np.array([0]), range(0, 1), range(1, 2), range(2, 5), range(5, 8))]


def one_row(*logits):
    """Logits of one picture: the target that had it, the one that had not, three shadows each."""
    return np.array([logits], dtype=np.float64)


class TestLogits:
    def test_of_a_half_is_zero_and_of_the_rest_symmetric(self):
        cosines = np.array([0.5, 0.9, 0.1])
        for definition in ("paper", "released"):
            found = logits_of(cosines, definition)
            np.testing.assert_allclose(found, [0, math.log(9), -math.log(9)], atol=1e-6)

    def test_the_released_ones_end_at_103_279_in_float32(self):
        """1e-45 rounds up to 2^-149, whose logarithm is -103.2789."""
        found = logits_of(np.array([1.0, 2.0, 0.0, -1.0], dtype=np.float32), "released")
        assert found.dtype == np.float32
        end = 149 * math.log(2)
        np.testing.assert_allclose(found, [end, end, -end, -end], rtol=1e-6)

    def test_the_paper_ones_end_at_16_6(self):
        end = 24 * math.log(2)
        found = logits_of(np.array([1.0, 2.0, 0.0, -1.0]), "paper")
        np.testing.assert_allclose(found, [end, end, -end, -end], rtol=1e-6)


class TestTargetsAndShadows:
    def test_of_128_splits_they_are_those_of_the_released_script(self):
        first, second = guessed(np.array([0]), np.array([1]), 128)
        assert (first.had, first.shadows) == (range(32), range(32, 64))
        assert (first.had_not, first.shadows_without) == (range(64, 96), range(96, 128))
        assert (second.had, second.shadows) == (range(64, 96), range(96, 128))
        assert (second.had_not, second.shadows_without) == (range(32), range(32, 64))

    def test_of_six_splits_one_of_each_half_is_a_target(self):
        first, _ = guessed(np.array([0]), np.array([1]), 6)
        assert (first.had, first.shadows) == (range(1), range(1, 3))
        assert (first.had_not, first.shadows_without) == (range(3, 4), range(4, 6))

    def test_two_splits_are_too_few(self):
        with pytest.raises(UserError, match="2 splits are too few for an attack"):
            guessed(np.array([0]), np.array([1]), 2)


class TestULira:
    @pytest.mark.parametrize("definition", ["paper", "released"])
    def test_by_hand(self, definition):
        """In: median 5, MAD 1. Out: median 0, MAD 1. The border is at 2.5."""
        shadows = (4.0, 5.0, 6.0, -1.0, 0.0, 1.0)
        assert u_lira(one_row(2.6, 2.4, *shadows), ONE, definition).accuracy == 1.0
        assert u_lira(one_row(2.4, 2.4, *shadows), ONE, definition).accuracy == 0.5
        assert u_lira(one_row(2.4, 2.6, *shadows), ONE, definition).accuracy == 0.0

    @pytest.mark.parametrize("definition", ["paper", "released"])
    def test_a_wide_gaussian_takes_what_lies_beyond_a_narrow_one(self, definition):
        """In: median 0, MAD 10. Out: median 1, MAD 0.1. 0 is ten deviations from the second."""
        shadows = (-10.0, 0.0, 10.0, 0.9, 1.0, 1.1)
        assert u_lira(one_row(0.0, 1.05, *shadows), ONE, definition).accuracy == 1.0

    def test_equal_shadows_lose_every_member_in_the_released_definition(self):
        """Deviation 0: at 4.9 both densities are 0, and 0 / 1e-45 is not above a half. The paper
        definition compares the distances.
        """
        logits = one_row(4.9, 0.1, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0).astype(np.float32)
        assert u_lira(logits, ONE, "released").accuracy == 0.5
        assert u_lira(logits, ONE, "paper").accuracy == 1.0

    def test_equal_gaussians_are_half_right_in_the_paper_definition(self):
        logits = one_row(1.0, 7.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0)
        assert u_lira(logits, ONE, "paper").accuracy == 0.5
        assert u_lira(logits, ONE, "paper").by_target == (0.5, 0.5)
        assert u_lira(logits, ONE, "released").by_target == (0.0, 1.0)


class TestUMia:
    def test_one_border_for_all_pictures(self):
        logits = one_row(3.0, 2.0, 4.0, 5.0, 6.0, -1.0, 0.0, 1.0)
        assert u_mia(logits, ONE).accuracy == 1.0
        assert u_mia(one_row(2.0, 2.0, 4.0, 5.0, 6.0, -1.0, 0.0, 1.0), ONE).by_target == (0, 1)

    def test_models_that_nothing_tells_apart_give_a_half(self):
        draws = np.random.RandomState(0).randn(40, 16)
        found = u_mia(draws, guessed(np.arange(20), np.arange(20, 40), 16))
        assert abs(found.accuracy - 0.5) < 0.1 and len(found.by_target) == 8
        assert 0 < found.spread() < 0.2


class TestLogisticRegression:
    @pytest.mark.parametrize("n", [1, 10, 1000])
    @pytest.mark.parametrize("strength", [0.1, 1.0])
    def test_two_points_solve_one_equation(self, n, strength):
        """n members at 1, n others at -1: bias 0, and w = 2 n C sigmoid(-w), by bisection."""
        low, high = 0.0, 100.0
        for _ in range(200):
            middle = (low + high) / 2
            above = middle > 2 * n * strength / (1 + math.exp(middle))
            low, high = (low, middle) if above else (middle, high)
        feature = np.array([1.0] * n + [-1.0] * n)
        weight, bias = logistic_regression(feature, feature > 0, strength)
        assert weight == pytest.approx(low, rel=1e-9) and bias == pytest.approx(0, abs=1e-9)

    def test_a_feature_that_says_nothing_gives_the_share(self):
        """All at 0: weight 0, sigmoid(bias) = share of members."""
        is_member = np.arange(10) < 3
        weight, bias = logistic_regression(np.zeros(10), is_member)
        assert weight == 0 and bias == pytest.approx(math.log(0.3 / 0.7), rel=1e-9)

    def test_logits_at_the_ends_do_not_stop_it(self):
        feature = np.array([103.279, 103.279, -103.279, 0.0, 103.279, -103.279])
        weight, _ = logistic_regression(feature, np.array([1, 1, 0, 0, 0, 1], bool))
        assert math.isfinite(weight)

    def test_one_class_and_infinite_features_are_refused(self):
        with pytest.raises(UserError, match="all rows are of one class"):
            logistic_regression(np.zeros(3), np.ones(3, bool))
        with pytest.raises(UserError, match="not finite"):
            logistic_regression(np.array([1.0, math.inf]), np.array([True, False]))
