"""How a known mistake computes its loss: a broken rule, changed batches, or its own function."""

from collections.abc import Callable

import numpy as np

from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.roundings import Roundings
from clear_ref.oracle.reference.rows import Batches

# (method, semantics, options, batches) -> the LossResult with the mistake in it
Computation = Callable[[str, str, Options, Batches], LossResult]


def with_sheet(sheet_class: type[Sheet]) -> Computation:
    """The Computation of a mistake that breaks a rule of Sheet."""

    def compute(method: str, semantics: str, options: Options, batches: Batches) -> LossResult:
        return formulas.reference_loss(method, semantics, options, batches, sheet_class)

    return compute


def with_batches(change: Callable[[Batches], Batches]) -> Computation:
    """The Computation of a mistake that changes the batches."""

    def compute(method: str, semantics: str, options: Options, batches: Batches) -> LossResult:
        return formulas.reference_loss(method, semantics, options, change(batches))

    return compute


def student_as_teacher(batches: Batches) -> Batches:
    """The batches with the student's tensors in place of the teacher's."""
    changed = {}
    for name, batch in batches.items():
        copies = {f"teacher_{key}": batch[key] for key in ("logits", "hidden") if key in batch}
        changed[name] = {**batch, **copies}
    return changed


def forget_as_idk(batches: Batches) -> Batches:
    """The batches with the forget batch, if there is one, in place of the idk batch."""
    source = "forget" if "forget" in batches else "idk"
    return {**batches, "idk": batches[source]}


def last_line_wins(method: str, semantics: str, options: Options, batches: Batches) -> LossResult:
    """The released DPO's loss, whatever the semantics."""
    sheet = Sheet(batches)
    return sheet.result(formulas.dpo_released(sheet, options))


def mean_of_two_micro_batches(
    method: str, semantics: str, options: Options, batches: Batches
) -> LossResult:
    """The mean of two losses: of all sequences except the last, and of the last sequence.

    The right loss if a batch has one sequence, which cannot be divided.
    """

    def loss_of(sequences: slice) -> LossResult:
        part = {}
        for name, batch in batches.items():
            part[name] = {
                key: array if key == "control" else array[sequences] for key, array in batch.items()
            }
        return formulas.reference_loss(method, semantics, options, part)

    if any(len(batch["labels"]) == 1 for batch in batches.values()):
        return formulas.reference_loss(method, semantics, options, batches)
    first = loss_of(slice(0, -1))
    last = loss_of(slice(-1, None))
    gradients = {}
    for name in batches:
        gradients[name] = np.concatenate([first.gradients[name], last.gradients[name]]) / 2
    terms = {name: (first.terms[name] + last.terms[name]) / 2 for name in first.terms}

    def roundings() -> Roundings:
        one, two = first.roundings(), last.roundings()
        both = {}
        added = {}
        for name in batches:
            both[name] = np.concatenate([one.gradients[name], two.gradients[name]]) / 2
            added[name] = np.concatenate([one.added[name], two.added[name]]) / 2
        loss = (one.loss + two.loss) / 2 + abs(first.loss) + abs(last.loss)
        return Roundings(loss, both, added)

    return LossResult(
        (first.loss + last.loss) / 2, terms, gradients, first.scale, first.weight, roundings
    )
