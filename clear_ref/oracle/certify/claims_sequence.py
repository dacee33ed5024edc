"""Closed forms of npo and dpo, whose loss is curved in a whole answer's likelihood; as claims.py has them."""

from math import log

import torch

from . import random_trials
from .closed_forms import apart, at_teacher, nll_gradient, off, sum_weights, sums
from .laws import larger

EPS = 1e-8  # the released NPO's


def npo_starts_at_log_two():
    """At the teacher NPO is (2 / beta) log 2, with the gradient of ascent on the mean sequence sum"""
    for semantics in ("paper", "original"):
        for beta in (0.1, 1.0, 5.0):
            outputs, found = at_teacher("npo", semantics, {"beta": beta})
            yield (
                "npo",
                semantics,
                larger(
                    abs(found.loss - 2 / beta * log(2)) / found.scale,
                    off(
                        found,
                        {
                            "forget": nll_gradient(
                                outputs["forget"], sum_weights(outputs["forget"], -1.0)
                            )
                        },
                    ),
                ),
            )


def npo_fades():
    """Anywhere NPO weighs a sequence by -(2 / B) sigmoid(-beta u), u = nll - teacher's nll"""
    for semantics in ("paper", "original"):
        outputs, found = apart("npo", semantics, {"beta": 0.5})
        one = outputs["forget"]
        fading = torch.sigmoid(-0.5 * (sums(one) - sums(one, True)))
        yield (
            "npo",
            semantics,
            off(found, {"forget": nll_gradient(one, sum_weights(one, -2.0) * fading)}),
        )


def npo_becomes_ascent():
    """As beta goes to 0, NPO less (2 / beta) log 2 becomes ascent on u = nll - teacher's nll"""
    for semantics in ("paper", "original"):
        for beta in (1e-2, 1e-4):
            outputs, found = apart("npo", semantics, {"beta": beta})
            one = outputs["forget"]
            u = sums(one) - sums(one, True)
            yield (
                "npo",
                semantics,
                abs(found.loss - 2 / beta * log(2) + float(u.mean())),
                float((u**2).mean()) * 1e-2 / 4,
                "Taylor: beta mean u^2 / 4, at the larger beta",
            )


def npo_becomes_hinge():
    """As beta goes to infinity, NPO becomes twice the mean of max(0, -u)"""
    for semantics in ("paper", "original"):
        outputs, found = apart("npo", semantics, {"beta": 1e3})
        u = sums(outputs["forget"]) - sums(outputs["forget"], True)
        yield (
            "npo",
            semantics,
            abs(found.loss - 2 * float((-u).clamp(min=0).mean())),
            2e-3 * log(2),
            "softplus: 2 log 2 / beta",
        )


def npo_released_sharpens():
    """At the teacher the released NPO's gradient is (1 / V - p) / rows: away from uniform, whatever the label"""
    outputs, found = at_teacher("npo", "released")
    z = outputs["forget"].logits
    p, rows = z.softmax(-1), z.shape[0] * z.shape[1]
    bound = 2 * EPS / float(p.min())
    yield (
        "npo",
        "released",
        larger(
            abs(found.loss - 2 * log(2)), rows * off(found, {"forget": (1 / z.shape[2] - p) / rows})
        ),
        bound,
        "the 1e-8 beside q: 2e-8 / the smallest q",
    )
    outputs, found = at_teacher("npo", "released@2024-12-10")
    z = outputs["forget"].logits
    wanted = 2 / z.shape[2] * (1 - z.shape[2] * z.softmax(-1)) / (z.shape[0] * z.shape[1])
    yield "npo", "released@2024-12-10", larger(abs(found.loss), off(found, {"forget": wanted}))


def dpo_starts_at_log_two():
    """At the teacher the DPO term is log 2, with weight beta / (2 B) on the refusal's nll and its negative on the answer's"""
    for semantics in ("paper", "original"):
        for beta in (0.1, 1.0):
            given = {"beta": beta} | ({"lambda_idk": 0.0} if semantics == "paper" else {})
            outputs, found = at_teacher("dpo", semantics, given)
            wanted = {
                name: nll_gradient(outputs[name], sum_weights(outputs[name], sign * beta / 2))
                for name, sign in (("idk", 1), ("forget", -1))
            }
            yield "dpo", semantics, larger(abs(found.terms["dpo"] - log(2)), off(found, wanted))


def dpo_weights():
    """Anywhere DPO weighs a pair by (beta / B) sigmoid(-beta h), + on the refusal's nll, - on the answer's"""
    for semantics in ("paper", "original"):
        outputs, found = apart(
            "dpo", semantics, {"beta": 0.3} | ({"lambda_idk": 0.0} if semantics == "paper" else {})
        )
        h_idk, h_forget = (
            sums(outputs[name], True) - sums(outputs[name]) for name in ("idk", "forget")
        )
        w = 0.3 / len(h_idk) * torch.sigmoid(-0.3 * (h_idk - h_forget))
        wanted = {
            "idk": nll_gradient(outputs["idk"], w),
            "forget": nll_gradient(outputs["forget"], -w),
        }
        yield "dpo", semantics, off(found, wanted)


def dpo_swapped():
    """DPO with its two answers exchanged differs by beta times the mean log-ratio: softplus(x) - softplus(-x) = x"""
    for semantics in ("paper", "original"):
        given = {"beta": 0.3} | ({"lambda_idk": 0.0} if semantics == "paper" else {})
        outputs, found = apart("dpo", semantics, given)
        h_idk, h_forget = (
            sums(outputs[name], True) - sums(outputs[name]) for name in ("idk", "forget")
        )
        other = random_trials.loss(
            "dpo", semantics, given, {"forget": outputs["idk"], "idk": outputs["forget"]}
        )
        yield (
            "dpo",
            semantics,
            abs(other.loss - found.loss - 0.3 * float((h_idk - h_forget).mean())),
        )


def dpo_released_memorises():
    """The released DPO is the mean summed nll of its idk batch: no reference, no forget batch, no beta"""
    for semantics in ("released", "released@2024-12-10", "released@2024-10-23"):
        outputs, found = apart("dpo", semantics)
        one = outputs["idk"]
        yield (
            "dpo",
            semantics,
            larger(
                abs(found.loss - float(sums(one).mean())) / found.scale,
                off(found, {"idk": nll_gradient(one, sum_weights(one))}),
            ),
        )


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
)
