"""A method's loss and gradient on random inputs in float64, with every option of every variant."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from clear_ref import methods
from clear_ref.common.settings import field_choices
from clear_ref.data.draws import uniform_vector
from clear_ref.losses.outputs import Outputs
from clear_ref.oracle.reference.cases import NEAR, Case

from .measured import Given


@dataclass(frozen=True)
class Result:
    """A loss as numbers; gradients: {batch name: d loss / d student tensor}."""

    loss: float
    terms: dict[str, float]
    gradients: dict[str, Tensor]

    @property
    def scale(self) -> float:
        """The sum of the terms' sizes, at least 1: the rounding errors are in proportion to it."""
        return max(1.0, sum(map(abs, self.terms.values())))


def option_sets(method: str, semantics: str) -> list[Given]:
    """The options that a variant is measured with.

    These are: the defaults; each other choice of each option that has choices; all numbers doubled.
    With two random answers for each record: more are computed in the same way.
    """
    kind = methods.variant(method, semantics).options
    few: Given = {}
    if any(field.name == "n_random" for field in fields(kind)):
        few["n_random"] = 2
    sets = [few]
    for field in fields(kind):
        for choice in field_choices(kind, field.name):
            if choice != field.default:
                sets.append({field.name: choice, **few})
    defaults = kind()
    numbers = [field.name for field in fields(kind) if field.type is float]
    doubled = {name: 2 * getattr(defaults, name) for name in numbers}
    if doubled:
        for name in ("retain_weight", "alpha"):  # weights whose default may be 0
            if doubled.get(name) == 0:
                doubled[name] = 2.0
        sets.append({**doubled, **few})
    return sets


def shape_for(method: str, semantics: str, usual: str = "plain") -> str:
    """The shape of the inputs (oracle/reference/shapes.py) that a variant is measured on."""
    return "near" if (method, semantics) in NEAR else usual


def batches(
    method: str, semantics: str, given: Given, shape: str = "plain", same: bool = False
) -> dict[str, Outputs]:
    """{batch name: Outputs} that the variant reads, float64; same: the student is the teacher."""
    case = Case(method, semantics, tuple(given.items()), shape)
    found = {}
    for name, arrays in case.batches.items():
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        student = "hidden" if "hidden" in tensors else "logits"
        teacher = tensors.get(f"teacher_{student}")
        if same and teacher is not None:
            teacher = tensors[student]
        hidden = student == "hidden"
        found[name] = Outputs(
            logits=None if hidden else tensors["logits"],
            labels=tensors["labels"],
            teacher_logits=None if hidden else teacher,
            attention_mask=tensors["attention_mask"],
            hidden=tensors["hidden"] if hidden else None,
            teacher_hidden=teacher if hidden else None,
        )
    return found


def usual_batches(
    method: str, semantics: str, given: Given, same: bool = False
) -> dict[str, Outputs]:
    """The batches on the shape that the variant is usually measured on."""
    return batches(method, semantics, given, shape_for(method, semantics), same)


def student_field(outputs: Outputs) -> str:
    """The name of the student's tensor of a batch: logits or hidden."""
    return "hidden" if outputs.logits is None else "logits"


def student_tensor(outputs: Outputs) -> Tensor:
    """The student's tensor of a batch."""
    return getattr(outputs, student_field(outputs))


def with_student(outputs: Outputs, tensor: Tensor) -> Outputs:
    """The batch with another student tensor."""
    if outputs.logits is None:
        return replace(outputs, hidden=tensor)
    return replace(outputs, logits=tensor)


def loss(method: str, semantics: str, given: Given, outputs: dict[str, Outputs]) -> Result:
    """The package's loss and its gradient."""
    leaves = {
        name: student_tensor(one).detach().clone().requires_grad_() for name, one in outputs.items()
    }
    with_leaves = {name: with_student(one, leaves[name]) for name, one in outputs.items()}
    found = methods.method_loss(method, with_leaves, semantics, **given)
    slopes = torch.autograd.grad(found.value, list(leaves.values()), allow_unused=True)
    gradients = {}
    for (name, leaf), slope in zip(leaves.items(), slopes, strict=True):
        gradients[name] = torch.zeros_like(leaf) if slope is None else slope
    terms = {name: float(term.detach()) for name, term in found.terms.items()}
    return Result(float(found.value.detach()), terms, gradients)


@torch.no_grad()
def value(
    method: str,
    semantics: str,
    given: Given,
    outputs: dict[str, Outputs],
    constants: dict[str, Outputs] | None = None,
) -> float:
    """The package's loss alone.

    constants  the batches from which a factor or target without a gradient is computed
               (Variant.held), so that a slope of this function is the loss's gradient
    """
    held = methods.variant(method, semantics).held
    if held is None or constants is None:
        return float(methods.method_loss(method, outputs, semantics, **given).value)
    options = methods.make_options(method, given, semantics)
    rows = {name: batch.batch_rows() for name, batch in outputs.items()}
    constant_rows = {name: batch.batch_rows() for name, batch in constants.items()}
    return float(held(rows, constant_rows, options).value)


def direction(key: str, shape: Sequence[int]) -> Tensor:
    """A float64 tensor of norm 1 that depends on its arguments alone."""
    n = torch.Size(shape).numel()
    drawn = torch.from_numpy(2 * uniform_vector(0, f"direction/{key}", n) - 1).reshape(shape)
    return drawn / drawn.norm()
