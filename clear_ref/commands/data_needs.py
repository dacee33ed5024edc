"""Which configs each command reads from a data directory, and whether it would stop at them.

Nothing is listed here: the functions with which the commands read their data are called, while
the reads are noted (data/records.noting_reads). Two kinds of model are asked for: one that sees
pictures, such as the embedded world's, with its gold model; and a language model.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch

from clear_ref.common.errors import Notice, UserError
from clear_ref.common.settings import field_choices
from clear_ref.data.check_findings import Findings
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Reads, Row, noting_reads
from clear_ref.evaluation import robustness
from clear_ref.evaluation.evaluate import EvaluationSettings
from clear_ref.evaluation.tasks import Task
from clear_ref.loop.modalities import MODALITIES
from clear_ref.loop.rows import forget_rows
from clear_ref.methods import table
from clear_ref.mini.directories import WORLD

from .evaluate import robustness_settings
from .finetune import plan_of as finetune_plan
from .given import Given
from .resolve import Inputs, chosen_probes, chosen_tasks, used_pictures
from .settings import FORGET_SPLITS, Common, Evaluate, Finetune, Unlearn
from .training_recipe import method_recipe_for
from .unlearn import plan_of as unlearn_plan
from .visual_settings import Visual

ROWS = "rows.jsonl"
YES, WITH_TASKS, SOME, NO = "yes", "--tasks", "some", "no"
WITH_LISTS, WITH_TRAIN, WITH_BOTH = "lists", "--train", "lists --train"
# What a command reads, from its settings: returns rows whose pictures are used.
Part = Callable[[Any, Inputs], list[Row]]


class Use(TypedDict):
    """What one command needs of a data directory.

    command         with its options but --forget
    language_model  whether the model is one that sees no pictures
    needs           configs that it reads
    missing, wrong  those of them that are not there, or cannot be used
    runs            yes; no; --tasks: with the tasks named in `tasks`; some: some methods run;
                    visual: lists: with lists of names; --train: with smaller batches; both
    reason          why it stops as it is; ""
    """

    command: str
    language_model: bool
    forget: int
    needs: list[str]
    missing: list[str]
    wrong: list[str]
    runs: str
    tasks: str
    reason: str


@dataclass(frozen=True)
class Data:
    """A data directory under examination.

    findings  of check-data: the pictures that cannot be opened
    reads     every read since the examination began
    """

    directory: Path
    findings: Findings
    reads: Reads


def data_needs(directory: Path, findings: Findings) -> list[Use]:
    """What every command needs, for each --forget."""
    uses = []
    with noting_reads() as reads:
        data = Data(directory, findings, reads)
        for forget in FORGET_SPLITS:
            for language_model in (False, True):
                uses += uses_of(data, forget, language_model)
    return uses


def uses_of(data: Data, forget: int, language_model: bool) -> list[Use]:
    """The commands that train and evaluate, with one --forget and one kind of model."""
    common: dict[str, Any] = {"data": str(data.directory), "forget": forget}
    by_modality = {}
    for modality in ("text",) if language_model else MODALITIES:
        by_modality[modality] = [
            use_of(
                data,
                f"{method} --modality {modality}",
                Unlearn(**common, method=method, modality=modality),
                language_model,
                [unlearn_rows],
            )
            for method in table.METHODS
        ]
    uses = [
        together(f"METHOD --modality {modality}", every, SOME)
        for modality, every in by_modality.items()
    ]
    first = next(iter(by_modality))
    name = "all" if first == "both" else f"all --modality {first}"
    uses.append(together(name, by_modality[first]))
    if not language_model:
        every = [use for some in by_modality.values() for use in some]
        uses.append(together("all --modality each", every))
    for split in field_choices(Finetune, "split"):
        parts = [finetune_rows] + ([seen_rows] if split == "retain" else [])
        tuned = Finetune(**common, split=split)
        uses.append(use_of(data, f"finetune --split {split}", tuned, language_model, parts))
    evaluated = Evaluate(**common)
    uses.append(use_of(data, "evaluate", evaluated, language_model, []))
    parts = [robustness_rows]
    uses.append(use_of(data, "evaluate --robustness", evaluated, language_model, parts))
    return uses


def unlearn_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """The rows that METHOD trains on."""
    plan = unlearn_plan(settings, method_recipe_for(settings, Given()).options, inputs)
    return [*plan.forget, *plan.retain]


def finetune_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """The rows that finetune trains on."""
    plan = finetune_plan(settings, inputs.data, inputs.phrases, inputs.sees_pictures)
    return [*plan.rows, *plan.named]


def robustness_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """The rows that evaluate --robustness uses."""
    chosen = robustness_settings(settings, Given())
    return robustness.make_plan(chosen, inputs.data, inputs.phrases, inputs.sees_pictures).rows


def seen_rows(settings: Any, inputs: Inputs) -> list[Row]:
    """No row; those are read that a gold model must not have seen."""
    forget_rows(inputs.data, settings.forget)
    return []


def use_of(
    data: Data, command: str, settings: Common, language_model: bool, parts: Sequence[Part]
) -> Use:
    """One command, with all tasks, or else with those tasks that the data allows.

    parts  what it reads but the tasks
    """
    if not isinstance(settings, Finetune):
        parts = [*parts, seen_rows]  # of the gold model
    tasks = chosen_tasks(data.directory, settings, not language_model)
    use = examined(data, command, settings, inputs_of(data, language_model, tasks), parts)
    if use["runs"] == YES:
        return use
    no_tasks = inputs_of(data, language_model, [])
    possible = []
    if examined(data, command, settings, no_tasks, parts)["runs"] == YES:
        for task in tasks:
            one = inputs_of(data, language_model, [task])
            if examined(data, command, settings, one, [])["runs"] == YES:
                possible.append(task.name)
    if possible:
        use["runs"] = WITH_TASKS
        use["tasks"] = ",".join(possible)
    return use


def examined(
    data: Data, command: str, settings: Common | Visual, inputs: Inputs, parts: Sequence[Part]
) -> Use:
    """What the parts of a command and its tasks read, and why the command would stop."""
    data.reads.asked.clear()
    raised = []
    rows: list[Row] = []
    for part in parts:
        try:
            rows += part(settings, inputs)
        except UserError as error:
            raised.append(str(error))
    try:
        probes = probes_of(data, settings, inputs)
    except UserError as error:
        probes = []
        raised.append(str(error))
    pictures = used_pictures(replace(inputs, tasks=(*inputs.tasks, *probes)), rows)
    needs = list(data.reads.asked)
    unread = [config for config in needs if config in data.reads.errors]
    missing = [config for config in unread if not (data.directory / config / ROWS).exists()]
    reasons = [str(data.reads.errors[config]) for config in unread]
    reasons += raised
    reasons += [data.findings.broken[path] for path in pictures if path in data.findings.broken]
    try:
        if not isinstance(settings, Visual):
            read_phrases(data.directory)
    except UserError as error:
        reasons.insert(0, str(error))
    return {
        "command": command,
        "language_model": not inputs.sees_pictures,
        "forget": settings.forget,
        "needs": needs,
        "missing": missing,
        "wrong": [config for config in unread if config not in missing],
        "runs": NO if reasons else YES,
        "tasks": "",
        "reason": reasons[0] if reasons else "",
    }


def probes_of(data: Data, settings: Common | Visual, inputs: Inputs) -> list[Task]:
    """The tasks of --leakage; what they cannot ask is said by the command itself."""
    if isinstance(settings, Visual):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        return chosen_probes(data.directory, settings, inputs.sees_pictures, inputs.phrases)[0]


def inputs_of(data: Data, language_model: bool, tasks: Sequence[Task]) -> Inputs:
    """Inputs without models, for the functions that read data."""
    try:
        phrases = read_phrases(data.directory)
    except UserError:
        phrases = read_phrases(WORLD)  # this problem is reported by itself
    return Inputs(
        model=Path(),
        template="",
        device=torch.device("cpu"),
        dtype="float32",
        sees_pictures=not language_model,
        gold=None,
        data=data.directory,
        phrases=phrases,
        tasks=tuple(tasks),
        evaluation=EvaluationSettings(),
        metrics="paper",
        impl="",
        hashes={},
    )


def together(command: str, uses: Sequence[Use], partly: str = NO) -> Use:
    """Several runs as one command.

    partly  what `runs` is where some of them run and others do not
    """
    stops = [use for use in uses if use["runs"] == NO]
    worst = (stops or [use for use in uses if use["runs"] != YES] or list(uses))[0]
    reason = worst["reason"]
    if stops and len(stops) < len(uses):
        names = ", ".join(dict.fromkeys(use["command"].split()[0] for use in stops))
        reason = f"of the methods {names} cannot run: {reason}"
    return {
        **worst,
        "command": command,
        "needs": merged(use["needs"] for use in uses),
        "missing": merged(use["missing"] for use in uses),
        "wrong": merged(use["wrong"] for use in uses),
        "runs": partly if stops and len(stops) < len(uses) else worst["runs"],
        "reason": reason,
    }


def merged(lists: Iterable[Sequence[str]]) -> list[str]:
    """The different texts of some lists, in order."""
    return list(dict.fromkeys(text for each in lists for text in each))
