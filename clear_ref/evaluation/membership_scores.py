"""Scores of single records by which an attacker tells what a model was trained on, from the true answer's likelihood alone."""

import math

from clear_ref.common.errors import UserError

from .exact_means import mean


def mia_loss(nll: list[float]) -> float:
    """Mean nll of the answer's tokens: low for what a model was trained on.

    source  Yeom et al. 2018; open-unlearning's mia_loss (src/evals/metrics/mia/loss.py)
    flaw    a common sentence is likely whether or not it was trained on
    """
    return mean(nll)


def mia_min_k(nll: list[float], share: float) -> float:
    """Mean nll of the least likely tokens, max(1, floor(share x tokens)) of them: low for what a model was trained on.

    source  Shi et al. 2023 (arXiv 2310.16789), with the sign and the rounding of open-unlearning's mia_min_k (mia/min_k.py)
    flaw    of a short answer one token alone is left
    raises  UserError unless 0 < share <= 1
    """
    if not 0 < share <= 1:
        raise UserError(
            f"--min-k is {share}; expected a share of the tokens above 0, at most 1, such as 0.2"
        )
    return mean(sorted(nll, reverse=True)[: max(1, math.floor(len(nll) * share))])
