"""Closed forms of sku and rmu: what is trained to be left again, and hidden states; as claims.py has them."""

from dataclasses import replace

import torch

from clear_ref import methods
from clear_ref.losses.hidden_states import control_vectors
from clear_ref.methods import sku

from . import random_trials
from .closed_forms import at_teacher, lengths, nll_gradient, off, token_weights
from .laws import larger


def sku_trains_on_everything():
    """At the teacher SKU is fine-tuning on right and on random answers; its KL is 0 without a gradient"""
    for semantics, per_sequence, divisor in (
        ("paper", False, 2),
        ("released", False, 1),
        ("original", True, 2),
    ):
        outputs, found = at_teacher(
            "sku", semantics, {"n_random": 2, "w_forget": 2.5, "w_random": 1.5}
        )
        weigh = (
            (lambda one, factor: factor / (len(one.labels) * lengths(one)))
            if per_sequence
            else token_weights
        )
        wanted = {
            "forget": nll_gradient(outputs["forget"], weigh(outputs["forget"], 2.5)),
            **{
                name: nll_gradient(outputs[name], weigh(outputs[name], 1.5 / divisor))
                for name in ("random1", "random2")
            },
        }
        yield (
            "sku",
            semantics,
            larger(abs(found.terms["retain_kl"]), off(found, wanted)) / found.scale,
        )


def sku_steps_back():
    """SKU's second stage is 2 theta_0 - theta_1: done twice it gives theta_1 again, and no training leaves theta_0"""
    before, after = ({"w": random_trials.direction(key, (5, 3))} for key in ("theta_0", "theta_1"))
    there = sku.negate_delta(before, after)
    back = sku.negate_delta(before, there)
    error = larger(
        float((there["w"] + after["w"] - 2 * before["w"]).abs().max()),
        float((back["w"] - after["w"]).abs().max()),
        float((sku.negate_delta(before, before)["w"] - before["w"]).abs().max()),
    )
    for semantics in ("paper", "original"):
        yield "sku", semantics, error + 0 * len(methods.second_stage("sku", semantics))


def rmu_starts_on_forget_alone():
    """At the teacher RMU's retain term is 0 without a gradient"""
    for semantics in ("paper", "original", "released", "released@2024-12-10"):
        _, found = at_teacher("rmu", semantics)
        yield (
            "rmu",
            semantics,
            larger(
                abs(found.terms["retain_distance"]), float(found.gradients["retain"].abs().max())
            ),
        )


def rmu_arrives():
    """RMU's forget term is 0 without a gradient where every state is its target, and c^2 (over D where squares are averaged)
    where every state is 0"""
    for semantics in ("paper", "original"):
        outputs = random_trials.batches("rmu", semantics, {"c": 7.0}, same=True)
        h = outputs["forget"].hidden
        target = 7.0 * control_vectors(0, 1, h.shape[2])[0].expand_as(h)
        there, zero = (
            random_trials.loss(
                "rmu",
                semantics,
                {"c": 7.0},
                outputs | {"forget": replace(outputs["forget"], hidden=tensor)},
            )
            for tensor in (target, torch.zeros_like(h))
        )
        wanted = 49.0 if semantics == "paper" else 49.0 / h.shape[2]
        yield (
            "rmu",
            semantics,
            larger(abs(there.loss), off(there, {}), abs(zero.loss - wanted) / wanted),
        )


def rmu_released_pulls_means():
    """The released RMU pulls a sequence's mean state to the mean of all vectors: 2 / (B D T) (mean h - mean v) everywhere"""
    outputs, found = at_teacher("rmu", "released", {"c": 7.0})
    h = outputs["forget"].hidden
    v = 7.0 * control_vectors(0, len(h), h.shape[2])
    pull = 2 / h.numel() * (h.mean(1) - v.mean(0))
    yield "rmu", "released", off(found, {"forget": pull[:, None].expand_as(h)})


CLAIMS = (
    sku_trains_on_everything,
    sku_steps_back,
    rmu_starts_on_forget_alone,
    rmu_arrives,
    rmu_released_pulls_means,
)
