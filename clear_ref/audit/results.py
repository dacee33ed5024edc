"""The table of an audit: every definition, how well it tells, best first."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.processes import map_in_processes
from clear_ref.evaluation.definitions import Definition
from clear_ref.evaluation.membership_scores import LOSS

from .members import GOLD, WITH, WITHOUT, Member
from .models import TRAINED, Experiment, Scores, read_logs, read_scores, scores_file
from .numbers import ROBUSTNESS, Number, numbers_of, u_lira_definition
from .telling import exact_p, interval_of_auc, rank_correlation, sign_of, telling_auc, u_lira

U_LIRA = "u_lira"


class Told(TypedDict):
    """How a number tells in one condition.

    auc, low, high, p   None if the number is undefined for a model
    with, without       the values of the models, in the order of their seeds
    """

    auc: float | None
    low: float | None
    high: float | None
    p: float | None
    values: dict[str, list[float | None]]


class Row(TypedDict):
    """One definition.

    about        forget: made of the forget set's records, so it should tell; others: of other ones
    expects      what the direction says of models with the people: higher or lower values
    conditions   {condition: how it tells}
    correlation  rank correlation with U-LIRA over all models as trained, positive where it agrees;
                 None: the number is constant or undefined
    note         why it tells nothing by construction: constant, undefined; else ""
    """

    metric: str
    definition: str
    version: int
    words: str
    source: str
    sets: list[str]
    about: str
    expects: str
    conditions: dict[str, Told]
    correlation: float | None
    note: str


Values = dict[str, float | None]  # by Number.name
# {condition: {with, without: [values of each model]}}
Measured = dict[str, dict[str, list[Values]]]


def rows_of(experiment: Experiment, members: list[Member], n_processes: int) -> list[Row]:
    """The rows of the table, from what is measured on disk; read and scored in n_processes."""
    groups = {kind: [m for m in members if m.kind == kind] for kind in (WITH, WITHOUT)}
    [gold] = [member for member in members if member.kind == GOLD]
    gold_logs = read_logs(experiment, gold, TRAINED)
    gold_scores = read_scores(experiment, gold, TRAINED)
    conditions = experiment.conditions()

    def numbers(member: Member, condition: str) -> list[Number]:
        logs = read_logs(experiment, member, condition)
        scores = read_scores(experiment, member, condition)
        return numbers_of(logs, gold_logs, scores, gold_scores)

    jobs = [(m, condition) for kind in groups for m in groups[kind] for condition in conditions]
    found = map_in_processes(
        lambda job: {number.name: number.value for number in numbers(*job)}, jobs, n_processes
    )
    by_job = dict(zip(jobs, found, strict=True))
    check_same_numbers(experiment, by_job)
    measured: Measured = {
        condition: {
            kind: [by_job[member, condition] for member in own] for kind, own in groups.items()
        }
        for condition in conditions
    }
    described = numbers(groups[WITH][0], TRAINED)
    if gold_scores:
        definition = u_lira_definition(u_lira.__doc__ or "")
        combined = Number(U_LIRA, definition, (ROBUSTNESS,), True, 0.0)
        described.append(combined)
        for condition in conditions:
            losses = [
                np.array([losses_of(read_scores(experiment, m, condition)) for m in own])
                for own in groups.values()
            ]
            for kind, values in zip(groups, u_lira(*losses), strict=True):
                for own_values, value in zip(measured[condition][kind], values, strict=True):
                    own_values[combined.name] = value
    return table(described, measured)


def check_same_numbers(experiment: Experiment, by_job: Mapping[tuple[Member, str], Values]) -> None:
    """UserError for a model that has not every number that another one has, in any condition."""
    names = dict.fromkeys(name for values in by_job.values() for name in values)
    for (member, condition), values in by_job.items():
        missing = [name for name in names if name not in values]
        if missing:
            file = scores_file(experiment.directory(member), condition)
            raise UserError(
                f"{member.name}, {condition}: has no {missing[0]}, which other models have; "
                f"expected the same numbers of all: remove {file}, and --resume --out DIR measures "
                f"{member.name} again"
            )


def losses_of(scores: Scores) -> list[float]:
    """The mean nll of every forget record that membership compares; equal for any order in the
    file."""
    losses = [scores[kind][LOSS]["forget"] for kind in sorted(scores)]
    return [own[number] for own in losses for number in sorted(own, key=int)]


def table(described: Sequence[Number], measured: Measured) -> list[Row]:
    """One row for each number, sorted: highest AUC as trained first, then the highest of the lowest
    AUC in the other conditions, then the correlation, then the name.

    described  what each number is; if the last one is U_LIRA, numbers are correlated with it
    measured   the values of these numbers
    """
    reference = None
    if described[-1].metric == U_LIRA:
        name = described[-1].name
        reference = [own[name] for group in measured[TRAINED].values() for own in group]
    rows = [
        row_of(number, partial(_values, measured, number.name), list(measured), reference)
        for number in described
    ]
    return sorted(rows, key=_order)


def _values(measured: Measured, name: str, condition: str) -> dict[str, list[float | None]]:
    return {kind: [own[name] for own in group] for kind, group in measured[condition].items()}


def row_of(number: Number, values_in: Any, conditions: list[str], reference: Any) -> Row:
    """One number's row.

    values_in  (condition) -> {with, without: values}
    reference  values of U-LIRA of all models as trained; None: there are none
    """
    definition: Definition = number.definition
    sign = sign_of(definition.direction)
    told = {condition: told_by(values_in(condition), sign) for condition in conditions}
    trained = [value for group in told[TRAINED]["values"].values() for value in group]
    oriented = [sign * value for value in trained if value is not None]
    correlation = None
    if reference is not None and len(oriented) == len(trained):
        correlation = rank_correlation(oriented, reference)
    return {
        "metric": number.metric,
        "definition": definition.name,
        "version": definition.version,
        "words": definition.words,
        "source": definition.source,
        "sets": list(number.sets),
        "about": "forget" if number.is_about_forget else "others",
        "expects": "higher" if sign > 0 else "lower",
        "conditions": told,
        "correlation": correlation,
        "note": note_of(told[TRAINED]["values"]),
    }


def told_by(values: dict[str, list[float | None]], sign: int) -> Told:
    """How the values tell; AUC and the rest are None if a value is."""
    groups = [[value for value in values[kind] if value is not None] for kind in (WITH, WITHOUT)]
    if any(len(own) < len(values[kind]) for own, kind in zip(groups, (WITH, WITHOUT), strict=True)):
        return {"auc": None, "low": None, "high": None, "p": None, "values": values}
    found = telling_auc(groups[0], groups[1], sign)
    low, high = interval_of_auc(found, len(groups[0]), len(groups[1]))
    p = exact_p(groups[0], groups[1])
    return {"auc": found, "low": low, "high": high, "p": p, "values": values}


def note_of(values: dict[str, list[float | None]]) -> str:
    """Why a number tells nothing whatever the models are; "" if that is not so."""
    every = [value for group in values.values() for value in group]
    undefined = every.count(None)
    if undefined:
        return f"undefined for {undefined} of {len(every)} models"
    return f"{every[0]:.4g} for every model" if len(set(every)) == 1 else ""


def _order(row: Row) -> tuple[float, float, float, str, str]:
    told = list(row["conditions"].values())
    aucs = [-1.0 if each["auc"] is None else each["auc"] for each in told]
    correlation = -2.0 if row["correlation"] is None else row["correlation"]
    lowest = min(aucs[1:], default=0.0)
    return -aucs[0], -lowest, -correlation, row["metric"], row["definition"]
