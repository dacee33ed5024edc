"""The splits are those of the released code: the first three in a stored table, all 128 by a hash.

The table and the hash are from the steps of cv/prepare_vtofu_dataset.py (bb14c96), run with pandas
3.1.1 on 200 names in the order of first rows, p000 to p199.
"""

import hashlib
import json

import pytest

from clear_ref.common.errors import UserError
from clear_ref.data.grouping import first_ungrouped
from clear_ref.visual.clear_people import LISTS
from clear_ref.visual.names import check_classes, classes_of
from clear_ref.visual.splits import People, make_splits

NAMES = [f"p{number:03}" for number in range(200)]
FORGET = tuple(NAMES[180:])
HOLDOUT = tuple(NAMES[place] for place in (*range(0, 180, 10), 1, 2))
# The members of the first three splits that are in neither list; runs "first-last" of numbers.
OTHERS = (
    "3 5 7 9 13-16 19 21 23-24 27-29 31-38 43 47-49 52-53 59 64-65 69 74-79 86-87 89 93-94 96-98 "
    "103 107-109 111-112 114-115 118-119 123-124 126-127 129 131 135 139 143-145 148-149 153-154 "
    "156-157 159 161-162 165-166 171",
    "6-9 11-13 16-18 22 25-27 29 31 34 36 38-39 41 43 46-49 52-57 65-66 68-69 72-75 82 84 86-89 "
    "93-94 101 103 105-107 112-113 115 117-119 121 124-126 129 132 134-135 139 142 149 152-153 156 "
    "158 162 166 173-174 177 179",
    "3 5 7 13-15 23 26 34 36 39 44 46-47 51 59 61 63-64 67 71 73 77-79 81-85 87-89 91-96 99 101 "
    "103-104 106 108 111 113-114 116 118 121-124 126-127 129 133 135-137 142 146 148-149 152 154 "
    "158-159 162-163 166-168 172-177",
)
OTHERS_OF_ALL = "25b69ef5380a573dc5b406d7be7588d8f473127d3ad912fa1cda385630d2b275"


def numbers(runs):
    """The numbers of "3 5-7"."""
    found = []
    for run in runs.split():
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def clear_like(n_splits=128, forget=FORGET, holdout=HOLDOUT):
    classes = classes_of([name for name in NAMES for _ in range(6)])
    return make_splits(classes, People(forget, holdout, FORGET, HOLDOUT), n_splits)


def others(split):
    groups = {int(name[1:]) for name in (*FORGET, *HOLDOUT)}
    return [label for label in split.members if label not in groups]


class TestTheReleasedSplits:
    def test_the_first_three_are_those_of_the_table(self):
        assert [others(split) for split in clear_like()[:3]] == [numbers(runs) for runs in OTHERS]

    def test_all_128_have_the_hash_of_the_released_script(self):
        drawn = json.dumps([others(split) for split in clear_like()])
        assert hashlib.sha256(drawn.encode()).hexdigest() == OTHERS_OF_ALL

    def test_the_first_64_forget_one_list_and_the_others_the_other(self):
        forget, holdout = ([int(name[1:]) for name in group] for group in (FORGET, HOLDOUT))
        for split in clear_like():
            first = split.number < 64
            assert list(split.forget) == sorted(forget if first else holdout)
            assert list(split.holdout) == sorted(holdout if first else forget)
            assert set(split.forget) <= set(split.members)
            assert not set(split.holdout) & set(split.members)
            assert sorted([*split.forget, *split.retain]) == list(split.members)
            assert len(split.members) == 100

    def test_with_one_percent_the_other_eighteen_are_retained(self):
        split = clear_like(2, forget=FORGET[:2], holdout=HOLDOUT[:2])[0]
        assert split.forget == (180, 181) and set(range(182, 200)) < set(split.retain)
        assert split.holdout == (0, 10) and not set(split.holdout) & set(split.members)

    def test_fewer_splits_begin_with_the_same_draws(self):
        few, many = clear_like(8), clear_like(128)
        assert [others(split) for split in few] == [others(split) for split in many[:8]]
        assert [split.half for split in few] == [0] * 4 + [1] * 4

    def test_clears_lists_have_2_10_and_20_people_and_are_parts_of_the_last(self):
        for percent, (forget, holdout) in LISTS.items():
            assert len(set(forget)) == len(set(holdout)) == 2 * percent
            assert set(forget) <= set(LISTS[10][0]) and set(holdout) <= set(LISTS[10][1])


class TestWrongSplits:
    @pytest.mark.parametrize("number", [0, 1, 7, -2])
    def test_the_number_is_even_and_positive(self, number):
        with pytest.raises(UserError, match=f"--splits is {number}; expected an even number"):
            clear_like(number)

    @pytest.mark.parametrize(
        "forget, holdout, message",
        [
            ((), HOLDOUT, "--forget-names names nobody"),
            (FORGET, (), "--holdout-names names nobody"),
            (("p180", "p180"), HOLDOUT, "--forget-names names 'p180' twice"),
            (("nobody",), HOLDOUT, "no picture shows 'nobody'"),
        ],
    )
    def test_lists_are_checked(self, forget, holdout, message):
        with pytest.raises(UserError, match=message):
            clear_like(4, forget, holdout)

    def test_a_name_in_both_lists_is_refused(self):
        classes = classes_of(NAMES)
        both = People(("p001",), ("p001",), ("p001",), ("p001",))
        with pytest.raises(UserError, match="'p001' is in --forget-names and in --holdout-names"):
            make_splits(classes, both, 4)

    def test_other_people_must_be_left(self):
        classes = classes_of(["a", "b", "c"])
        with pytest.raises(UserError, match="1 people are in neither list"):
            make_splits(classes, People(("a",), ("b",), ("a",), ("b",)), 4)


class TestNames:
    def test_a_class_is_the_place_of_the_first_row(self):
        classes = classes_of(["b", "a", "b", "c", "a"])
        assert classes.names == ("b", "a", "c")
        assert classes.labels.tolist() == [0, 1, 0, 2, 1]
        assert classes.counts().tolist() == [2, 2, 1]
        assert classes.rows_of([0, 2]).tolist() == [0, 2, 3]

    @pytest.mark.parametrize(
        "labels, first",
        [([0, 0, 1, 1], None), ([0, 1, 0], 2), ([1, 1, 0, 2, 2, 0], 5), ([], None), ([3], None)],
    )
    def test_the_first_row_out_of_its_group_is_found(self, labels, first):
        assert first_ungrouped(labels) == first

    def test_a_name_with_five_pictures_is_refused_by_name(self):
        with pytest.raises(UserError, match="'few' has 5 pictures; expected 6 at least"):
            check_classes(classes_of(["many"] * 6 + ["few"] * 5))

    def test_one_name_alone_is_refused(self):
        with pytest.raises(UserError, match="all pictures show 'alone'; expected pictures of two"):
            check_classes(classes_of(["alone"] * 9))

    def test_a_name_of_blanks_is_nobodys(self):
        with pytest.raises(UserError, match="the name of row 3 is of blanks alone; expected the"):
            check_classes(classes_of(["a", "a", " \u00a0 ", "b"]))
