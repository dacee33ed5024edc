"""How a known mistake computes its loss: a broken rule, changed batches, or its own function."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.parts import Parts
from clear_ref.oracle.reference.roundings import Roundings
from clear_ref.oracle.reference.rows import Batches
from clear_ref.oracle.reference.token_columns import COLUMNS, Cell

from .broken_rules import MoreRows, SwappedKl

# (method, semantics, options, batches, sheet class) -> LossResult
Rule = Callable[[str, str, Options, Batches, type[Sheet]], LossResult]


def unchanged(batches: Batches) -> Batches:
    """The batches as they are."""
    return batches


@dataclass(frozen=True)
class Computation:
    """A wrong loss: a sheet with broken rules, changed batches, or a rule of its own, or several.

    sheet   Sheet or a subclass; change: batches -> batches
    rule    computes the loss from them
    stands_in  (batch, source): the change puts the source's arrays in place of the batch's, so the
               batch's gradients are the source's
    """

    sheet: type[Sheet] = Sheet
    change: Callable[[Batches], Batches] = unchanged
    rule: Rule = formulas.reference_loss
    stands_in: tuple[tuple[str, str], ...] = ()

    def __call__(
        self, method: str, semantics: str, options: Options, batches: Batches
    ) -> LossResult:
        result = self.rule(method, semantics, options, self.change(batches), self.sheet)
        for name, source in self.stands_in:
            if source in batches and name in result.gradients:
                result = moved(result, name, source, batches)
        return result

    def and_(self, other: "Computation") -> "Computation | None":
        """Both mistakes at once; None if both have a rule of their own."""
        own = [one.rule for one in (self, other) if one.rule is not formulas.reference_loss]
        if len(own) == 2:
            return None

        def change(batches: Batches) -> Batches:
            return self.change(other.change(batches))

        rule = own[0] if own else formulas.reference_loss
        stands_in = self.stands_in + other.stands_in
        return Computation(combined(self.sheet, other.sheet), change, rule, stands_in)


def with_sheet(sheet_class: type[Sheet]) -> Computation:
    """The Computation of a mistake that breaks a rule of Sheet."""
    return Computation(sheet_class)


def with_batches(
    change: Callable[[Batches], Batches], stands_in: tuple[tuple[str, str], ...] = ()
) -> Computation:
    """The Computation of a mistake that changes the batches; stands_in: see Computation."""
    return Computation(change=change, stands_in=stands_in)


def with_rule(rule: Rule) -> Computation:
    """The Computation of a mistake that computes its loss in its own way."""
    return Computation(rule=rule)


def combined(first: type[Sheet], second: type[Sheet]) -> type[Sheet]:
    """A sheet with the broken rules of both; the first's rules are applied last."""
    if first is second or issubclass(first, second):
        return first
    if issubclass(second, first):
        return second
    columns = {**COLUMNS, **_changed_columns(second), **_changed_columns(first)}
    if SwappedKl in (first, second):
        other = _changed_columns(second if first is SwappedKl else first)
        swapped = {**COLUMNS, **other}
        columns["kl_teacher_student"] = swapped["kl_student_teacher"]
        columns["kl_student_teacher"] = swapped["kl_teacher_student"]
    members: dict[str, Any] = {"columns": columns}
    if issubclass(first, MoreRows) and issubclass(second, MoreRows):
        members["more_kinds"] = (*first.more_kinds, *second.more_kinds)
    return type(f"{first.__name__}And{second.__name__}", (first, second), members)


def _changed_columns(sheet: type[Sheet]) -> dict[str, Callable[..., Cell]]:
    return {
        name: column for name, column in sheet.columns.items() if COLUMNS.get(name) is not column
    }


def student_as_teacher(batches: Batches) -> Batches:
    """The batches with the student's tensors in place of the teacher's."""
    changed = {}
    for name, batch in batches.items():
        copies = {f"teacher_{key}": batch[key] for key in ("logits", "hidden") if key in batch}
        changed[name] = {**batch, **copies}
    return changed


def forget_as_idk(batches: Batches) -> Batches:
    """The batches with the forget batch, if there is one, in place of the idk batch, if any."""
    if "idk" not in batches:
        return batches
    source = "forget" if "forget" in batches else "idk"
    return {**batches, "idk": batches[source]}


def moved(result: LossResult, name: str, source: str, batches: Batches) -> LossResult:
    """The result with what belongs to the batch `name` added to the batch `source`."""

    def merged(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        both = {**arrays, source: arrays[source] + arrays[name]}
        if name not in batches:
            del both[name]
            return both
        batch = batches[name]
        tensor = batch["logits" if "logits" in batch else "hidden"]
        both[name] = np.zeros(tensor.shape[: arrays[name].ndim])
        return both

    def roundings() -> Roundings:
        own = result.roundings()
        return Roundings(own.loss, merged(own.gradients), merged(own.added))

    def parts() -> Parts:
        own = result.parts()
        columns = own.weights[source] | own.weights[name]
        for column in own.weights[source].keys() & own.weights[name].keys():
            columns[column] = own.weights[source][column] + own.weights[name][column]
        return Parts(merged(own.contributions), {**own.weights, source: columns, name: {}})

    return replace(result, gradients=merged(result.gradients), roundings=roundings, parts=parts)


def times(factor: float, result: LossResult) -> LossResult:
    """A result with everything multiplied by a number."""
    size = abs(factor)

    def roundings() -> Roundings:
        own = result.roundings()
        return Roundings(
            size * own.loss,
            {name: size * array for name, array in own.gradients.items()},
            {name: size * array for name, array in own.added.items()},
        )

    def parts() -> Parts:
        own = result.parts()
        weights = {}
        for name, columns in own.weights.items():
            weights[name] = {column: factor * array for column, array in columns.items()}
        contributions = {name: factor * array for name, array in own.contributions.items()}
        return Parts(contributions, weights)

    return LossResult(
        factor * result.loss,
        {name: factor * term for name, term in result.terms.items()},
        {name: factor * gradient for name, gradient in result.gradients.items()},
        size * result.scale,
        size * result.weight,
        roundings,
        parts,
    )


def last_line_wins(
    method: str,
    semantics: str,
    options: Options,
    batches: Batches,
    sheet_class: type[Sheet] = Sheet,
) -> LossResult:
    """The released DPO's loss, whatever the semantics."""
    sheet = sheet_class(batches)
    return sheet.result(formulas.dpo_released(sheet, options))


def mean_of_two_micro_batches(
    method: str,
    semantics: str,
    options: Options,
    batches: Batches,
    sheet_class: type[Sheet] = Sheet,
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
        return formulas.reference_loss(method, semantics, options, part, sheet_class)

    if any(len(batch["labels"]) == 1 for batch in batches.values()):
        return formulas.reference_loss(method, semantics, options, batches, sheet_class)
    first = loss_of(slice(0, -1))
    last = loss_of(slice(-1, None))
    return _mean_of(first, last)


def _mean_of(first: LossResult, last: LossResult) -> LossResult:
    """The mean of the results of a batch's first sequences and of its others."""

    def joined(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([one[name], two[name]]) / 2 for name in one}

    def roundings() -> Roundings:
        one, two = first.roundings(), last.roundings()
        loss = (one.loss + two.loss) / 2 + abs(first.loss) + abs(last.loss)
        return Roundings(loss, joined(one.gradients, two.gradients), joined(one.added, two.added))

    def parts() -> Parts:
        one, two = first.parts(), last.parts()
        weights = {}
        for name in one.contributions:
            columns = one.weights[name] | two.weights[name]
            halves = []
            for half in (one, two):
                none = np.zeros_like(half.contributions[name])
                halves.append({key: half.weights[name].get(key, none) for key in columns})
            weights[name] = joined(*halves)
        return Parts(joined(one.contributions, two.contributions), weights)

    terms = {name: (first.terms[name] + last.terms[name]) / 2 for name in first.terms}
    gradients = joined(first.gradients, last.gradients)
    return LossResult(
        (first.loss + last.loss) / 2, terms, gradients, first.scale, first.weight, roundings, parts
    )
