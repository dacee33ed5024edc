"""visual METHOD|all: the visual-only track, from pictures to the table of the paper's Table 5."""

import time
import warnings
from argparse import Namespace
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clear_ref.common import distributed, run_directory
from clear_ref.common.devices import device_of
from clear_ref.common.errors import Notice, RunFailed, UserError
from clear_ref.common.files import write_json
from clear_ref.common.processes import process_count
from clear_ref.common.run_directory import FORMAT, RunRecord
from clear_ref.common.settings import as_given, setting_names, with_sources
from clear_ref.data.grouping import first_ungrouped
from clear_ref.report import visual_page
from clear_ref.visual import columns, results
from clear_ref.visual.experiment import BASE, GOLD, Experiment, check_all, train_all
from clear_ref.visual.methods.table import METHODS, methods_under, variant
from clear_ref.visual.pictures import row_pictures
from clear_ref.visual.scores import DEFINITIONS
from clear_ref.visual.splits import make_splits
from clear_ref.visual.store import SPLITS, Store
from clear_ref.visual.training import Faces

from .given import pairs, settings_from
from .output import Output
from .visual_inputs import VisualInputs, hashes_by_option, inputs_of
from .visual_recipes import (
    check_read,
    check_trained,
    option_words,
    options_of,
    recipe_words,
    recipes_of,
)
from .visual_resume import EarlierStart, check_base, may_differ, take_start
from .visual_settings import Visual

# May differ in a run that is resumed: they change no number, or add methods.
CHANGEABLE = run_directory.WITHOUT_EFFECT | {"method", "metrics", "networks", "processes"}


@dataclass(frozen=True)
class ResolvedVisual:
    """A run that was checked; nothing is written or trained yet."""

    settings: Visual
    method: str
    inputs: VisualInputs
    experiment: Experiment
    n_processes: int
    out: Path
    record: RunRecord


def command(arguments: Namespace) -> Output:
    """What `visual` prints."""
    given = set(setting_names(Visual)) & vars(arguments).keys()
    start = take_start(arguments)
    run = resolve(
        settings_from(arguments, Visual),
        arguments.method,
        given,
        pairs(arguments.options),
        pairs(arguments.train, "--train", "base.epochs=10"),
        arguments.resume,
        start,
    )
    found, failed = run_visual(run)
    return Output(found, text, lambda summary: check(summary, failed))


def resolve(
    settings: Visual,
    method: str,
    given: set[str],
    options: dict[str, str],
    training: dict[str, str],
    resume: bool,
    start: EarlierStart,
) -> ResolvedVisual:
    """The run, checked.

    given     names of the settings that were named
    options   {"METHOD.NAME": text} of --set
    training  {"STAGE.NAME": text} of --train
    start     of the run that is resumed; its settings are among `settings`
    raises    UserError for a setting, a row, a picture or a network that cannot be used
    """
    methods = chosen_methods(method, settings.semantics)
    if "forget" in given and settings.forget_names:
        raise UserError(
            "--forget names CLEAR's list and --forget-names a file; expected one of the two"
        )
    device = device_of(settings.device)
    inputs = inputs_of(settings)
    splits = make_splits(inputs.classes, inputs.people, inputs.n_splits)
    recipes = recipes_of(inputs.is_mini, settings.semantics, training, start.recipes)
    chosen_options = options_of(settings.semantics, options, start.options)
    stages = (BASE, GOLD, *methods)
    check_trained("--train", training, stages)
    check_trained("--set", options, stages)
    check_read(training, recipes, settings.semantics, chosen_options, start.recipes)
    check_base(recipes, start, settings.out)
    n_processes = processes_of(settings, given, device)
    used = replace(settings, splits=inputs.n_splits, size=inputs.size)
    record: RunRecord = {
        "format": FORMAT,
        "command": "visual",
        "impl": "torch",
        "recipe": "mini" if inputs.is_mini else "paper",
        "inputs": inputs.hashes,
        "settings": with_sources(used, given, recorded=start.sources)
        | as_given({"method": method})
        | recipe_words(recipes, training, inputs.is_mini, start.sources),
        "versions": run_directory.versions(),
    }
    record["options"] = option_words(chosen_options, options, start.sources)
    changeable = CHANGEABLE | may_differ(record, start, settings.out)
    name = f"visual-{method}-{settings.semantics}-seed{settings.seed}"
    out = run_directory.choose(settings.out, name, record, resume, changeable, hashes_by_option)
    pictures = row_pictures(inputs.rows, inputs.size)
    labels = torch.from_numpy(inputs.classes.labels)
    faces = Faces(pictures, labels, len(inputs.classes.names), inputs.captions)
    experiment = Experiment(
        classes=inputs.classes,
        splits=splits,
        faces=faces.to(device),
        start=inputs.start.to(device),
        semantics=settings.semantics,
        stages=stages,
        recipes=recipes,
        options=chosen_options,
        seed=settings.seed,
        keep_all=settings.networks == "all",
    )
    check_all(experiment)
    return ResolvedVisual(settings, method, inputs, experiment, n_processes, out, record)


def processes_of(settings: Visual, given: Collection[str], device: torch.device) -> int:
    """The number of processes; under torchrun as many as it started.

    raises  UserError for another number that the command line gives beside torchrun
    """
    started = distributed.size()
    if started == 1:
        return settings.processes or process_count(device)
    if "processes" in given and settings.processes not in (0, started):
        raise UserError(
            f"--processes is {settings.processes}, and torchrun started {started}; leave it out"
        )
    return process_count(device)


def chosen_methods(method: str, semantics: str) -> list[str]:
    """The methods to run; a Notice names those of `all` that the semantics does not have.

    raises  UserError for a method that the semantics does not have
    """
    if method != "all":
        variant(method, semantics)  # raises UserError
        return [method]
    found = methods_under(semantics)
    left_out = [each for each in METHODS if each not in found]
    if left_out:
        warnings.warn(f"{', '.join(left_out)}: not run, no {semantics} of these", Notice, 2)
    return found


@run_directory.alone_in_its_directory
def run_visual(run: ResolvedVisual) -> tuple[dict[str, Any], list[str]]:
    """Train, score and attack; returns what metrics.json holds, and why trainings of this start
    failed.

    "models": {stage: {definition: {number: {"value", "spread", "n"}}}} of base, gold and every
    method that is finished in `out`; "failed": a sentence for each training that failed, in this
    start or an earlier one, and was not trained again.
    """
    began = time.monotonic()
    experiment, store = run.experiment, Store(run.out)
    if run.settings.metrics != "paper":
        say_what_is_not_grouped(run.inputs)
    if experiment.keep_all:
        say_which_networks_are_missing(store, len(experiment.splits))
    every = (BASE, GOLD, *METHODS)
    kept = experiment.classes, experiment.splits, every
    distributed.from_first(lambda: results.check_kept(store, *kept))
    if distributed.is_first():
        store.write_people(*kept[:2])
    failed = train_all(experiment, store, run.n_processes)

    def summary() -> dict[str, Any]:
        models = results.summary_of(store, *kept)
        sets = DEFINITIONS if run.settings.metrics == "all" else (run.settings.metrics,)
        return {
            "command": "visual",
            "semantics": run.settings.semantics,
            "seed": run.settings.seed,
            "splits": len(experiment.splits),
            "names": len(experiment.classes.names),
            "pictures": len(experiment.classes.labels),
            "chance": round(100 / len(experiment.classes.names), 3),
            "metrics": list(sets),
            "models": models,
            "definitions": {name: columns.WORDS[name] for name in DEFINITIONS},
            "failed": store.failures([each.number for each in experiment.splits], tuple(METHODS)),
            "seconds": round(time.monotonic() - began, 1),
            "out": str(run.out),
        }

    found = distributed.from_first(summary)
    write_json(run.out / run_directory.METRICS_FILE, found)
    if distributed.is_first():
        visual_page.write(run.out, found, run.record)
    return found, failed


def say_what_is_not_grouped(inputs: VisualInputs) -> None:
    """A Notice that names the first row that is away from those of its name, if there is one."""
    row = first_ungrouped(inputs.classes.labels.tolist())
    if row is not None:
        warnings.warn(
            f"{inputs.rows[row].where}: the rows are not grouped by name, so the released "
            "definitions take other rows than five of each name as references; those of the paper "
            "take the first five rows of each name, wherever other names' rows are",
            Notice,
            stacklevel=2,
        )


def say_which_networks_are_missing(store: Store, n_splits: int) -> None:
    """A Notice that names the stages that an earlier start finished without --networks all."""
    missing = [
        stage
        for stage in (GOLD, *METHODS)
        if any(
            store.is_finished(split, stage) and not store.has_network(split, stage)
            for split in range(n_splits)
        )
    ]
    if missing:
        warnings.warn(
            f"--networks all: {', '.join(missing)} finished without it, so some of their networks "
            "are not there and are not made; to train a stage again remove its .json in "
            f"{store.directory / SPLITS}",
            Notice,
            stacklevel=2,
        )


def check(found: dict[str, Any], failed: Sequence[str]) -> None:
    """RunFailed if a training of this start failed; the results of the others are written.

    found   what metrics.json holds
    failed  a sentence for each training of this start that failed
    """
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise RunFailed(f"{failed[0]}{more}; the others are in {found['out']}")


def text(found: Any) -> str:
    """A table for each set of definitions, and where the results are."""
    lines = visual_page.terminal(found)
    lines += ["", f"chance: {found['chance']:.1f} percent"]
    return "\n".join([*lines, f"{found['out']}  {found['seconds']:.0f} s"])
