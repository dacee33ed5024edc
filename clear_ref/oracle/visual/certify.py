"""Certificates of the visual methods: claims that are measured in float64, with their bounds."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from clear_ref.data.torch_draws import torch_generator
from clear_ref.methods.loss import Loss
from clear_ref.oracle.certify.certificates import Certificate, as_row
from clear_ref.oracle.certify.measured import (
    ROUNDING,
    ROUNDING_REASON,
    Measured,
    claim_of,
    largest,
)
from clear_ref.visual.methods import table
from clear_ref.visual.methods.inputs import Batch, Inputs
from clear_ref.visual.methods.variant import SAMPLING
from clear_ref.visual.network import new_network

from .cases import Case, all_cases, case_of, inputs_of
from .reference import Given, done_of, gradients_of, terms_of

Trials = Iterator[tuple[str, str, float]]  # (method, semantics, error)
STEP = 1e-7
SLOPE = 1e-6
SLOPE_REASON = (
    "central differences with steps of 1e-7: a third derivative times 1e-14, and the rounding of "
    "the loss, 1e-14, over 1e-7"
)


def tensors(given: Given) -> Inputs:
    """Inputs of the losses, with leaves, from those of the reference."""
    batches = {
        name: Batch(
            torch.tensor(each["embeddings"]).requires_grad_(),
            torch.tensor(each["labels"]),
            torch.tensor(each["targets"]),
            torch.tensor(each["forget"]),
            torch.tensor(each["random"]),
        )
        for name, each in given.batches.items()
    }
    parameters = tuple(torch.tensor(each).requires_grad_() for each in given.parameters)
    weight = torch.tensor(given.weight).requires_grad_()
    return Inputs(batches, weight, torch.tensor(given.base_weight), parameters, done_of(given))


def leaves(inputs: Inputs) -> dict[str, Tensor]:
    """{name: leaf}, as those of the reference."""
    found = {name: batch.embeddings for name, batch in inputs.batches.items()}
    found["weight"] = inputs.weight
    return {**found, **{f"parameter{k}": each for k, each in enumerate(inputs.parameters)}}


def gradients(value: Tensor, inputs: Inputs) -> dict[str, np.ndarray]:
    """{leaf: gradient}, zeros where nothing is read."""
    named = leaves(inputs)
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if each is None else each.numpy()
        for (name, leaf), each in zip(named.items(), found, strict=True)
    }


def loss_of(case: Case, inputs: Inputs) -> Loss:
    """The loss under judgement."""
    return table.visual_loss(case.method, inputs, case.semantics, **case.options)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in units of the largest expected value or 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def terms_are_the_references() -> Trials:
    """Every named term is that of the numpy reference, on every shape and option"""
    for case in all_cases():
        given = inputs_of(case)
        expected = terms_of(case.method, case.semantics, given, case.options)
        found = loss_of(case, tensors(given)).terms
        same = set(found) == set(expected)
        errors = [
            abs(found[name].item() - value) / max(1.0, abs(value))
            for name, value in expected.items()
            if same
        ]
        yield case.method, case.semantics, largest(*errors) if same else float("nan")


def gradients_are_the_references() -> Trials:
    """Every gradient is the reference's, by its own differentiation, on every shape and option"""
    for case in all_cases():
        given = inputs_of(case)
        inputs = tensors(given)
        found = gradients(loss_of(case, inputs).value, inputs)
        expected = gradients_of(case.method, case.semantics, given, case.options)
        errors = [relative(found[name], each) for name, each in expected.items()]
        yield case.method, case.semantics, largest(*errors)


def a_batch_twice() -> Trials:
    """A batch in which each picture stands twice gives the same loss: every mean is over the
    pictures of its batch"""
    for case in all_cases():
        inputs = tensors(inputs_of(case))
        batches = {name: twice(batch) for name, batch in inputs.batches.items()}
        doubled = Inputs(batches, inputs.weight, inputs.base_weight, inputs.parameters, inputs.done)
        one, other = (loss_of(case, each) for each in (inputs, doubled))
        size = max(1.0, sum(abs(term.item()) for term in one.terms.values()))
        error = abs(one.value.item() - other.value.item()) / size
        yield case.method, case.semantics, error


def twice(batch: Batch) -> Batch:
    """The batch with each picture twice."""
    assert batch.targets is not None and batch.random is not None  # cases have both
    return Batch(
        torch.cat([batch.embeddings] * 2),
        torch.cat([batch.labels] * 2),
        torch.cat([batch.targets] * 2),
        torch.cat([batch.forget] * 2),
        torch.cat([batch.random] * 2),
    )


def at_the_base() -> Trials:
    """At the base: SCRUB's KL and their gradients are 0, so is LLMU's; DPO is log 2 (over beta
    where it is released); SCRUBbio, RMU and Twins at their targets have no gradient"""
    for method in table.METHODS:
        for semantics in table.METHODS[method].VARIANTS:
            case = case_of(method, semantics, "at_base", {})
            inputs = tensors(inputs_of(case))
            loss = loss_of(case, inputs)
            if method in ("scrub", "llmu"):
                kls = [term for name, term in loss.terms.items() if name.endswith("kl")]
                for term in kls:
                    slopes = gradients(term, inputs).values()
                    error = max(abs(term.item()), *(float(np.abs(each).max()) for each in slopes))
                    yield method, semantics, error
            elif method == "dpo":
                beta = case.options["beta"] if semantics == "released" else 1.0
                yield method, semantics, abs(loss.terms["dpo"].item() - np.log(2) / beta)
            elif method in ("scrubbio", "rmu", "twins"):
                slopes = gradients(loss.value, inputs).values()
                yield method, semantics, max(float(np.abs(each).max()) for each in slopes)


def through_a_network() -> Trials:
    """Through a ResNet-18 of width 1 and the head, BN in both modes: the slope of the loss along a
    random direction of all weights is that of autograd"""
    for method in table.METHODS:
        for semantics in table.METHODS[method].VARIANTS:
            case = case_of(method, semantics, "plain", {})
            for mode in (True, False):
                yield method, semantics, slope_error(case, mode)


def slope_error(case: Case, training: bool) -> float:
    """Relative difference of both slopes."""
    network = new_network(1, seed=1).double().train(training)
    weight = torch.linspace(-1, 1, 5 * 8, dtype=torch.float64).sin().view(5, 8).requires_grad_()
    parameters: list[Tensor] = [*network.parameters(), weight]
    generator = torch_generator(0, "visual certify")
    with torch.no_grad():
        # BN's initial shift is 0, and relu has its kink at 0: a dead region would lie on it.
        for shift in network.parameters():
            if shift.ndim == 1:
                shift.add_(torch.randn(shift.shape, generator=generator).double(), alpha=0.1)
    pixels = {
        name: torch.randn(6, 3, 40, 40, generator=generator, dtype=torch.float64)
        for name in SAMPLING[table.variant(case.method, case.semantics).sampling]
    }
    targets = {name: torch.randn(6, 8, generator=generator, dtype=torch.float64) for name in pixels}
    template = tensors(inputs_of(case)).batches
    directions = [
        torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in parameters
    ]

    base_weight = weight.detach().cos()

    def loss() -> Tensor:
        batches = {
            name: Batch(network(pixels[name]), each.labels, targets[name], each.forget, each.random)
            for name, each in template.items()
        }
        inputs = Inputs(batches, weight, base_weight, tuple(network.parameters()))
        return loss_of(case, inputs).value

    found = torch.autograd.grad(loss(), parameters, allow_unused=True)
    slope = sum(
        float((each * direction).sum())
        for each, direction in zip(found, directions, strict=True)
        if each is not None
    )
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for each, direction in zip(parameters, directions, strict=True):
                each.add_(direction, alpha=sign * STEP)
            ends.append(loss().item())
    measured = (ends[0] - ends[1]) / (2 * STEP)
    return abs(measured - slope) / max(1.0, abs(slope))


CLAIMS = (
    (terms_are_the_references, ROUNDING, ROUNDING_REASON),
    (gradients_are_the_references, ROUNDING, ROUNDING_REASON),
    (a_batch_twice, ROUNDING, ROUNDING_REASON),
    (at_the_base, ROUNDING, ROUNDING_REASON),
    (through_a_network, SLOPE, SLOPE_REASON),
)


def certify() -> Certificate:
    """Every claim about every method and semantics that it is about."""
    started = time.monotonic()
    rows = []
    for claim, bound, reason in CLAIMS:
        errors: dict[tuple[str, str], list[float]] = {}
        for method, semantics, error in claim():
            errors.setdefault((method, semantics), []).append(error)
        for (method, semantics), each in errors.items():
            measured = Measured(
                claim_of(claim), method, semantics, len(each), largest(*each), bound, reason
            )
            rows.append(as_row(measured))
    return Certificate(
        rows=rows,
        claims=len(rows),
        failed=sum(not row["ok"] for row in rows),
        seconds=round(time.monotonic() - started, 1),
    )
