"""all: every method from the same start, one leaderboard."""

import dataclasses
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from clear_ref.common import distributed, run_directory
from clear_ref.common.files import write_json
from clear_ref.common.run_directory import FORMAT, RunRecord
from clear_ref.common.settings import as_given, with_sources
from clear_ref.evaluation.metrics import score, sets_of
from clear_ref.loop import mini_recipes
from clear_ref.loop.modalities import MODALITIES
from clear_ref.loop.recipes import Recipe
from clear_ref.methods import table
from clear_ref.methods.semantics import exists
from clear_ref.mini.directories import model_directory
from clear_ref.report import terminal
from clear_ref.report.record_intervals import of_sets

from . import report as report_page
from .evaluated import base_and_gold, evaluated
from .finished import WHOLE_RUN, is_begun, read_back
from .given import Given, given_from, numbers, settings_from
from .guarded import guarding, strict_check
from .input_roles import by_option
from .many_runs import check_all_finished, failures, run_in_processes
from .model_logs import not_asked, remove_finished_groups
from .output import Output
from .released_code import with_released_code
from .repeat import check_inputs
from .resolve import Inputs, check_gold_files, check_pictures, resolve_inputs
from .settings import Unlearn
from .several_methods import (
    SeveralRuns,
    chosen_methods,
    methods_for,
    options_by_method,
    with_data_guards,
)
from .training_recipe import recipe_for
from .unlearn import resolve as resolve_unlearn
from .unlearn import training_rows


@dataclass(frozen=True)
class ResolvedAll(SeveralRuns):
    """Every run of `all`; one run has its own directory in `out`.

    semantics  of the runs; two if the text-only code is used for one modality alone
    """

    settings: Unlearn
    semantics: str
    seeds: list[int]


def command(arguments: Namespace) -> Output:
    """What `all` prints.

    Before it, a line of recipe and rate and one for each finished run, unless --json or --quiet is
    given.
    """
    settings = settings_from(arguments, Unlearn)
    # Not "modality": each is no value of that setting.
    chosen = getattr(arguments, "modalities", "both")
    modalities = list(MODALITIES) if chosen == "each" else [chosen]
    seeds = numbers(getattr(arguments, "seeds", "0"), "--seeds")
    given = given_from(arguments, Unlearn)
    methods = chosen_methods(getattr(arguments, "methods", "all"), "--methods")
    run = resolve(settings, methods, modalities, seeds, given, arguments.resume)
    check_inputs(arguments, run.record)
    silent = arguments.json or arguments.quiet
    if not silent:
        print(heading(run), flush=True)
    show = (lambda row: None) if silent else terminal.print_finished_run
    found = run_all(run, show, arguments.fresh)
    return Output(found, terminal.all_methods, strict_check(run))


def heading(run: ResolvedAll) -> str:
    """The first line of the output: the methods, and the recipe and rate with which they train."""
    methods = list(dict.fromkeys(one.settings.method for one in run.runs))
    said = [f"all: {len(methods)} methods", f"recipe {run.record['recipe']}"]
    for name in ("lr", "epochs"):
        values = sorted({getattr(one.recipe, name) for one in run.runs})
        most = f" to {values[-1]}, by method" if len(values) > 1 else ""
        said.append(f"{name} {values[0]}{most}")
    return ", ".join(said)


@guarding(with_data_guards)
def resolve(
    settings: Unlearn,
    methods: list[str],
    modalities: list[str],
    seeds: list[int],
    given: Given,
    resume: bool,
) -> ResolvedAll:
    """Every run of `all`, checked; nothing is written or loaded. All runs share the inputs.

    Each run has the guards of the data too.
    """
    recipe_name, recipe = recipe_for(
        settings.recipe, model_directory(settings.model), "unlearn", given.recipe
    )
    by_modality = {
        modality: with_released_code(
            dataclasses.replace(settings, modality=modality), given.settings
        )
        for modality in modalities
    }
    names = list(dict.fromkeys(one.semantics for one in by_modality.values()))
    methods_of = {name: methods_for(methods, name) for name in names}
    options = {name: options_by_method(methods_of[name], name, given.options) for name in names}
    inputs = resolve_inputs(settings, settings.gold)
    rows = []
    for own in by_modality.values():
        for part in training_rows(own, inputs):
            rows += part
    check_pictures(inputs, rows)
    check_gold_files(inputs)
    if len(by_modality) == 1:
        settings = by_modality[modalities[0]]
    record = all_record(settings, methods, modalities, seeds, given, inputs, recipe_name, recipe)
    out = run_directory.choose(
        settings.out,
        f"all-{settings.semantics}",
        record,
        resume,
        run_directory.WITHOUT_EFFECT,
        by_option,
    )
    given = dataclasses.replace(
        given, settings=given.settings | {"method", "modality", "seed", "out"}
    )
    runs = []
    for modality, shared in by_modality.items():
        semantics = shared.semantics
        for method in methods_of[semantics]:
            of_method = dataclasses.replace(given, options=options[semantics][method])
            for seed in seeds:
                directory = out / f"{method}-{semantics}-{modality}-seed{seed}"
                own = dataclasses.replace(shared, method=method, seed=seed, out=str(directory))
                begun = distributed.from_first(partial(is_begun, directory))
                runs.append(resolve_unlearn(own, of_method, begun, inputs))
    return ResolvedAll(
        inputs=inputs,
        recipe=recipe,
        record=record,
        out=out,
        resume=resume,
        guards=(),
        settings=settings,
        semantics=", ".join(names),
        seeds=seeds,
        runs=runs,
    )


def all_record(
    settings: Unlearn,
    methods: list[str],
    modalities: list[str],
    seeds: list[int],
    given: Given,
    inputs: Inputs,
    recipe_name: str,
    recipe: Recipe,
) -> RunRecord:
    """What settings.json of the whole directory holds."""
    every = {
        "modality": ", ".join(modalities),
        "seed": ", ".join(map(str, seeds)),
        "method": "all" if methods == list(table.METHODS) else ", ".join(methods),
    }
    by_method: set[str] = set()
    if recipe_name == "mini":
        known = [one for one in methods if exists(one, settings.semantics)]
        of_methods = [mini_recipes.tuned(one, settings.semantics).recipe for one in known]
        by_method = set().union(*of_methods) - set(given.recipe)
    record: RunRecord = {
        "format": FORMAT,
        "command": "all",
        "impl": inputs.impl,
        "recipe": recipe_name,
        "inputs": inputs.hashes,
        "settings": with_sources(settings, given.settings, recorded=given.recorded)
        | with_sources(recipe, set(given.recipe), recorded=given.recorded)
        | {name: {"value": "by method", "source": "mini"} for name in sorted(by_method)}
        | as_given(every),
        "versions": run_directory.versions(),
    }
    if given.options:
        record["options"] = as_given(given.options)
    return record


@run_directory.alone_in_its_directory
def run_all(
    run: ResolvedAll, report: Callable[[dict], None], fresh: bool = False
) -> dict[str, Any]:
    """Every chosen method, in each modality and with each seed; base and gold are evaluated once.

    On the CPU, as many runs at a time as torch has threads. The leaderboard is written to
    leaderboard.json, report.html and tables in CSV, LaTeX and Markdown. A run that fails is left
    out of them, and the other runs are done.

    report  called with a line for each finished run
    fresh   evaluate base and gold although their logs are kept, see evaluated.py
    returns what leaderboard.json holds
    raises  RunFailed at the end, naming the runs that failed
    """
    inputs, out = run.inputs, run.out
    logs = evaluated(inputs, base_and_gold(inputs), out, fresh)
    lines = run_in_processes("all methods", run.runs, logs, report)
    finished = [line for line in lines if "metrics" in line]
    failed = failures(lines)
    models = {name: score(log, logs.get("gold"), inputs.metrics) for name, log in logs.items()}
    summary = {
        "semantics": run.semantics,
        "seeds": run.seeds,
        "impl": inputs.impl,
        "models": models,
        "intervals": {
            name: of_sets(sets_of(found, inputs.metrics), logs[name], logs.get("gold"))
            for name, found in models.items()
        },
        "runs": finished,
        "failed": failed,
        **not_asked(inputs),
        "definitions": models["base"]["definitions"],
        "out": str(out),
    }
    write_json(out / run_directory.LEADERBOARD_FILE, summary)
    remove_finished_groups(out)
    if distributed.is_first():
        with read_back(out, WHOLE_RUN):
            report_page.of_all(out, inputs.metrics)
    check_all_finished(lines, out)
    return summary
