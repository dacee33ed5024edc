"""The result of the robustness measurements: "robustness" of metrics.json, and its definitions."""

import inspect
from typing import TypedDict

from . import membership
from .bootstrap import Interval
from .definitions import Definition, definitions
from .membership_scores import MEMORISATION, ComparedScores, mia_loss
from .metrics import Scores
from .relearning import Measures, mean_rise

# The attacks that --robustness makes, in the order of its table.
ATTACKS = (
    "mia_loss",
    "mia_min_k",
    "mia_min_k_plus_plus",
    "mia_zlib",
    "mia_gradnorm",
    "mia_reference",
)


class RelearnedRecord(TypedDict):
    """A record that was trained on again: its config, its row's number and its true answer."""

    config: str
    row: int
    answer: str | None


class Relearning(TypedDict):
    """Curves of relearning.

    n_forget    number of forget records, of which `records` were drawn
    steps       0 and the measured steps
    lr, rank    peak learning rate, rank of the adapters
    models      {"model" or "gold": {measure: [value at each of `steps`]}}
    mean_rise   {"model" or "gold": {measure: relearning.mean_rise of the curve}}
    intervals   {"model" or "gold": {measure: [95 % interval at each of `steps`]}}, over the records
    mean_rise_intervals  the same of mean_rise
    """

    records: list[RelearnedRecord]
    n_forget: int
    steps: list[int]
    lr: float
    rank: int
    models: dict[str, dict[str, list[float | None]]]
    mean_rise: dict[str, Measures]
    intervals: dict[str, dict[str, list[Interval | None]]]
    mean_rise_intervals: dict[str, dict[str, Interval | None]]


class Rounding(TypedDict):
    """Metrics with rounded weights.

    layers  number of rounded layers
    group   columns that share a scale, with less than 8 bits; 0: the whole row
    models  {"model" or "gold": {bits: result of metrics.score}}
    intervals  {"model" or "gold": {bits: {number: its 95 % interval over the records}}}
    """

    layers: int
    group: int
    models: dict[str, dict[str, Scores]]
    intervals: dict[str, dict[str, dict[str, Interval]]]


class Membership(TypedDict):
    """Membership inference on one kind of records.

    models     {"model" or "gold": {metric: value}}
    intervals  {"model" or "gold": {metric: its 95 % interval over the records}}
    """

    n_forget: int
    n_holdout: int
    models: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]


class Robustness(TypedDict):
    """What metrics.json holds as "robustness".

    membership   {kind of records: its numbers}
    missing      why a kind of records is not in `membership`, or ""
    definitions  {measure or metric: name of its definition}
    """

    relearning: Relearning
    rounding: Rounding
    membership: dict[str, Membership]
    missing: str
    definitions: dict[str, str]


class ModelResult(TypedDict):
    """The measurements of one model.

    membership   {kind of records: {score's name: score of every record}}
    rounding     {bits: result of metrics.score}
    intervals    {bits: the intervals of these numbers}
    layers       number of rounded layers
    curve        lines of relearning.relearn
    """

    membership: dict[str, dict[str, ComparedScores]]
    rounding: dict[str, Scores]
    intervals: dict[str, dict[str, Interval]]
    layers: int
    curve: list[dict]


def robustness_definitions(metrics: str = "paper") -> dict[str, Definition]:
    """The definition of each number in Robustness, by measure or metric."""
    known = definitions(metrics)
    of_relearning = {
        "nll_relearned": Definition(
            "mean_nll_of_relearned",
            "mean nll per token of the relearned records' answers",
            inspect.getdoc(mia_loss) or "",
        )
    }
    for metric in ("forget", "text_forget"):
        own = known[metric]
        of_relearning[f"{metric}_not_relearned"] = Definition(
            f"{own.name}_not_relearned",
            "the same of the records not relearned",
            own.text + " Without the records that are trained on again.",
        )
    of_relearning["mean_rise"] = Definition(
        "mean_rise",
        "how far the curve is above its start, on average",
        inspect.getdoc(mean_rise) or "",
    )
    names = [*ATTACKS, *(attack + end for attack in ATTACKS for end in membership.FALSE_POSITIVES)]
    of_membership = {
        name: membership.definition(name) for name in (*names, "privleak", *MEMORISATION)
    }
    return known | of_relearning | of_membership
