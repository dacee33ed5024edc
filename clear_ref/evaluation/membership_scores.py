"""Scores of single records by which an attacker tells what a model was trained on, from the true answer's likelihood alone."""

import math

import torch

from ..data.batches import IGNORE
from ..data.records import Record
from ..errors import UserError
from ..losses.terms import token_terms
from ..model.vlm import VLM
from .sums import mean


@torch.no_grad()
def answer_nll(vlm: VLM, record: Record) -> list[float]:
    """The nll, in nats, of each token of the record's answer, its end included as in training: one forward of prompt + answer."""
    batch = vlm.encode([record])
    asked = batch.labels[:, 1:] != IGNORE
    logits = vlm.head(vlm.hidden(batch)[:, :-1][asked])
    return token_terms(logits, batch.labels[:, 1:][asked], entropy=False).nll.double().tolist()


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
        raise UserError(f"--min-k is {share}; expected a share of the tokens above 0, at most 1, such as 0.2")
    return mean(sorted(nll, reverse=True)[:max(1, math.floor(len(nll) * share))])
