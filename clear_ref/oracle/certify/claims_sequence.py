"""Closed forms of npo and dpo, whose loss is curved in the likelihood of a whole answer.

The claims are as in claims.py.
"""

from collections.abc import Iterator
from math import log

import torch
from torch import Tensor

from . import random_trials
from .closed_forms import (
    Batches,
    answer_nll,
    apart,
    at_teacher,
    gradient_error,
    lengths,
    logits_of,
    nll_gradient,
    sum_weights,
)
from .measured import Given, Trial, largest

EPSILON = 1e-8  # added to q in the released NPO


def npo_starts_at_log_two() -> Iterator[Trial]:
    """At the teacher NPO is (2 / beta) log 2, with the gradient of ascent on the mean sequence
    sum"""
    for semantics in ("paper", "original"):
        for beta in (0.1, 1.0, 5.0):
            outputs, found = at_teacher("npo", semantics, {"beta": beta})
            batch = outputs["forget"]
            wanted = {"forget": nll_gradient(batch, sum_weights(batch, -1.0))}
            loss_error = abs(found.loss - 2 / beta * log(2)) / found.scale
            yield Trial("npo", semantics, largest(loss_error, gradient_error(found, wanted)))


def npo_fades() -> Iterator[Trial]:
    """Anywhere NPO weighs a sequence by -(2 / B) sigmoid(-beta u), u = nll - teacher's nll"""
    for semantics in ("paper", "original"):
        outputs, found = apart("npo", semantics, {"beta": 0.5})
        batch = outputs["forget"]
        weights = sum_weights(batch, -2.0) * torch.sigmoid(-0.5 * nll_over_teacher(outputs))
        yield Trial(
            "npo", semantics, gradient_error(found, {"forget": nll_gradient(batch, weights)})
        )


def npo_becomes_ascent() -> Iterator[Trial]:
    """As beta goes to 0, NPO less (2 / beta) log 2 becomes ascent on u = nll - teacher's nll"""
    for semantics in ("paper", "original"):
        for beta in (1e-2, 1e-4):
            outputs, found = apart("npo", semantics, {"beta": beta})
            u = nll_over_teacher(outputs)
            yield Trial(
                "npo",
                semantics,
                abs(found.loss - 2 / beta * log(2) + float(u.mean())),
                float((u**2).mean()) * 1e-2 / 4,
                "Taylor: beta mean u^2 / 4, at the larger beta",
            )


def npo_becomes_hinge() -> Iterator[Trial]:
    """As beta goes to infinity, NPO becomes twice the mean of max(0, -u)"""
    for semantics in ("paper", "original"):
        outputs, found = apart("npo", semantics, {"beta": 1e3})
        u = nll_over_teacher(outputs)
        yield Trial(
            "npo",
            semantics,
            abs(found.loss - 2 * float((-u).clamp(min=0).mean())),
            2e-3 * log(2),
            "softplus: 2 log 2 / beta",
        )


def nll_over_teacher(outputs: Batches) -> Tensor:
    """[B]: u = nll - teacher's nll of each whole forget answer."""
    batch = outputs["forget"]
    return answer_nll(batch) - answer_nll(batch, teacher=True)


def npo_released_sharpens() -> Iterator[Trial]:
    """At the teacher the released NPO's gradient is (1 / V - p) / rows: away from uniform, whatever
    the label"""
    outputs, found = at_teacher("npo", "released")
    z = logits_of(outputs["forget"])
    B, T, V = z.shape
    n_rows = B * T
    p = z.softmax(-1)
    wanted = (1 / V - p) / n_rows
    error = largest(
        abs(found.loss - 2 * log(2)), n_rows * gradient_error(found, {"forget": wanted})
    )
    yield Trial(
        "npo",
        "released",
        error,
        2 * EPSILON / float(p.min()),
        "the 1e-8 beside q: 2e-8 / the smallest q",
    )
    for semantics in ("released@2024-12-10", "released@nlp"):
        outputs, found = at_teacher("npo", semantics)
        z = logits_of(outputs["forget"])
        B, T, V = z.shape
        wanted = 2 / V * (1 - V * z.softmax(-1)) / (B * T)
        error = largest(abs(found.loss), gradient_error(found, {"forget": wanted}))
        yield Trial("npo", semantics, error)


def dpo_options(semantics: str, beta: float) -> Given:
    """Options under which the loss of dpo is its DPO term alone."""
    given: Given = {"beta": beta}
    if semantics == "paper":
        given["lambda_idk"] = 0.0
    return given


def dpo_starts_at_log_two() -> Iterator[Trial]:
    """At the teacher the DPO term is log 2, with weight beta / (2 B) on the refusal's nll and its
    negative on the answer's"""
    for semantics in ("paper", "original"):
        for beta in (0.1, 1.0):
            outputs, found = at_teacher("dpo", semantics, dpo_options(semantics, beta))
            wanted = {
                name: nll_gradient(outputs[name], sum_weights(outputs[name], sign * beta / 2))
                for name, sign in (("idk", 1), ("forget", -1))
            }
            error = largest(abs(found.terms["dpo"] - log(2)), gradient_error(found, wanted))
            yield Trial("dpo", semantics, error)


def dpo_weights() -> Iterator[Trial]:
    """Anywhere DPO weighs a pair by (beta / B) sigmoid(-beta h), + on the refusal's nll, - on the
    answer's"""
    for semantics in ("paper", "original"):
        outputs, found = apart("dpo", semantics, dpo_options(semantics, 0.3))
        h = log_ratio_difference(outputs)
        weights = 0.3 / len(h) * torch.sigmoid(-0.3 * h)
        wanted = {
            "idk": nll_gradient(outputs["idk"], weights),
            "forget": nll_gradient(outputs["forget"], -weights),
        }
        yield Trial("dpo", semantics, gradient_error(found, wanted))


def dpo_swapped() -> Iterator[Trial]:
    """DPO with its two answers exchanged differs by beta times the mean log-ratio: softplus(x) -
    softplus(-x) = x"""
    for semantics in ("paper", "original"):
        given = dpo_options(semantics, 0.3)
        outputs, found = apart("dpo", semantics, given)
        exchanged = {"forget": outputs["idk"], "idk": outputs["forget"]}
        other = random_trials.loss("dpo", semantics, given, exchanged)
        mean = float(log_ratio_difference(outputs).mean())
        yield Trial("dpo", semantics, abs(other.loss - found.loss - 0.3 * mean))


def log_ratio_difference(outputs: Batches) -> Tensor:
    """[B]: h, the log-ratio student / teacher of the refusal minus that of the true answer."""
    idk = answer_nll(outputs["idk"], teacher=True) - answer_nll(outputs["idk"])
    forget = answer_nll(outputs["forget"], teacher=True) - answer_nll(outputs["forget"])
    return idk - forget


def dpo_released_memorises() -> Iterator[Trial]:
    """The released DPO is the mean summed nll of its idk batch: no reference, no forget batch, no
    beta"""
    for semantics in ("released", "released@2024-12-10", "released@2024-10-23"):
        outputs, found = apart("dpo", semantics)
        batch = outputs["idk"]
        loss_error = abs(found.loss - float(answer_nll(batch).mean())) / found.scale
        wanted = {"idk": nll_gradient(batch, sum_weights(batch))}
        yield Trial("dpo", semantics, largest(loss_error, gradient_error(found, wanted)))


def dpo_text_only_is_retain_ft() -> Iterator[Trial]:
    """The text-only DPO is retain fine-tuning times the retain batch's answer tokens for each
    sequence: no reference, no forget batch, no refusal"""
    outputs, found = apart("dpo", "released@nlp")
    batch = outputs["retain"]
    tuned = random_trials.loss("retain_ft", "released", {}, outputs)
    factor = float(lengths(batch).mean())
    error = largest(
        abs(found.loss - factor * tuned.loss) / found.scale,
        gradient_error(found, {"retain": factor * tuned.gradients["retain"]}),
    )
    yield Trial("dpo", "released@nlp", error)


CLAIMS = (
    npo_starts_at_log_two,
    npo_fades,
    npo_becomes_ascent,
    npo_becomes_hinge,
    npo_released_sharpens,
    dpo_starts_at_log_two,
    dpo_weights,
    dpo_swapped,
    dpo_released_memorises,
    dpo_text_only_is_retain_ft,
)
