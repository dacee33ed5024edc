"""Laws that hold for every method under every semantics, measured on random inputs.

A law is a function (method, semantics, options) -> error, or None if it says nothing about them.
Its docstring is the claim as the table prints it.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from clear_ref import methods
from clear_ref.losses.outputs import Outputs
from clear_ref.losses.rows import ROW_SETS, select_rows

from . import random_trials
from .measured import (
    ROUNDING,
    ROUNDING_REASON,
    Given,
    Measured,
    claim_of,
    every_variant,
    largest,
)
from .random_trials import Result

# Options that are not weights: the loss is not linear in them.
CURVED = {
    ("npo", "beta"),
    ("dpo", "beta"),
    ("scrub", "temperature"),
    ("rmu", "c"),
    ("simnpo", "beta"),
    ("simnpo", "margin"),
    ("simnpo", "delta"),
    ("undial", "beta"),
    ("wga", "beta"),
    ("satimp", "beta1"),
    ("satimp", "beta2"),
}
Law = Callable[[str, str, Given], float | None]
Change = Callable[[Tensor, Outputs], Tensor]


def measure() -> list[Measured]:
    """Every law, measured for every variant with each of its options."""
    measured = []
    for law in LAWS:
        bound = ROUNDING
        reason = ROUNDING_REASON
        if law in (unread_rows, teacher_constant):
            bound = 0.0
            reason = "nothing is computed with them"
        for method, semantics in every_variant():
            errors = []
            for given in random_trials.option_sets(method, semantics):
                error = law(method, semantics, given)
                if error is not None:
                    errors.append(error)
            if errors:
                measured.append(
                    Measured(
                        claim_of(law),
                        method,
                        semantics,
                        len(errors),
                        largest(*errors),
                        bound,
                        reason,
                    )
                )
    return measured


def each_tensor(outputs: dict[str, Outputs], change: Change) -> dict[str, Outputs]:
    """Every batch with change(tensor, batch) in place of each of its tensors [B, T, ...].

    Labels and attention mask are changed too.
    """
    changed = {}
    for name, batch in outputs.items():
        tensors: dict[str, Any] = {}  # Tensor, or None where the field may be None
        for field in fields(Outputs):
            tensor = getattr(batch, field.name)
            tensors[field.name] = None if tensor is None else change(tensor, batch)
        changed[name] = Outputs(**tensors)
    return changed


def difference(
    before: Result, after: Result, move: Callable[[Tensor], Tensor] = lambda gradient: gradient
) -> float:
    """The largest difference of two losses and of their gradients, relative to the terms' size.

    move  takes a gradient of the first loss to its place in the second
    """
    errors = [
        float((move(before.gradients[name]) - gradient).abs().max())
        for name, gradient in after.gradients.items()
    ]
    return largest(abs(before.loss - after.loss), *errors) / before.scale


def trial(method: str, semantics: str, given: Given) -> tuple[dict[str, Outputs], Result]:
    """(batches, Result) of a variant on random inputs."""
    outputs = random_trials.usual_batches(method, semantics, given)
    return outputs, random_trials.loss(method, semantics, given, outputs)


def shift(method: str, semantics: str, given: Given) -> float | None:
    """A number added to all logits of a row changes nothing, another number at each row and for
    each model"""
    if method == "rmu":
        return None
    outputs, found = trial(method, semantics, given)

    def change(tensor: Tensor, batch: Outputs) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        key = f"offset/{tensor is batch.logits}"
        return tensor + 8 * random_trials.direction(key, tensor.shape[:2])[..., None]

    shifted = each_tensor(outputs, change)
    return difference(found, random_trials.loss(method, semantics, given, shifted))


def sums_to_zero(method: str, semantics: str, given: Given) -> float | None:
    """The gradient of each row of logits sums to zero: probabilities always sum to 1"""
    if method == "rmu":
        return None
    _, found = trial(method, semantics, given)
    sums = [float(gradient.sum(-1).abs().max()) for gradient in found.gradients.values()]
    return largest(*sums) / found.scale


def renamed_vocabulary(method: str, semantics: str, given: Given) -> float | None:
    """Tokens may be numbered in any order"""
    if method == "rmu":
        return None
    outputs, found = trial(method, semantics, given)
    first = random_trials.student_tensor(next(iter(outputs.values())))
    renamed = torch.arange(first.shape[2]).roll(-2)

    def change(tensor: Tensor, batch: Outputs) -> Tensor:
        if tensor is batch.labels:
            return torch.where(tensor >= 0, renamed[tensor.clamp(min=0)], tensor)
        return tensor.roll(2, 2) if tensor.ndim == 3 else tensor

    after = random_trials.loss(method, semantics, given, each_tensor(outputs, change))
    return difference(found, after, lambda gradient: gradient.roll(2, 2))


def order(method: str, semantics: str, given: Given) -> float | None:
    """Sequences may be in any order, the same in every batch"""
    outputs, found = trial(method, semantics, given)
    reversed_order = each_tensor(outputs, lambda tensor, batch: tensor.flip(0))
    after = random_trials.loss(method, semantics, given, reversed_order)
    return difference(found, after, lambda gradient: gradient.flip(0))


def padding_side(method: str, semantics: str, given: Given) -> float | None:
    """Padding may be on either side (not in open-unlearning's UNDIAL, which reads all rows but each
    sequence's last)"""
    if (method, semantics) == ("undial", "original"):
        return None
    outputs, found = trial(method, semantics, given)

    def change(tensor: Tensor, batch: Outputs) -> Tensor:
        assert batch.attention_mask is not None  # random batches have one
        n_padding = (batch.attention_mask == 0).sum(1).tolist()
        rows = [row.roll(n, 0) for row, n in zip(tensor, n_padding, strict=True)]
        return torch.stack(rows)

    after = random_trials.loss(method, semantics, given, each_tensor(outputs, change))
    moved = {name: change(gradient, outputs[name]) for name, gradient in found.gradients.items()}
    return difference(Result(found.loss, found.terms, moved), after)


def micro_batches(method: str, semantics: str, given: Given) -> float | None:
    """A batch's loss is the sum over its records, each divided by the counts of the whole (not in
    open-unlearning's CE-U, which divides by the tokens that it reads of a batch)"""
    if (method, semantics) == ("ceu", "original"):
        return None
    outputs, found = trial(method, semantics, given)
    chosen = methods.variant(method, semantics)
    options = methods.make_options(method, given, semantics)
    n = min(len(batch.labels) for batch in outputs.values())
    outputs = each_tensor(outputs, lambda tensor, batch: tensor[:n])
    if chosen.prepare_options is not None:
        options = chosen.prepare_options(options, n)
    whole_batches = {name: batch.batch_rows() for name, batch in outputs.items()}
    whole = float(chosen.loss(whole_batches, options).value)
    total = 0.0
    for s in range(n):
        records = records_at(outputs, s)
        rows = {}
        for name, record in records.items():
            n_rows = {row_set: whole_batches[name].n_rows[row_set] for row_set in ROW_SETS}
            rows[name] = record.batch_rows(n, n_rows)
        total += float(chosen.loss(rows, options).value)
    return abs(total - whole) / found.scale


def records_at(outputs: dict[str, Outputs], s: int) -> dict[str, Outputs]:
    """Record s of every batch, as a batch of its own."""
    return each_tensor(outputs, lambda tensor, batch: tensor[s : s + 1])


def unread_rows(method: str, semantics: str, given: Given) -> float | None:
    """Rows that the loss does not read have no effect on loss and gradient, and no gradient, even
    if they hold NaN"""
    outputs, found = trial(method, semantics, given)
    options = methods.make_options(method, given, semantics)
    needs = methods.variant(method, semantics).needs_of(options)
    if all("all" in need.rows for need in needs.values()):
        return None
    with_nan = {}
    errors = []
    for name, batch in outputs.items():
        is_read = read_positions(batch, needs[name].rows)
        with_nan[name] = nan_where(batch, ~is_read)
        errors.append(float(found.gradients[name][~is_read].abs().sum()))
    after = random_trials.loss(method, semantics, given, with_nan)
    return largest(*errors, difference(found, after))


def read_positions(batch: Outputs, row_sets: tuple[str, ...]) -> Tensor:
    """[B, T] bool: the rows of these row sets."""
    assert batch.attention_mask is not None  # random batches have one
    is_read = torch.zeros_like(batch.labels, dtype=torch.bool)
    for row_set in row_sets:
        rows = select_rows(batch.labels, batch.attention_mask, row_set)
        is_read[rows.sequence, rows.position] = True
    return is_read


def nan_where(batch: Outputs, mask: Tensor) -> Outputs:
    """The batch with NaN at the masked rows of every logit and hidden state."""

    def change(tensor: Tensor, batch: Outputs) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.masked_fill(mask[..., None], torch.nan)

    return each_tensor({"": batch}, change)[""]


def teacher_constant(method: str, semantics: str, given: Given) -> float | None:
    """No gradient reaches the teacher"""
    outputs = random_trials.usual_batches(method, semantics, given)
    teachers = []
    students = []
    for batch in outputs.values():
        field = random_trials.student_field(batch)
        teacher = getattr(batch, f"teacher_{field}")
        if teacher is not None:
            teachers.append(teacher.requires_grad_())
        students.append(random_trials.student_tensor(batch).requires_grad_())
    if not teachers:
        return None
    loss = methods.method_loss(method, outputs, semantics, **given).value
    gradients = torch.autograd.grad(loss, [*teachers, *students], allow_unused=True)
    of_teachers = gradients[: len(teachers)]
    return largest(
        0.0, *(float(gradient.abs().max()) for gradient in of_teachers if gradient is not None)
    )


def weights(method: str, semantics: str, given: Given) -> float | None:
    """The loss is linear in each weight among the options: L(w) - 2 L(2w) + L(3w) = 0, in value
    and gradient"""
    options = methods.make_options(method, given, semantics)
    errors = []
    for field in fields(options):
        if field.type is not float or (method, field.name) in CURVED:
            continue
        start = getattr(options, field.name) or 1.0
        at_start = given | {field.name: start}
        outputs = random_trials.usual_batches(method, semantics, at_start)
        one, two, three = (
            random_trials.loss(method, semantics, given | {field.name: n * start}, outputs)
            for n in (1, 2, 3)
        )
        extrapolated = {
            name: 2 * two.gradients[name] - three.gradients[name] for name in two.gradients
        }
        expected = Result(2 * two.loss - three.loss, three.terms, extrapolated)
        errors.append(difference(expected, one))
    return largest(*errors) if errors else None


LAWS: tuple[Law, ...] = (
    shift,
    sums_to_zero,
    renamed_vocabulary,
    order,
    padding_side,
    micro_batches,
    unread_rows,
    teacher_constant,
    weights,
)
