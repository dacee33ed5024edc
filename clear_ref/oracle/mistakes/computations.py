"""How a known mistake computes its loss: a broken rule, changed batches, or its own function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet
from clear_ref.oracle.reference.formulas import Options
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
    """

    sheet: type[Sheet] = Sheet
    change: Callable[[Batches], Batches] = unchanged
    rule: Rule = formulas.reference_loss

    def __call__(
        self, method: str, semantics: str, options: Options, batches: Batches
    ) -> LossResult:
        return self.rule(method, semantics, options, self.change(batches), self.sheet)

    def and_(self, other: "Computation") -> "Computation | None":
        """Both mistakes at once; None if both have a rule of their own."""
        own = [one.rule for one in (self, other) if one.rule is not formulas.reference_loss]
        if len(own) == 2:
            return None

        def change(batches: Batches) -> Batches:
            return self.change(other.change(batches))

        rule = own[0] if own else formulas.reference_loss
        return Computation(combined(self.sheet, other.sheet), change, rule)


def with_sheet(sheet_class: type[Sheet]) -> Computation:
    """The Computation of a mistake that breaks a rule of Sheet."""
    return Computation(sheet_class)


def with_batches(change: Callable[[Batches], Batches]) -> Computation:
    """The Computation of a mistake that changes the batches."""
    return Computation(change=change)


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
