"""Groups of runs that differ only in their seed. Each group is one line of the leaderboard."""

import hashlib
from dataclasses import dataclass
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.run_directory import WITHOUT_EFFECT
from clear_ref.evaluation.metrics import Scores
from clear_ref.loop.modalities import MODALITIES
from clear_ref.methods.table import METHODS, SEMANTICS

from .columns import mean
from .given_settings import common, label_words, word
from .read_runs import EVALUATED, Report, Run
from .thresholds import COLLAPSED

PANEL_ORDER = (*MODALITIES, EVALUATED)
# Settings that do not distinguish runs: paths (the hashes of the inputs do that), and settings
# whose effect is recorded elsewhere in settings.json.
IGNORED_SETTINGS = frozenset(
    {
        "out",
        "seed",
        "metrics",
        "data",
        "model",
        "gold",
        "adapter",
        "recipe",
        "mask",
        "evaluate_every",
        *WITHOUT_EFFECT,
    }
)


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs of one method, semantics, modality and settings, which differ only in their seed.

    label        the method, and the settings that distinguish it from other groups
    panel        the modality, or EVALUATED
    runs         in the order of their seeds
    collapsed    whether Retain has collapsed; None if it is unknown
    """

    label: str
    panel: str
    runs: tuple[Run, ...]
    collapsed: bool | None


def has_collapsed(metrics: Scores, base: Scores | None) -> bool | None:
    """Whether Retain or Retain text has collapsed; None if no pair of numbers is known.

    metrics, base    {metric: number} by the paper's definitions; over seeds, their means
    """
    if base is None:
        return None
    answers = []
    for metric in ("retain", "text_retain"):
        value = metrics.get(metric)
        of_base = base.get(metric)
        if value is not None and of_base is not None:
            answers.append(value < COLLAPSED * of_base)
    return any(answers) if answers else None


def run_groups(report: Report) -> list[RunGroup]:
    """The groups of all runs, in the order of PANEL_ORDER, METHODS and SEMANTICS.

    Runs with equal name, semantics, modality, settings, options, inputs and implementation are
    seeds of one group. If such a value differs between groups of one method, the label names it,
    and so it does every setting that was named on the command line, but for those that all runs
    share (given_settings.py). The label names the semantics if the report has several.
    raises  UserError for two runs in which everything is equal, the seed too
    """
    several_semantics = len(semantics_of(report)) > 1
    same_method: dict[tuple[str, str, str], list[Run]] = {}
    for run in report.runs:
        same_method.setdefault((run.modality, run.name, run.semantics), []).append(run)
    lines = []
    for runs in same_method.values():
        lines += _split_by_settings(runs)
    said_once = common(report.runs) if len(lines) > 1 else {}
    groups = []
    for differences, seeds in lines:
        modality, name, semantics = seeds[0].modality, seeds[0].name, seeds[0].semantics
        given = {key: text for run in seeds for key, text in label_words(run, said_once).items()}
        words = list((differences | given).values())
        if several_semantics and semantics:
            words.insert(0, semantics)
        label = f"{name} ({', '.join(words)})" if words else name
        retain = {
            metric: mean([run.paper.get(metric) for run in seeds])
            for metric in ("retain", "text_retain")
        }
        collapsed = has_collapsed(retain, report.paper.get("base"))
        groups.append(RunGroup(label, modality, _in_order_of_seeds(seeds), collapsed))
    return _sorted(groups, report)


def _split_by_settings(runs: list[Run]) -> list[tuple[dict[str, str], list[Run]]]:
    """[({key: "KEY VALUE"}, runs)]: only keys in which the runs differ."""
    settings = [distinguishing_settings(run) for run in runs]
    keys = dict.fromkeys(key for own in settings for key in own)
    differing = [key for key in keys if len({repr(own.get(key)) for own in settings}) > 1]
    groups: dict[tuple[str, ...], tuple[dict[str, str], list[Run]]] = {}
    for run, own in zip(runs, settings, strict=True):
        words = {key: word(key, own[key]) for key in differing if key in own}
        same = tuple(repr(own.get(key)) for key in differing)
        groups.setdefault(same, (words, []))[1].append(run)
    return list(groups.values())


def distinguishing_settings(run: Run) -> dict[str, Any]:
    """{name: value} of everything that distinguishes runs of one method.

    Settings and options other than IGNORED_SETTINGS, the label mask, the implementation of the
    token terms, and one hash of all input hashes.
    """
    entries = run.record["settings"] | run.record.get("options", {})
    settings = {
        name: entry.get("value") for name, entry in entries.items() if name not in IGNORED_SETTINGS
    }
    hashes = "".join(sorted(map(str, run.record["inputs"].values())))
    return {
        **settings,
        "label mask": run.record.get("label_mask"),
        "token terms": run.summary["impl"],
        "inputs": hashlib.sha256(hashes.encode()).hexdigest()[:8],
    }


def _in_order_of_seeds(runs: list[Run]) -> tuple[Run, ...]:
    """The runs of a group by their seeds; UserError if two have the same seed."""
    ordered = sorted(runs, key=lambda run: (run.seed is not None, run.seed or 0))
    for run, following in zip(ordered, ordered[1:], strict=False):
        if run.seed == following.seed:
            raise UserError(
                f"report {following.where}: is the same run as {run.where}: {run.name}, "
                f"seed {run.seed}, every setting; name one of them"
            )
    return tuple(ordered)


def _sorted(groups: list[RunGroup], report: Report) -> list[RunGroup]:
    """The groups by panel, method and semantics; unknown names come after the known ones."""
    panels = list(dict.fromkeys([*PANEL_ORDER, *(group.panel for group in groups)]))
    methods = list(dict.fromkeys([*METHODS, *(group.runs[0].name for group in groups)]))
    semantics = list(dict.fromkeys([*SEMANTICS, *semantics_of(report)]))

    def position(group: RunGroup) -> tuple[int, int, int]:
        run = group.runs[0]
        return (
            panels.index(group.panel),
            methods.index(run.name),
            semantics.index(run.semantics or SEMANTICS[0]),
        )

    return sorted(groups, key=position)


def semantics_of(report: Report) -> list[str]:
    """The semantics that the runs of the report have."""
    return list(dict.fromkeys(run.semantics for run in report.runs if run.semantics))


def by_panel(groups: list[RunGroup]) -> dict[str, list[RunGroup]]:
    """{panel: its groups}, in the order of the groups."""
    panels: dict[str, list[RunGroup]] = {}
    for group in groups:
        panels.setdefault(group.panel, []).append(group)
    return panels
