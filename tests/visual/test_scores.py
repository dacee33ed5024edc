"""Accuracies by hand; the released reference mask is right on rows grouped by name alone."""

import math

import numpy as np
import pytest

from clear_ref.common.errors import UserError
from clear_ref.visual.scores import (
    accuracies,
    gallery,
    own_cosines,
    reference_mask,
    without_length,
)

# Two names with seven pictures each, in the plane. Name 0 lies along x, name 1 along y; the sixth
# picture of name 0 lies nearer to y. Row 4 is long: raw means move to it.
ROWS = np.array(
    [
        *([1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [6.0, 8.0], [1.0, 2.0], [3.0, 0.1]),
        *([0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 1.0], [0.0, 5.0], [0.0, 1.0], [0.1, 1.0]),
    ],
    dtype=np.float32,
)
LABELS = np.array([0] * 7 + [1] * 7)


class TestReferences:
    @pytest.mark.parametrize("definition", ["paper", "released"])
    def test_grouped_rows_have_their_first_five(self, definition):
        expected = [True] * 5 + [False] * 2
        assert reference_mask(LABELS, definition).tolist() == expected * 2

    def test_rows_in_turn_have_their_first_five_in_the_paper_definition(self):
        labels = np.array([0, 1] * 7)
        assert reference_mask(labels, "paper").tolist() == [True] * 10 + [False] * 4

    def test_the_released_mask_is_laid_over_other_names_where_rows_are_not_grouped(self):
        """Two names with seven pictures each: places 0-4 and 7-11 of the file, whoever is there.
        Row 7 is of name 0, which gets six references; name 1 gets four.
        """
        labels = np.array([0] * 6 + [1] + [0] + [1] * 6)
        mask = reference_mask(labels, "released")
        assert np.flatnonzero(mask).tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
        assert np.bincount(labels[mask]).tolist() == [6, 4]
        assert np.bincount(labels[reference_mask(labels, "paper")]).tolist() == [5, 5]

    def test_a_name_with_few_pictures_gives_all_of_them(self):
        assert reference_mask(np.array([0, 0, 1]), "released").tolist() == [True] * 3

    def test_the_mean_is_of_raw_embeddings(self):
        """Name 0: (1 + 1 + 1 + 1 + 6, 8) / 5 = (2, 1.6); directions alone give (0.92, 0.16)."""
        classes, references = gallery(ROWS, LABELS, reference_mask(LABELS, "paper"))
        assert classes.tolist() == [0, 1]
        length = math.hypot(2.0, 1.6)
        np.testing.assert_allclose(references[0], [2 / length, 1.6 / length], rtol=1e-6)


class TestAccuracies:
    @pytest.mark.parametrize("definition", ["paper", "released"])
    def test_by_hand(self, definition):
        """Questions of name 0: (1, 2), whose cosine to y is 0.894 and to (2, 1.6) 0.908 (right);
        (3, 0.1), right. Of name 1: both right.
        """
        found = accuracies(ROWS, LABELS, {"forget": [0], "retain": [1]}, definition)
        assert found == {"forget": 100.0, "retain": 100.0}

    def test_references_of_directions_would_lose_one(self):
        directions = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
        found = accuracies(directions, LABELS, {"forget": [0], "retain": [1]}, "paper")
        assert found == {"forget": 50.0, "retain": 100.0}

    def test_people_outside_of_every_group_are_in_the_gallery(self):
        """Without name 1 in the groups its reference still takes the question (1, 3)."""
        rows = ROWS.copy()
        rows[5] = [1.0, 3.0]
        assert accuracies(rows, LABELS, {"forget": [0]}, "paper") == {"forget": 50.0}

    @pytest.mark.parametrize("definition", ["paper", "released"])
    def test_an_embedding_of_zeros_is_given_no_name(self, definition):
        """A dead network names nobody: 0 percent, not all pictures of the first name. One zero row
        is one wrong question of two; a name whose reference is zeros takes no other's question.
        """
        groups = {"forget": [0], "retain": [1]}
        assert accuracies(ROWS * 0, LABELS, groups, definition) == {"forget": 0.0, "retain": 0.0}
        rows = ROWS.copy()
        rows[6] = 0
        found = accuracies(rows, LABELS, groups, definition)
        assert found == {"forget": 50.0, "retain": 100.0}
        rows = ROWS.copy()
        rows[:5] = 0
        found = accuracies(rows, LABELS, groups, definition)
        assert found == {"forget": 0.0, "retain": 100.0}
        assert np.isnan(own_cosines(rows, LABELS, definition)).tolist() == [True] * 7 + [False] * 7

    def test_the_released_references_change_the_accuracy_of_rows_that_are_not_grouped(self):
        """Row 6 of name 1 looks like name 0. In the paper definition it is one of the five
        references of name 1, and both questions of name 1 are right; released, row 7 of name 0
        takes its place, and it is a question, one of three, with a wrong name.
        """
        labels = np.array([0] * 6 + [1] + [0] + [1] * 6)
        rows = np.eye(2, dtype=np.float32)[labels]
        rows[6] = [1.0, 0.0]
        assert accuracies(rows, labels, {"retain": [1]}, "paper") == {"retain": 100.0}
        found = accuracies(rows, labels, {"retain": [1]}, "released")
        assert found["retain"] == pytest.approx(200 / 3)

    def test_a_group_without_questions_is_no_number(self):
        found = accuracies(ROWS[:5], LABELS[:5], {"forget": [0], "retain": [1]}, "paper")
        assert math.isnan(found["forget"]) and math.isnan(found["retain"])

    def test_lengths_that_pass_float32_are_counted_and_give_cosines_of_0(self, recwarn):
        """(3e19)^2 is above 3.4e38: released, the length is infinite and the direction zeros, as
        x / np.linalg.norm(x) in the released script; the first name takes such a question.
        """
        rows = ROWS.copy()
        rows[12:] *= 3e19
        assert without_length(rows, LABELS) == (2, 0)
        assert own_cosines(rows, LABELS, "released")[12:].tolist() == [0.0, 0.0]
        np.testing.assert_allclose(own_cosines(rows, LABELS, "paper")[12:], [1, 0.995], rtol=1e-3)
        groups = {"forget": [0], "retain": [1]}
        assert accuracies(rows, LABELS, groups, "released")["retain"] == 0.0
        assert accuracies(rows, LABELS, groups, "paper")["retain"] == 100.0
        rows[7] *= 3e20
        assert without_length(rows, LABELS) == (3, 1)
        assert without_length(ROWS, LABELS) == (0, 0)
        assert without_length(ROWS * 0, LABELS) == (0, 0)
        assert not recwarn

    def test_shapes_are_checked(self):
        with pytest.raises(UserError, match=r"shape \[14, 2\]; expected \[3, D\]"):
            accuracies(ROWS, LABELS[:3], {}, "paper")
        with pytest.raises(UserError, match="unknown definition 'mine'"):
            reference_mask(LABELS, "mine")


class TestCosines:
    def test_by_hand(self):
        cosines = own_cosines(ROWS, LABELS, "paper")
        assert cosines.dtype == np.float64
        np.testing.assert_allclose(cosines[0], 2 / math.hypot(2, 1.6), rtol=1e-12)
        np.testing.assert_allclose(cosines[7:13], 1.0, rtol=1e-12)

    def test_a_name_without_reference_has_none(self):
        """12, 12 and 6 rows: the released references are rows 0-4, 12-16 and 24-28, none of which
        shows name 2.
        """
        labels = np.array([0] * 5 + [2] * 6 + [0] * 7 + [1] * 12)
        cosines = own_cosines(np.ones((30, 2), np.float32), labels, "released")
        assert np.isnan(cosines).tolist() == [label == 2 for label in labels.tolist()]
