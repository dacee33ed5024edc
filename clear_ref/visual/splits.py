"""The splits of the visual-only track: who is a member of the training data, who is forgotten.

Half of the splits are trained on the people of the forget list and forget them; the other half on
the people of the holdout list, with the two lists in exchanged roles. So each of these people is a
member in one half of the splits and unknown in the other, which the membership attacks need.
"""

from dataclasses import dataclass

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

from .names import Classes

SEED = 42  # of the draws of the other members, as in the released code


@dataclass(frozen=True)
class People:
    """Who can be forgotten. All four are names.

    forget, holdout              forgotten in one half of the splits, held out in the other half
    forget_group, holdout_group  who is a member where these are; CLEAR's lists of 10 percent,
                                 whatever percentage is forgotten
    """

    forget: tuple[str, ...]
    holdout: tuple[str, ...]
    forget_group: tuple[str, ...]
    holdout_group: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One split: sets of classes, sorted.

    number   from 0
    half     0: the forget list is forgotten; 1: the holdout list
    members  the base model is trained on them
    forget   forgotten; part of the members
    holdout  held out: no member, and forgotten in the other half of the splits
    retain   members that are kept; gold is trained on them
    """

    number: int
    half: int
    members: tuple[int, ...]
    forget: tuple[int, ...]
    holdout: tuple[int, ...]
    retain: tuple[int, ...]


def make_splits(classes: Classes, people: People, n_splits: int) -> list[Split]:
    """The splits. The first 128 of CLEAR's rows are those of the released code.

    draws   numpy's RandomState(42); for each split in order, half of the people in neither group,
            without replacement, from their names in the order of first rows
    source  released code, cv/prepare_vtofu_dataset.py:94-167 at bb14c96 (pandas' sample draws the
            same numbers)
    raises  UserError for an odd number of splits, an empty list, a name in both groups, a name that
            no row has, and if less than two other people are left
    """
    check_number(n_splits)
    check_people(people)
    groups = [
        tuple(sorted(classes.label(name) for name in group))
        for group in (people.forget_group, people.holdout_group)
    ]
    chosen = [
        tuple(sorted(classes.label(name) for name in names))
        for names in (people.forget, people.holdout)
    ]
    others = np.array(
        [label for label in range(len(classes.names)) if label not in groups[0] + groups[1]]
    )
    if len(others) < 2:
        raise UserError(
            f"{len(others)} people are in neither list; expected two at least: half of them are "
            "members of each split. Name fewer people in --forget-names and --holdout-names"
        )
    random = np.random.RandomState(SEED)
    splits = []
    for number in range(n_splits):
        drawn = others[random.choice(len(others), len(others) // 2, replace=False)].tolist()
        half = number * 2 // n_splits
        members = tuple(sorted([*groups[half], *drawn]))
        forget = chosen[half]
        retain = tuple(label for label in members if label not in forget)
        splits.append(Split(number, half, members, forget, chosen[1 - half], retain))
    return splits


def check_number(n_splits: int) -> None:
    """UserError unless the number of splits is even and positive."""
    if n_splits < 2 or n_splits % 2:
        raise UserError(
            f"--splits is {n_splits}; expected an even number, 2 at least: half of the splits "
            "forget the forget list, half the holdout list"
        )


def check_people(people: People) -> None:
    """UserError for an empty list, a name given twice, and a name in both groups."""
    for option, names in (("--forget-names", people.forget), ("--holdout-names", people.holdout)):
        if not names:
            raise UserError(f"{option} names nobody; expected one name at least")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(
                f"{option} names {one_line(repr(twice), 60)} twice; expected each name once"
            )
    both = set(people.forget_group) & set(people.holdout_group)
    if both:
        raise UserError(
            f"{one_line(repr(min(both)), 60)} is in --forget-names and in --holdout-names; "
            "expected each name in one list: who is held out is no member"
        )
