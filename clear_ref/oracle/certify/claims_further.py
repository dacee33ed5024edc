"""Closed forms of the losses beside the eleven methods.

The claims are as in claims.py.
"""

from collections.abc import Iterator

import torch

from . import random_trials
from .closed_forms import (
    answer_nll,
    apart,
    gradient_error,
    lengths,
    nll_gradient,
)
from .laws import difference
from .measured import Trial, largest


def simnpo_fades() -> Iterator[Trial]:
    """SimNPO weighs a sequence by -(2 / B) sigmoid(margin - beta a), a its mean nll"""
    for semantics, given, margin in (
        ("paper", {"beta": 0.5, "margin": 0.25, "lambda_retain": 0.0}, 0.25),
        ("original", {"beta": 0.5, "delta": 0.25, "gamma": 1.0, "alpha": 0.0}, 0.125),
    ):
        outputs, found = apart("simnpo", semantics, given)
        batch = outputs["forget"]
        mean_nll = answer_nll(batch) / lengths(batch)
        weights = -2 / len(mean_nll) * torch.sigmoid(margin - 0.5 * mean_nll) / lengths(batch)
        value = 4.0 * float(torch.log1p(torch.exp(margin - 0.5 * mean_nll)).mean())
        error = gradient_error(found, {"forget": nll_gradient(batch, weights)})
        yield Trial("simnpo", semantics, largest(error, abs(found.loss - value) / found.scale))


def simnpo_becomes_ascent() -> Iterator[Trial]:
    """As beta goes to 0, SimNPO without a margin becomes ascent on the sequence mean of nll"""
    for semantics, given in (
        ("paper", {"beta": 1e-5, "lambda_retain": 0.0}),
        ("original", {"beta": 1e-5, "gamma": 1.0, "alpha": 0.0}),
    ):
        outputs, found = apart("simnpo", semantics, given)
        batch = outputs["forget"]
        weights = -1 / (len(batch.labels) * lengths(batch))
        yield Trial(
            "simnpo",
            semantics,
            gradient_error(found, {"forget": nll_gradient(batch, weights)}),
            1e-5,
            "Taylor: beta a / 2, a the mean nll, below 2",
        )


def simnpo_margins() -> Iterator[Trial]:
    """Open-unlearning's SimNPO is the paper's with margin = beta delta"""
    outputs, found = apart("simnpo", "original", {"beta": 3.0, "delta": 0.75, "gamma": 1.0})
    other = random_trials.loss("simnpo", "paper", {"beta": 3.0, "margin": 2.25}, outputs)
    yield Trial("simnpo", "original", difference(other, found))


CLAIMS = (simnpo_fades, simnpo_becomes_ascent, simnpo_margins)
