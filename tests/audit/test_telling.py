"""How a number tells models apart: AUC, interval, p-value, rank correlation and U-LIRA by hand, and
the table of a perfect, a useless and a reversed definition.
"""

import itertools
import math

import numpy as np
import pytest

from clear_ref.audit.members import members
from clear_ref.audit.numbers import Number, u_lira_definition
from clear_ref.audit.results import U_LIRA, table
from clear_ref.audit.telling import (
    exact_p,
    interval_of_auc,
    mean_ranks,
    rank_correlation,
    sign_of,
    telling_auc,
    u_lira,
)
from clear_ref.common.errors import UserError
from clear_ref.evaluation.definition_names import (
    FORGOT,
    KNOWS,
    LIKE_GOLD,
    MIXED,
    UNLIKE_GOLD,
)
from clear_ref.evaluation.definitions import Definition
from clear_ref.report import audit_table

Z = 1.959963984540054


class TestAuc:
    def test_pairs_counted_by_hand(self):
        """3, 4, 5 against 1, 2, 3: eight pairs are right, one is a tie. 8.5 of 9."""
        assert telling_auc([3, 4, 5], [1, 2, 3], 1) == 8.5 / 9
        assert telling_auc([3, 4, 5], [1, 2, 3], -1) == 0.5 / 9
        assert telling_auc([7, 7], [7, 7], 1) == telling_auc([7, 7], [7, 7], -1) == 0.5

    def test_the_direction_says_which_group_is_higher(self):
        assert [sign_of(each) for each in (KNOWS, UNLIKE_GOLD, MIXED)] == [1, 1, 1]
        assert [sign_of(each) for each in (FORGOT, LIKE_GOLD)] == [-1, -1]


def deviation(theta, m, n):
    """Of an AUC theta, by Hanley and McNeil 1982: Q1 and Q2 are the chances of two right pairs."""
    q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
    both = (m + n) / 2 - 1
    return math.sqrt(
        (theta * (1 - theta) + both * (q1 - theta**2) + both * (q2 - theta**2)) / (m * n)
    )


class TestInterval:
    @pytest.mark.parametrize("found", [0.0, 0.2, 0.5, 0.86, 1.0])
    @pytest.mark.parametrize("m,n", [(5, 5), (8, 8), (3, 9)])
    def test_it_holds_what_a_grid_of_true_values_finds(self, found, m, n):
        """Every ten-thousandth theta that is within z deviations of `found`."""
        grid = [k / 10000 for k in range(10001)]
        held = [each for each in grid if abs(found - each) <= Z * deviation(each, m, n)]
        low, high = interval_of_auc(found, m, n)
        assert low == pytest.approx(held[0], abs=1e-4) and high == pytest.approx(held[-1], abs=1e-4)

    def test_separate_groups_of_five_have_an_interval(self):
        """(1 - t)^2 = z^2 t (1 - t) (1 + 4 (1 - t) / (2 - t) + 4 t / (1 + t)) / 25 at t = 0.6427:
        0.1277 = 3.8415 * 0.2296 * (1 + 1.0530 + 1.5650) / 25.
        """
        low, high = interval_of_auc(1.0, 5, 5)
        assert high == 1.0 and low == pytest.approx(0.6427, abs=1e-4)
        assert interval_of_auc(0.0, 5, 5) == pytest.approx((0.0, 1 - low))

    def test_it_holds_the_true_auc_of_five_against_five(self):
        """Normal groups: 95 % of 4,000 intervals, give or take what its approximation costs."""
        draws = np.random.default_rng(0)
        intervals = {k / 50: interval_of_auc(k / 50, 5, 5) for k in range(51)}
        for shift in (0.0, 1.0, 2.0):
            true = 0.5 * (1 + math.erf(shift / 2))
            high = draws.normal(shift, 1, (4000, 5, 1))
            low = draws.normal(0, 1, (4000, 1, 5))
            found = (high > low).mean((1, 2)).round(2)
            held = np.mean([a <= true <= b for a, b in (intervals[each] for each in found)])
            assert 0.93 <= held <= 0.995


class TestExactP:
    @pytest.mark.parametrize(
        "first,second",
        [
            ([1, 2, 3], [4, 5, 6]),
            ([1, 2, 2], [2, 3, 3, 3]),
            ([0.1, 0.4, 0.4, 0.9], [0.4, 0.9, 1.5]),
            ([1, 1, 1], [1, 1]),
        ],
    )
    def test_every_division_counted(self, first, second):
        """|AUC - 1/2| of all divisions into groups, one by one."""
        every, m = [*first, *second], len(first)

        def far(chosen):
            rest = [each for k, each in enumerate(every) if k not in chosen]
            own = [every[k] for k in chosen]
            return abs(2 * sum((a > b) + (a == b) / 2 for a in own for b in rest) - m * len(rest))

        divisions = list(itertools.combinations(range(len(every)), m))
        here = far(tuple(range(m)))
        share = sum(far(each) >= here for each in divisions) / len(divisions)
        assert exact_p(first, second) == share

    def test_separate_groups_of_five(self):
        assert exact_p([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == 2 / math.comb(10, 5)


class TestRankCorrelation:
    def test_ranks_by_hand(self):
        """Ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4, less their mean 2.5: 3 / sqrt(4.5 * 5)."""
        assert mean_ranks([10, 20, 20, 30]) == [1, 2.5, 2.5, 4]
        found = rank_correlation([10, 20, 20, 30], [2, 1, 3, 4])
        assert found == pytest.approx(3 / math.sqrt(4.5 * 5), rel=1e-14)
        assert rank_correlation([1, 2, 3], [9, 4, 1]) == pytest.approx(-1, rel=1e-14)

    def test_a_constant_has_none(self):
        assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
        with pytest.raises(UserError, match="2 and 3 values"):
            rank_correlation([1, 2], [1, 2, 3])


class TestULira:
    def test_two_against_two_by_hand(self):
        """Losses 0 and 2 with, 10 and 12 without. For the first the others have means 2 and 11 and
        variance (1 + 1) / (1 + 2 - 2) = 2: (11^2 - 2^2) / 4.
        """
        found = u_lira(np.array([[0.0], [2.0]]), np.array([[10.0], [12.0]]))
        assert found == ([117 / 4, (81 - 4) / 4], [(4 - 81) / 4, (4 - 121) / 4])

    def test_it_is_a_mean_over_records(self):
        one = u_lira(np.array([[0.0], [2.0]]), np.array([[10.0], [12.0]]))
        twice = u_lira(np.array([[0.0] * 2, [2.0] * 2]), np.array([[10.0] * 2, [12.0] * 2]))
        assert twice == one

    def test_one_model_is_too_few(self):
        with pytest.raises(UserError, match="two models of each kind"):
            u_lira(np.zeros((1, 3)), np.zeros((2, 3)))


def made_up(direction, metric):
    definition = Definition(metric, "words", "text", "source", direction)
    return Number(metric, definition, ("paper",), metric != "useless", 0.0)


def made_table():
    """Six made-up definitions of three models with and three without, in two conditions."""
    described = [
        made_up(KNOWS, "reversed"),
        made_up(KNOWS, "useless"),
        made_up(FORGOT, "perfect"),
        made_up(KNOWS, "constant"),
        made_up(KNOWS, "undefined"),
        Number(U_LIRA, u_lira_definition("One.\n\n    two"), ("robustness",), True, 0.0),
    ]
    trained = {
        "with": [[1, 1, -4, 0.25, None, 7], [2, 4, -5, 0.25, 1, 8], [3, 9, -6, 0.25, 1, 9]],
        "without": [[4, 1, -1, 0.25, 1, 1], [5, 4, -2, 0.25, 1, 2], [6, 9, -3, 0.25, 1, 3]],
    }
    names = [number.name for number in described]
    trained = {
        kind: [dict(zip(names, values, strict=True)) for values in group]
        for kind, group in trained.items()
    }
    turned = {"with": trained["without"], "without": trained["with"]}
    return table(described, {"trained": trained, "4 bits": turned})


class TestTable:
    def test_perfect_useless_and_reversed(self):
        rows = {row["metric"]: row for row in made_table()}
        aucs = {name: row["conditions"]["trained"]["auc"] for name, row in rows.items()}
        assert aucs == {
            **{"perfect": 1.0, "useless": 0.5, "reversed": 0.0},
            **{"constant": 0.5, "undefined": None, U_LIRA: 1.0},
        }
        assert rows["perfect"]["expects"] == "lower" and rows["reversed"]["expects"] == "higher"
        assert rows["perfect"]["conditions"]["4 bits"]["auc"] == 0.0
        assert rows["perfect"]["conditions"]["trained"]["p"] == 2 / 20

    def test_what_tells_nothing_by_construction_is_named(self):
        notes = {row["metric"]: row["note"] for row in made_table() if row["note"]}
        assert notes == {
            "constant": "0.25 for every model",
            "undefined": "undefined for 1 of 6 models",
        }

    def test_the_best_comes_first(self):
        order = [row["metric"] for row in made_table()]
        assert order == ["perfect", "u_lira", "useless", "constant", "reversed", "undefined"]

    def test_correlation_is_oriented(self):
        """perfect expects lower values: -4, -5, -6 turned agree with 7, 8, 9."""
        found = {row["metric"]: row["correlation"] for row in made_table()}
        assert found["perfect"] == found[U_LIRA] == pytest.approx(1.0)
        assert found["constant"] is None and found["undefined"] is None
        # ranks 1 2 3 4 5 6 against 4 5 6 1 2 3: 1 - 6 * 6 * 9 / (6 * 35)
        assert found["reversed"] == pytest.approx(1 - 6 * 54 / 210, rel=1e-12)


def test_gold_is_in_no_group():
    found = [member.name for member in members(2, 7)]
    assert found == ["gold-seed7", "with-seed8", "without-seed8", "with-seed9", "without-seed9"]
    with pytest.raises(UserError, match="--models is 1; expected 2 to 100"):
        members(1, 0)


def found_of(rows):
    """The parts of metrics.json that the printed texts use."""
    return {
        **{"models": 3, "members": ["gold-seed0"], "epochs": 1, "lr": 0.1, "rows": rows},
        **{"conditions": ["trained", "4 bits"], "relearned_records": 1, "relearn_steps": 1},
        **{"missing": "", "out": "runs/audit", "seconds": 1.0},
    }


class TestTexts:
    def test_what_a_reader_does_not_expect_is_said(self):
        assert audit_table.findings(found_of(made_table())) == [
            "about the people to forget, and trained at 0.6 or less (1): reversed (reversed)",
            "about others, and trained at 0.9 or more, or 0.1 or less (0): none",
            "trained at 0.9 or more, and 4 bits at 0.6 or less (2): perfect (perfect), u_lira "
            "(log_quotient_of_gaussians)",
        ]

    def test_each_condition_is_counted(self):
        assert audit_table.counts(found_of(made_table())) == [
            "trained: of 5 numbers 2 have AUC 1, 2 are within 0.1 of 0.5, 1 are below; 1 undefined",
            "4 bits: of 5 numbers 1 have AUC 1, 2 are within 0.1 of 0.5, 2 are below; 1 undefined",
        ]

    def test_the_table_says_which_are_constant(self):
        text = audit_table.terminal(found_of(made_table()))
        assert "0.50*" in text and "* constant (constant): 0.25 for every model" in text
        [line] = [each for each in text.splitlines() if each.startswith("perfect")]
        cells = line.split()
        assert cells[:6] == ["perfect", "perfect", "v1", "forget", "lower", "1.00"]
        assert cells[-4:] == ["0.100", "0.00", "1.00", "paper"]
