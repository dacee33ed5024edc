"""The same numbers by another route: the numpy reference, and finite differences of the loss."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clear_ref import methods
from clear_ref.data.batches import Batch
from clear_ref.data.prompts import Phrases, read_phrases
from clear_ref.data.records import Row
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.rows import split_rows
from clear_ref.losses.outputs import Outputs
from clear_ref.methods import Loss, Need
from clear_ref.mini.directories import WORLD
from clear_ref.model.vlm import VLM
from clear_ref.oracle.encoded_batches import as_outputs, encode_plan, model_output
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.cases import Case

from . import random_trials
from .measured import UNIT_ROUNDOFF, Given, Measured, every_variant, largest
from .tiny_vlm import tiny_vlm

REFERENCE = "value and gradient are those of the numpy reference"
LOGITS = "the gradient in logits or hidden states is the slope of the loss"
MODEL = "the gradient in a VLM's adapters is the slope of the loss"
STEP = 1e-3  # of the finite differences
INDICES = (0, 45)  # a picture and a text of the embedded world
LAYER = 1  # the decoder layer that rmu reads


def against_reference() -> list[Measured]:
    """The package against oracle/reference: each variant with each of its options, some shapes."""
    reason = "1000 roundings of the terms' size (gradient: of the sum of the row weights)"
    measured = []
    for method, semantics in every_variant():
        shapes = ["plain", "left", "near", "equal"]
        if (method, semantics) in random_trials.NEAR:
            shapes = ["near", "equal"]
        errors = [
            reference_error(method, semantics, given, shape)
            for given in random_trials.option_sets(method, semantics)
            for shape in shapes
        ]
        bound = 1000 * UNIT_ROUNDOFF
        measured.append(
            Measured(REFERENCE, method, semantics, len(errors), largest(*errors), bound, reason)
        )
    return measured


def reference_error(method: str, semantics: str, given: Given, shape: str) -> float:
    """The largest error of loss and gradients against the numpy reference, on one shape."""
    case = Case(method, semantics, tuple(given.items()), shape)
    wanted = formulas.reference_loss(method, semantics, case.options, case.batches)
    outputs = random_trials.batches(method, semantics, given, shape)
    found = random_trials.loss(method, semantics, given, outputs)
    errors = [abs(found.loss - wanted.loss) / max(1.0, wanted.scale)]
    for name, gradient in wanted.gradients.items():
        error = float((found.gradients[name] - torch.from_numpy(gradient)).abs().max())
        errors.append(error / max(1.0, wanted.weight))
    return largest(*errors)


def through_logits() -> list[Measured]:
    """The gradient in each batch's logits or hidden states, along a random direction."""
    reason = (
        "h = 0.001: truncation h^4 / 30 * fifth derivative (below 1000) < 4e-11, "
        "rounding 2 roundings / h < 1e-12"
    )
    measured = []
    for method, semantics in every_variant():
        errors = []
        for given in random_trials.option_sets(method, semantics):
            errors += logit_slope_errors(method, semantics, given)
        measured.append(
            Measured(LOGITS, method, semantics, len(errors), largest(*errors), 1e-10, reason)
        )
    return measured


def logit_slope_errors(method: str, semantics: str, given: Given) -> list[float]:
    """For each batch: |slope - gradient . direction| relative to the terms' size."""
    shape = random_trials.shape_for(method, semantics, "left")
    outputs = random_trials.batches(method, semantics, given, shape)
    found = random_trials.loss(method, semantics, given, outputs)
    errors = []
    for name, batch in outputs.items():
        start = random_trials.student_tensor(batch)
        along = random_trials.direction(f"{method}/{name}", start.shape)

        def loss_at(
            step: float, name: str = name, start: Tensor = start, along: Tensor = along
        ) -> float:
            moved = random_trials.with_student(outputs[name], start + step * along)
            every = {**outputs, name: moved}
            return random_trials.value(method, semantics, given, every, outputs)

        expected = float((found.gradients[name] * along).sum())
        errors.append(abs(slope(loss_at) - expected) / found.scale)
    return errors


def through_model(part: int = 0, n_parts: int = 1) -> list[Measured]:
    """The gradient in all adapters of a small LLaVA, on records of the embedded world.

    part  of n_parts that the variants are cut into, neighbours together
    """
    reason = (
        "h = 0.001: truncation h^4 / 30 * fifth derivative (of a network: below 1e5 at these "
        "weights) < 4e-9"
    )
    model = AdaptedModel(tiny_vlm(), split_rows(WORLD, "both", 10), read_phrases(WORLD))
    variants = every_variant()
    begin, end = (len(variants) * edge // n_parts for edge in (part, part + 1))
    measured = []
    for method, semantics in variants[begin:end]:
        errors = [
            model_slope_error(model, method, semantics, given)
            for given in random_trials.option_sets(method, semantics)
        ]
        measured.append(
            Measured(MODEL, method, semantics, len(errors), largest(*errors), 1e-8, reason)
        )
    return measured


@dataclass
class BatchWithTeacher:
    """One encoded batch, and the teacher's output on it."""

    batch: Batch
    teacher: Tensor


@dataclass
class AdaptedModel:
    """A model with adapters, and the records that losses are computed on.

    rows   the rows to forget and to retain
    known  the batches encoded so far, by batch name, contents, label mask and kind of output
    """

    vlm: VLM
    rows: tuple[list[Row], list[Row]]
    phrases: Phrases
    known: dict[object, BatchWithTeacher] = field(default_factory=dict)

    def batches(
        self, method: str, semantics: str, needs: dict[str, Need]
    ) -> dict[str, BatchWithTeacher]:
        """{batch name: BatchWithTeacher} of a variant, with the adapters off for the teacher."""
        chosen = methods.variant(method, semantics)
        plan = UnlearnPlan(*self.rows, tuple(needs), self.phrases, 0, chosen.contents)
        batches = {}
        for name, need in needs.items():
            key = (name, plan.contents, chosen.mask, need.hidden)
            if key not in self.known:
                batch = encode_plan(self.vlm, plan, [name], chosen.mask, INDICES)[name].batch
                with torch.no_grad(), self.vlm.adapters_off():
                    teacher = model_output(self.vlm, batch, LAYER, need.hidden)
                self.known[key] = BatchWithTeacher(batch, teacher)
            batches[name] = self.known[key]
        return batches


class MovableLoss:
    """The loss of a variant as a function of a step of all adapters along a random direction."""

    def __init__(
        self,
        vlm: VLM,
        method: str,
        semantics: str,
        given: Given,
        needs: dict[str, Need],
        batches: dict[str, BatchWithTeacher],
    ) -> None:
        self.vlm = vlm
        self.method = method
        self.semantics = semantics
        self.given = given
        self.needs = needs
        self.batches = batches
        self.parameters = {
            name: tensor for name, tensor in vlm.model.named_parameters() if tensor.requires_grad
        }
        self.start = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        # Read by a loss with a part that gets no gradient (Variant.held).
        self.constants: dict[str, Outputs] | None = None
        if methods.variant(method, semantics).held is not None:
            with torch.no_grad():
                self.constants = self.outputs()
        self.along = {
            name: random_trials.direction(name, tensor.shape) / len(self.parameters) ** 0.5
            for name, tensor in self.parameters.items()
        }

    @torch.no_grad()
    def value(self) -> float:
        """The loss with the adapters as they are, and what gets no gradient as at the start."""
        return random_trials.value(
            self.method, self.semantics, self.given, self.outputs(), self.constants
        )

    def loss(self) -> Loss:
        """The loss with the adapters as they are."""
        return methods.method_loss(self.method, self.outputs(), self.semantics, **self.given)

    def outputs(self) -> dict[str, Outputs]:
        """What the model with the adapters as they are computes of each batch."""
        outputs = {}
        for name, one in self.batches.items():
            hidden = self.needs[name].hidden
            student = model_output(self.vlm, one.batch, LAYER, hidden)
            outputs[name] = as_outputs(one.batch, student, one.teacher, hidden)
        return outputs

    @torch.no_grad()
    def at(self, step: float) -> float:
        """The loss with the adapters at start + step * direction; they stay there."""
        for name, tensor in self.parameters.items():
            tensor.copy_(self.start[name] + step * self.along[name])
        return self.value()

    @torch.no_grad()
    def move_teacher_near(self) -> None:
        """Take the student at a step of 0.05 as the teacher."""
        self.at(0.05)
        self.batches = {
            name: BatchWithTeacher(
                one.batch, model_output(self.vlm, one.batch, LAYER, self.needs[name].hidden)
            )
            for name, one in self.batches.items()
        }


def model_slope_error(model: AdaptedModel, method: str, semantics: str, given: Given) -> float:
    """|slope - gradient . direction| of one loss, relative to the terms' size."""
    if method == "rmu":
        given = given | {"layer": LAYER}
    options = methods.make_options(method, given, semantics)
    needs = methods.variant(method, semantics).needs_of(options)
    batches = model.batches(method, semantics, needs)
    movable = MovableLoss(model.vlm, method, semantics, given, needs, batches)
    if (method, semantics) in random_trials.NEAR:
        movable.move_teacher_near()
    measured = slope(movable.at)
    movable.at(0.0)
    loss = movable.loss()
    gradients = torch.autograd.grad(
        loss.value, list(movable.parameters.values()), allow_unused=True
    )
    expected = 0.0
    for name, gradient in zip(movable.parameters, gradients, strict=True):
        if gradient is not None:
            expected += float((gradient * movable.along[name]).sum())
    size = sum(abs(float(term.detach())) for term in loss.terms.values())
    return abs(measured - expected) / max(1.0, size)


def slope(function: Callable[[float], float]) -> float:
    """d function(x) / dx at 0 from four values: the difference quotient of fourth order."""
    near = function(STEP) - function(-STEP)
    far = function(2 * STEP) - function(-2 * STEP)
    return (8 * near - far) / (12 * STEP)
