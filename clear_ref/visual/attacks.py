"""Membership attacks: had a model a person, told from the cosine of a picture to its own name?

Half of the models of each half of the splits are targets, the others shadows, whose training data
the attacker knows. A picture's logit is ln(c / (1 - c)), c the cosine to the reference of its own
name. 0.5: nothing is told apart. 1: every guess is right.

U-LIRA   for each picture, a Gaussian of the logits of shadows that had the person and one of those
         that had not; a target is said to have had the person where the first is denser
U-MIA    one logistic regression (L2, C = 1) of all shadows' logits for all pictures

Both say how many guesses are right, over all targets and the pictures of both lists: of a list, the
targets of its own half of the splits had the people (before they were unlearned), the others never.

released  the reference pictures are scored too, though they made the reference; 1e-45 is added
          inside both logarithms, in float32, so logits end at 103.279; 1e-45 is added to the
          deviation: with equal logits (deviation 0) both densities can be 0 or infinite, and the
          quotient NaN, which counts as "never had"
paper     the reference pictures are left out; c is cut at 2^-24 from 0 and 1, in float64; the
          deviation is 1e-3 at least; log densities are compared, and equal ones count as half right
source    released code, cv/attack.py:87-200 at bb14c96. Its second model of U-MIA, a decision tree,
          is left out: the paper (Sec. 5) says logistic regression
"""

from dataclasses import dataclass

import numpy as np

from clear_ref.common.errors import UserError

from .logistic import logistic_regression

TINY = np.float32(1e-45)  # rounded up to the smallest float32, 1.4e-45
SMALLEST_DISTANCE = 2.0**-24  # of c from 0 and from 1 (paper)
SMALLEST_DEVIATION = 1e-3  # of a Gaussian (paper)
# Median absolute deviation of a Gaussian with deviation 1, as rounded in the released code.
MAD_OF_GAUSSIAN = 0.6745


@dataclass(frozen=True)
class Attack:
    """What an attack found.

    accuracy   share of right guesses over all targets
    by_target  the same for each target model alone
    """

    accuracy: float
    by_target: tuple[float, ...]

    def spread(self) -> float:
        """Standard deviation over the target models (n - 1); 0 with one."""
        return float(np.std(self.by_target, ddof=1)) if len(self.by_target) > 1 else 0.0


@dataclass(frozen=True)
class Guessed:
    """The pictures of one list, and which models are targets and shadows for it.

    rows                      the pictures
    had, had_not              columns of the targets that had the people, and of the others
    shadows, shadows_without  columns of the shadows that had the people, and of the others
    """

    rows: np.ndarray
    had: range
    had_not: range
    shadows: range
    shadows_without: range


def guessed(forget_rows: np.ndarray, holdout_rows: np.ndarray, n_splits: int) -> list[Guessed]:
    """Both lists with their targets and shadows: of 128 splits 0-31, 32-63, 64-95 and 96-127.

    raises  UserError for less than four splits
    """
    if n_splits < 4:
        raise UserError(
            f"{n_splits} splits are too few for an attack; expected four at least: a target and a "
            "shadow that had each list"
        )
    half, quarter = n_splits // 2, n_splits // 4
    targets, shadows = range(quarter), range(quarter, half)
    others, other_shadows = range(half, half + quarter), range(half + quarter, n_splits)
    return [
        Guessed(forget_rows, targets, others, shadows, other_shadows),
        Guessed(holdout_rows, others, targets, other_shadows, shadows),
    ]


def logits_of(cosines: np.ndarray, definition: str) -> np.ndarray:
    """ln(c / (1 - c)) of cosines, as the definition cuts them."""
    if definition == "released":
        c = np.clip(cosines.astype(np.float32), 0, 1)
        return np.log(c + TINY) - np.log(1 - c + TINY)
    c = np.clip(cosines.astype(np.float64), SMALLEST_DISTANCE, 1 - SMALLEST_DISTANCE)
    return np.log(c) - np.log1p(-c)


def u_lira(logits: np.ndarray, lists: list[Guessed], definition: str) -> Attack:
    """U-LIRA's share of right guesses.

    logits  [rows, splits] of one method's models, in the definition's precision
    """
    verdicts = _Verdicts()
    for one in lists:
        own = logits[one.rows]
        inside = _gaussian(own[:, one.shadows], definition)
        outside = _gaussian(own[:, one.shadows_without], definition)
        for column in (*one.had, *one.had_not):
            member = _said_member(own[:, [column]], inside, outside, definition)[:, 0]
            verdicts.add(column, member if column in one.had else 1.0 - member)
    return verdicts.attack()


def u_mia(logits: np.ndarray, lists: list[Guessed]) -> Attack:
    """U-MIA's share of right guesses. logits: as for u_lira."""
    inside = [logits[one.rows][:, one.shadows].reshape(-1) for one in lists]
    outside = [logits[one.rows][:, one.shadows_without].reshape(-1) for one in lists]
    feature = np.concatenate([*inside, *outside]).astype(np.float64)
    is_member = np.arange(len(feature)) < sum(len(each) for each in inside)
    weight, bias = logistic_regression(feature, is_member)
    verdicts = _Verdicts()
    for one in lists:
        for column in (*one.had, *one.had_not):
            said = weight * logits[one.rows, column].astype(np.float64) + bias > 0
            verdicts.add(column, (said == (column in one.had)).astype(np.float64))
    return verdicts.attack()


class _Verdicts:
    """Right guesses, collected by target model."""

    def __init__(self) -> None:
        self.right: dict[int, list[np.ndarray]] = {}

    def add(self, column: int, right: np.ndarray) -> None:
        """right  [pictures] 1 for a right guess, 0 for a wrong one, 0.5 for none"""
        self.right.setdefault(column, []).append(right)

    def attack(self) -> Attack:
        by_target = [np.concatenate(self.right[column]) for column in sorted(self.right)]
        return Attack(
            float(np.concatenate(by_target).mean()),
            tuple(float(each.mean()) for each in by_target),
        )


def _gaussian(logits: np.ndarray, definition: str) -> tuple[np.ndarray, np.ndarray]:
    """(centre [rows, 1], deviation [rows, 1]) of each row: its median, and MAD / 0.6745."""
    centre = np.median(logits, axis=1, keepdims=True)
    distance = np.median(np.abs(logits - centre), axis=1, keepdims=True)
    deviation = distance / MAD_OF_GAUSSIAN
    if definition == "released":
        return centre, deviation + TINY
    return centre, np.maximum(deviation, SMALLEST_DEVIATION)


def _said_member(
    logits: np.ndarray,
    inside: tuple[np.ndarray, np.ndarray],
    outside: tuple[np.ndarray, np.ndarray],
    definition: str,
) -> np.ndarray:
    """[rows, models] 1 where the picture's person is said to be a member, 0 where not."""
    if definition == "released":
        dense_inside, dense_outside = _density(logits, *inside), _density(logits, *outside)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            share = dense_inside / (1e-45 + dense_inside + dense_outside)
            return (share > 0.5).astype(np.float64)
    difference = _log_density(logits, *inside) - _log_density(logits, *outside)
    return 0.5 * (1.0 + np.sign(difference))


def _density(logits: np.ndarray, centre: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The Gaussian's density as scipy computes it: the distance in float32, the rest in float64."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        distance = ((logits - centre) / deviation).astype(np.float64)
        return np.exp(-(distance**2) / 2.0) / np.sqrt(2 * np.pi) / deviation


def _log_density(logits: np.ndarray, centre: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The logarithm of the Gaussian's density, without its constant."""
    return -0.5 * ((logits - centre) / deviation) ** 2 - np.log(deviation)
