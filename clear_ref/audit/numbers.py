"""Every number of every set of definitions of one model, from its logs and membership scores."""

import inspect
from dataclasses import dataclass

from clear_ref.evaluation import membership, wrong_definitions
from clear_ref.evaluation.choices import SETS
from clear_ref.evaluation.definitions import (
    AGGREGATES,
    COMBINED,
    KNOWS,
    QUALITIES,
    Definition,
    aggregate_definition,
)
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.membership_scores import with_reference
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.named_values import values_of

from .models import Scores

ROBUSTNESS = "robustness"  # the set of `evaluate --robustness`
WRONG = "wrong"  # wrong definitions of public evaluations


@dataclass(frozen=True)
class Number:
    """A number and what it is.

    metric      what reports call it: forget, "eval_log rouge", "captions mia_loss"
    definition  of the number
    sets        the sets of definitions that print it
    is_about_forget  whether it is made of the forget set's records, so that it should tell
    value       None: undefined for these logs
    """

    metric: str
    definition: Definition
    sets: tuple[str, ...]
    is_about_forget: bool
    value: float | None

    @property
    def name(self) -> str:
        """The metric and its definition: no other number has both."""
        return f"{self.metric} ({self.definition.label})"


def numbers_of(logs: Logs, gold_logs: Logs, scores: Scores, gold_scores: Scores) -> list[Number]:
    """Every number, once for each definition; in the same order for the same tasks.

    scores, gold_scores  of membership_scores; {} where there are none
    """
    sets: dict[tuple[str, Definition], list[str]] = {}
    about: dict[tuple[str, Definition], bool] = {}
    values: dict[tuple[str, Definition], float | None] = {}
    parts = _numbers_of_one_part()
    for name in SETS:
        result = score(logs, gold_logs, name)
        for metric, value, definition in values_of(name, result):
            key = (parts.get((metric, definition), metric), definition)
            own = sets.setdefault(key, [])
            if name not in own:
                own.append(name)
            about[key] = _is_about_forget(name, metric)
            values[key] = value
    found = [
        Number(*key, tuple(own), is_about_forget=about[key], value=values[key])
        for key, own in sets.items()
    ]
    return [*found, *_wrong(logs), *_of_membership(scores, gold_scores)]


def _numbers_of_one_part() -> dict[tuple[str, Definition], str]:
    """{("TASK PART", definition): the number that is this part alone}: it is listed once, under the
    number's name."""
    return {
        (f"{task} {part}", aggregate_definition(name, number)): number
        for name in SETS
        for number, own in AGGREGATES[name].items()
        if len(own) == 1
        for task, part in own
    }


def _is_about_forget(name: str, metric: str) -> bool:
    """Whether a number of a set, or a part of a task, is made of the forget set's records."""
    if metric in AGGREGATES[name]:
        return any("forget" in task for task, _ in AGGREGATES[name][metric])
    return metric in {*QUALITIES[name], *COMBINED.get(name, {})} or "forget" in metric


def _wrong(logs: Logs) -> list[Number]:
    """What known wrong definitions give for these logs."""
    words = {one.name: one for one in wrong_definitions.WRONG_DEFINITIONS}
    found = []
    for entry in wrong_definitions.wrong_numbers(logs):
        name = str(entry["definition"])
        definition = Definition(name, words[name].what, words[name].what, str(entry["seen"]), KNOWS)
        value = entry["value"]
        assert isinstance(value, float)
        of = str(entry["of"])
        found.append(Number(f"wrong {of}", definition, (WRONG,), "forget" in of, value))
    return found


def _of_membership(scores: Scores, gold_scores: Scores) -> list[Number]:
    """Attacks and memorisation, of each kind of records."""
    found = []
    for kind, own in scores.items():
        gold = gold_scores[kind]
        for metric, value in membership.membership(with_reference(own, gold), gold).items():
            definition = membership.definition(metric)
            found.append(Number(f"{kind} {metric}", definition, (ROBUSTNESS,), True, value))
    return found


def u_lira_definition(text: str) -> Definition:
    """The definition of `telling.u_lira`, whose docstring is `text`."""
    return Definition(
        "log_quotient_of_gaussians",
        "log likelihood of the forget records' losses under models with the people, less that "
        "under models without",
        inspect.cleandoc(text),
        "arXiv 2112.03570",
        KNOWS,
    )
