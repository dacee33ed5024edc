"""How well a number tells models with the people from models without: AUC, interval, p, rank
correlation, and the attack that knows most.

Groups are small (5 against 5), so the interval is Newcombe's, not the bootstrap's: with separate
groups every draw of models has AUC 1, and a bootstrap interval would be 1 to 1 whatever N is. The
p-value is exact: it counts the ways to divide the models into the two groups.
"""

import math
from collections.abc import Sequence

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.evaluation.definition_names import FORGOT, LIKE_GOLD
from clear_ref.evaluation.distances import auc

Z_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile
BISECTIONS = 60  # halvings of [0, 1]: more than a double's digits


def sign_of(direction: str) -> int:
    """1 if the definition says that a model with the people has the higher value, else -1.

    Lower with the people: what says that answers are not known, and likeness to gold. Mixed
    harmonic means count as higher, as their tables read them.
    """
    return -1 if direction in (FORGOT, LIKE_GOLD) else 1


def telling_auc(with_people: Sequence[float], without: Sequence[float], sign: int) -> float:
    """Probability, in [0, 1], that of a model with the people and one without, the first has the
    value that the definition's direction expects of it; a tie counts half.

    1: tells always; 1/2: cannot tell; 0: tells always, and the wrong way round
    formula  Mann-Whitney's U / (m n), evaluation/distances.py `auc`
    sign     sign_of the direction
    """
    return auc([sign * value for value in without], [sign * value for value in with_people])


def interval_of_auc(found: float, m: int, n: int) -> tuple[float, float]:
    """The 95 % interval of an AUC of m against n: every true AUC from which it is within z.

    formula  theta with |found - theta| <= z sqrt(V(theta)), V = theta (1 - theta) (1 + k (1 -
             theta) / (2 - theta) + k theta / (1 + theta)) / (m n), k = (m + n) / 2 - 1
    source   R. G. Newcombe, "Confidence intervals for an effect size measure based on the
             Mann-Whitney statistic", Statistics in Medicine 2006, method 5 (Hanley and McNeil's
             variance, solved for theta)
    flaw     approximate; says how other models of the same kind would move the AUC, not other data
    """

    def is_outside(theta: float) -> bool:
        k = (m + n) / 2 - 1
        factor = 1 + k * (1 - theta) / (2 - theta) + k * theta / (1 + theta)
        return abs(found - theta) > Z_975 * math.sqrt(theta * (1 - theta) * factor / (m * n))

    return _edge(is_outside, 0.0, found), _edge(is_outside, 1.0, found)


def _edge(is_outside, end: float, inside: float) -> float:  # type: ignore[no-untyped-def]
    """Where the interval that holds `inside` ends, towards `end`."""
    if end == inside:
        return end
    for _ in range(BISECTIONS):
        middle = (end + inside) / 2
        if is_outside(middle):
            end = middle
        else:
            inside = middle
    return inside


def exact_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided probability of an AUC at least as far from 1/2, if group and value had nothing to
    do with each other; with ties too.

    formula  share of the C(m + n, m) divisions of all values into groups of m and n in which the
             sum of the first group's ranks is at least as far from its mean; equal values share
             their mean rank. Integers throughout
    source   Wilcoxon 1945, Mann and Whitney 1947; ties as Lehmann, "Nonparametrics", 1975
    flaw     the smallest value is 2 / C(m + n, m): 0.008 for 5 against 5
    """
    twice_ranks = [round(2 * rank) for rank in mean_ranks([*first, *second])]
    m, total = len(first), sum(twice_ranks)
    # counts[k][s]: ways to choose k values whose doubled ranks have the sum s
    counts: list[dict[int, int]] = [{0: 1}, *({} for _ in range(m))]
    for rank in twice_ranks:
        for k in range(m, 0, -1):
            for found, ways in counts[k - 1].items():
                counts[k][found + rank] = counts[k].get(found + rank, 0) + ways
    n_all = len(twice_ranks)
    distance = abs(sum(twice_ranks[:m]) * n_all - m * total)
    extreme = sum(
        ways for found, ways in counts[m].items() if abs(found * n_all - m * total) >= distance
    )
    return extreme / math.comb(n_all, m)


def mean_ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for place, value in enumerate(ordered):
        first.setdefault(value, place)
        count[value] = count.get(value, 0) + 1
    return [first[value] + (count[value] + 1) / 2 for value in values]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's correlation, in [-1, 1]: Pearson's of the mean ranks; None if one is constant.

    raises  UserError for lists of different lengths
    """
    if len(first) != len(second):
        raise UserError(f"{len(first)} and {len(second)} values; expected as many of each")
    a, b = np.array(mean_ranks(first)), np.array(mean_ranks(second))
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else None


def u_lira(with_people: np.ndarray, without: np.ndarray) -> tuple[list[float], list[float]]:
    """A membership score of each model of both groups: high where the forget records look trained
    on, to an attacker who has all other models.

    formula  mean over records of ((x - a)^2 - (x - b)^2) / (2 v): the logarithm of the quotient of
             two Gaussians, b and a the means of the record's loss over the other models with and
             without the people; v the mean square of the other models' distances from their group's
             mean, over all records, with one degree of freedom less for each mean
    with_people, without  [N, records] mean nll of the answers of the forget records
    source   Carlini et al. 2022 (arXiv 2112.03570): Gaussians of a record's losses, one variance
             where models are few; of forgotten records Kurmanji et al. 2023 (arXiv 2302.09880)
    flaw     an attacker rarely has such models
    raises   UserError for fewer than two models in a group
    """
    groups = [with_people, without]
    if min(map(len, groups)) < 2:
        raise UserError("U-LIRA needs two models of each kind or more; use a larger --models")
    found: list[list[float]] = [[], []]
    for own in (0, 1):
        for number, x in enumerate(groups[own]):
            others = [
                np.delete(each, number, 0) if k == own else each for k, each in enumerate(groups)
            ]
            b, a = (each.mean(0) for each in others)
            squares = sum(float(((each - each.mean(0)) ** 2).sum()) for each in others)
            freedom = (len(others[0]) + len(others[1]) - 2) * x.size
            v = squares / freedom if squares else 1.0
            found[own].append(float((((x - a) ** 2 - (x - b) ** 2) / (2 * v)).mean()))
    return found[0], found[1]
