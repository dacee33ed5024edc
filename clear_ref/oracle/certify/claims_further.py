"""Closed forms of the losses beside the eleven methods.

The claims are as in claims.py.
"""

from collections.abc import Callable, Iterator
from math import exp

import torch
from torch import Tensor

from clear_ref.losses.outputs import Outputs

from . import random_trials
from .closed_forms import (
    answer_nll,
    answer_rows,
    apart,
    at_teacher,
    gradient_error,
    lengths,
    logits_of,
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


def undial_at_the_teacher() -> Iterator[Trial]:
    """At the teacher UNDIAL's gradient at a label is c (e - q), c = a / (1 - a), a = q_y (1 -
    exp(-beta)), and 0 at the rows without a label"""
    for semantics in ("paper", "original"):
        outputs, found = at_teacher("undial", semantics, {"beta": 3.0})
        batch = outputs["forget"]
        rows = answer_rows(batch)
        q = logits_of(batch)[rows.sequence, rows.position].softmax(-1)
        hot = torch.nn.functional.one_hot(rows.labels, q.shape[1]).double()
        a = (q * hot).sum(1, keepdim=True) * (1 - exp(-3.0))
        n_sequences, n_positions = batch.labels.shape
        n = len(q) if semantics == "paper" else n_sequences * (n_positions - 1)
        wanted = torch.zeros_like(logits_of(batch))
        wanted[rows.sequence, rows.position] = a / (1 - a) * (hot - q) / n
        yield Trial("undial", semantics, gradient_error(found, {"forget": wanted}))


def wga_lowers_probability() -> Iterator[Trial]:
    """With beta = 1 WGA has the gradient of the mean probability of the answer tokens, with beta =
    0 it is gradient ascent"""
    for semantics, alone in (("paper", {}), ("original", {"alpha": 0.0})):
        outputs, found = apart("wga", semantics, {"beta": 1.0, **alone})
        wanted = gradient_of_mean(outputs["forget"], lambda p: p)
        ascent = random_trials.loss("grad_ascent", "paper", {}, outputs)
        other = random_trials.loss("wga", semantics, {"beta": 0.0, **alone}, outputs)
        error = gradient_error(found, {"forget": wanted})
        yield Trial("wga", semantics, largest(error, difference(ascent, other)))


def satimp_spares_the_certain() -> Iterator[Trial]:
    """With beta1 = beta2 = 1 SatImp has the gradient of the mean of p - p^2 / 2, with beta2 = 0 it
    is WGA"""
    for semantics, alone, forget_alone in (
        ("paper", {"lambda_retain": 0.0}, {}),
        ("original", {"gamma": 1.0, "alpha": 0.0}, {"alpha": 0.0}),
    ):
        given = {"beta1": 1.0, "beta2": 1.0, **alone}
        outputs, found = apart("satimp", semantics, given)
        wanted = gradient_of_mean(outputs["forget"], lambda p: p - p * p / 2)
        error = gradient_error(found, {"forget": wanted})
        forget = {"forget": outputs["forget"]}
        wga = random_trials.loss("wga", semantics, {"beta": 2.5, **forget_alone}, forget)
        as_wga = {"beta1": 2.5, "beta2": 0.0, **alone}
        other = random_trials.loss("satimp", semantics, as_wga, outputs)
        yield Trial("satimp", semantics, largest(error, difference(other, wga)))


def ceu_is_unlikelihood() -> Iterator[Trial]:
    """CE-U has the gradient of the mean of -log(1 - p), p of the answer tokens that it reads"""
    for semantics, skip in (("paper", 0), ("original", 1)):
        outputs, found = apart("ceu", semantics)
        wanted = gradient_of_mean(outputs["forget"], lambda p: -torch.log1p(-p), skip)
        yield Trial("ceu", semantics, gradient_error(found, {"forget": wanted}))


def ceu_value() -> Iterator[Trial]:
    """CE-U's value at a row is (entropy - p nll) / (1 - p)"""
    for semantics, given in (("paper", {}), ("original", {"skip": 0})):
        outputs, found = apart("ceu", semantics, given)
        rows = answer_rows(outputs["forget"])
        logp = logits_of(outputs["forget"])[rows.sequence, rows.position].log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        nll = -logp.gather(1, rows.labels[:, None])[:, 0]
        p = (-nll).exp()
        value = float(((entropy - p * nll) / (1 - p)).mean())
        yield Trial("ceu", semantics, abs(found.loss - value) / found.scale)


def gradient_of_mean(batch: Outputs, function: Callable[[Tensor], Tensor], skip: int = 0) -> Tensor:
    """[B, T, V]: the gradient of the mean of function(p) over the answer tokens.

    skip  the number of first answer tokens of each sequence that are left out
    """
    logits = logits_of(batch).detach().clone().requires_grad_()
    values = []
    rows = answer_rows(batch)
    for s in range(len(batch.labels)):
        own = (rows.sequence == s).nonzero()[:, 0][skip:]
        p = logits[s, rows.position[own]].softmax(-1)
        values.append(function(p[torch.arange(len(own)), rows.labels[own]]))
    return torch.autograd.grad(torch.cat(values).mean(), logits)[0]


CLAIMS = (
    simnpo_fades,
    simnpo_becomes_ascent,
    simnpo_margins,
    undial_at_the_teacher,
    wga_lowers_probability,
    satimp_spares_the_certain,
    ceu_is_unlikelihood,
    ceu_value,
)
