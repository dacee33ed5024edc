"""Closed forms of sku, which subtracts what it has trained, and of rmu, which reads hidden states.

The claims are as in claims.py.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from clear_ref import methods
from clear_ref.losses.hidden_states import control_vectors
from clear_ref.losses.outputs import Outputs
from clear_ref.methods import sku

from . import random_trials
from .closed_forms import (
    at_teacher,
    gradient_error,
    hidden_of,
    lengths,
    nll_gradient,
    token_mean_gradient,
)
from .measured import Trial, largest


def sku_trains_on_everything() -> Iterator[Trial]:
    """At the teacher SKU is fine-tuning on right and on random answers; its KL is 0 without a
    gradient"""
    given = {"n_random": 2, "w_forget": 2.5, "w_random": 1.5}
    for semantics, gradient_of, divisor in (
        ("paper", token_mean_gradient, 2),
        ("released", token_mean_gradient, 1),
        ("original", sequence_mean_gradient, 2),
    ):
        outputs, found = at_teacher("sku", semantics, given)
        wanted = {
            "forget": gradient_of(outputs["forget"], 2.5),
            "random1": gradient_of(outputs["random1"], 1.5 / divisor),
            "random2": gradient_of(outputs["random2"], 1.5 / divisor),
        }
        error = largest(abs(found.terms["retain_kl"]), gradient_error(found, wanted))
        yield Trial("sku", semantics, error / found.scale)


def sequence_mean_gradient(batch: Outputs, factor: float = 1.0) -> Tensor:
    """[B, T, V]: the gradient of factor times the mean over sequences of the mean nll."""
    return nll_gradient(batch, factor / (len(batch.labels) * lengths(batch)))


def sku_steps_back() -> Iterator[Trial]:
    """SKU's second stage is 2 theta_0 - theta_1: done twice it gives theta_1 again, and no training
    leaves theta_0"""
    before = {"w": random_trials.direction("theta_0", (5, 3))}
    after = {"w": random_trials.direction("theta_1", (5, 3))}
    negated = sku.negate_delta(before, after)
    twice = sku.negate_delta(before, negated)
    untrained = sku.negate_delta(before, before)
    error = largest(
        float((negated["w"] + after["w"] - 2 * before["w"]).abs().max()),
        float((twice["w"] - after["w"]).abs().max()),
        float((untrained["w"] - before["w"]).abs().max()),
    )
    for semantics in ("paper", "original"):
        if methods.second_stage("sku", semantics) != "negate_delta":
            error = float("nan")
        yield Trial("sku", semantics, error)


def rmu_starts_on_forget_alone() -> Iterator[Trial]:
    """At the teacher RMU's retain term is 0 without a gradient"""
    for semantics in ("paper", "original", "released", "released@2024-12-10", "released@nlp"):
        _, found = at_teacher("rmu", semantics)
        error = largest(
            abs(found.terms["retain_distance"]), float(found.gradients["retain"].abs().max())
        )
        yield Trial("rmu", semantics, error)


def rmu_arrives() -> Iterator[Trial]:
    """RMU's forget term is 0 without a gradient where every state is its target, and c^2 (over D
    where squares are averaged) where every state is 0"""
    given = {"c": 7.0}
    for semantics in ("paper", "original"):
        outputs = random_trials.batches("rmu", semantics, given, same=True)
        batch = outputs["forget"]
        h = hidden_of(batch)
        target = 7.0 * control_vectors(0, 1, h.shape[2])[0].expand_as(h)
        at_target = outputs | {"forget": replace(batch, hidden=target)}
        at_zero = outputs | {"forget": replace(batch, hidden=torch.zeros_like(h))}
        found = random_trials.loss("rmu", semantics, given, at_target)
        zero = random_trials.loss("rmu", semantics, given, at_zero)
        wanted = 49.0 if semantics == "paper" else 49.0 / h.shape[2]
        error = largest(
            abs(found.loss), gradient_error(found, {}), abs(zero.loss - wanted) / wanted
        )
        yield Trial("rmu", semantics, error)


def rmu_released_pulls_means() -> Iterator[Trial]:
    """The released RMU moves a sequence's mean state to the mean of all vectors: 2 / (B D T)
    (mean h - mean v) everywhere"""
    outputs, found = at_teacher("rmu", "released", {"c": 7.0})
    h = hidden_of(outputs["forget"])
    v = 7.0 * control_vectors(0, len(h), h.shape[2])
    pull = 2 / h.numel() * (h.mean(1) - v.mean(0))
    wanted = {"forget": pull[:, None].expand_as(h)}
    yield Trial("rmu", "released", gradient_error(found, wanted))


CLAIMS = (
    sku_trains_on_everything,
    sku_steps_back,
    rmu_starts_on_forget_alone,
    rmu_arrives,
    rmu_released_pulls_means,
)
