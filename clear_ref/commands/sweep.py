"""sweep: methods with many settings, and for each method the setting that a rule chooses.

The rule sees half of the forget and retain records; the scores of the other half are reported.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_text
from clear_ref.common.guards import each_once
from clear_ref.common.run_directory import FORMAT, WITHOUT_EFFECT, RunRecord
from clear_ref.common.settings import as_given, with_sources
from clear_ref.evaluation.definitions import QUALITY_TASKS
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.selection import (
    HALVES,
    best,
    check_rule,
    halves,
    mean_scores,
    meets,
    pair_of,
    scored_halves,
)
from clear_ref.loop.points import Point
from clear_ref.mini.directories import model_directory
from clear_ref.report import sweep_page, sweep_tables
from clear_ref.report.columns import PAPER_COLUMNS
from clear_ref.report.command_line import command_line
from clear_ref.report.zero_means import zero_parts

from . import curve
from .evaluated import base_and_gold, evaluated
from .finished import is_begun, logs_in
from .given import Given, given_from, numbers, settings_from
from .guarded import guarding, strict_check
from .input_roles import by_option
from .many_runs import check_all_finished, failures, run_in_processes
from .model_logs import remove_finished_groups
from .output import Output
from .released_code import with_released_code
from .repeat import check_inputs
from .resolve import check_gold_files, check_pictures, resolve_inputs
from .settings import Sweep, Unlearn
from .several_methods import SeveralRuns, chosen_methods, with_data_guards
from .sweep_points import from_csv, from_grids, grid_axes, of_methods, own_file
from .training_recipe import MethodRecipe, method_recipe_for, recipe_for, recipe_name_for
from .unlearn import ResolvedUnlearn, training_rows
from .unlearn import resolve as resolve_unlearn

METRICS = tuple(metric for metric, _, _ in PAPER_COLUMNS)
LISTED = "command line, or the embedded world's own list"  # source of the points
PARTS = (*HALVES, "all")  # of the records
RESULT_FILE = "sweep.json"
TABLE_FILE = "sweep.csv"


@dataclass(frozen=True)
class ResolvedSweep(SeveralRuns):
    """The runs of a sweep: points[k] with seeds[s] is runs[k * len(seeds) + s]."""

    settings: Sweep
    points: list[Point]
    seeds: list[int]


def command(arguments: Namespace) -> Output:
    """What `sweep` prints: for each method the chosen setting, with the scores of both halves."""
    given = given_from(arguments, Sweep, "method")
    settings = settings_from(arguments, Sweep, method=arguments.methods)
    settings = with_released_code(settings, given.settings)
    methods = chosen_methods(settings.method, "sweep METHOD")
    if hasattr(arguments, "recorded_points"):
        recorded, file = arguments.recorded_points
        points = of_methods(recorded, methods, f"{file}: points")
    else:
        points = points_of(settings, methods, arguments.grid, arguments.set_grid)
    seeds = numbers(getattr(arguments, "seeds", "0"), "--seeds")
    run = resolve(settings, points, seeds, given, arguments.resume)
    check_inputs(arguments, run.record)
    return Output(sweep(run, arguments.fresh), sweep_tables.terminal, strict_check(run))


def points_of(
    settings: Sweep, methods: list[str], grid: list[str], set_grid: list[str]
) -> list[Point]:
    """The points of the command line; for a model with the embedded world's recipe without any of
    the three options, those that its own recipes were chosen from.
    """
    recipe, options = grid_axes(grid, "--grid"), grid_axes(set_grid, "--set-grid")
    if settings.points and (recipe or options):
        raise UserError("--points is given beside --grid or --set-grid; expected one of the two")
    if settings.points:
        return from_csv(Path(settings.points), methods, settings.semantics)
    if recipe or options:
        return from_grids(methods, settings.semantics, recipe, options)
    if recipe_name_for(settings.recipe, model_directory(settings.model)) != "mini":
        raise UserError(
            "sweep: there is nothing to compare; expected --grid NAME=V1,V2 (recipe), --set-grid "
            "NAME=V1,V2 (options of the method) or --points FILE"
        )
    return from_csv(own_file(settings.semantics), methods, settings.semantics)


@guarding(with_data_guards)
def resolve(
    settings: Sweep, points: list[Point], seeds: list[int], given: Given, resume: bool
) -> ResolvedSweep:
    """Every run, checked; nothing is written or loaded. All runs share the inputs.

    raises  UserError for a value that the command line and a point both give
    """
    twice = [name for name in given.recipe if any(name in point.recipe for point in points)]
    if twice:
        raise UserError(
            f"{twice[0]} is given for all runs and in the grid; expected one of the two"
        )
    recipe_name, recipe = recipe_for(
        settings.recipe, model_directory(settings.model), "unlearn", given.recipe
    )
    points = explicit(settings, points, given)
    inputs = resolve_inputs(settings, settings.gold)
    check_rule(settings.choose, "--choose", inputs.gold is not None)
    curve.check_halves(inputs, "sweep")
    curve.check_split(settings, settings.split_seed)
    check_pictures(inputs, [row for part in training_rows(settings, inputs) for row in part])
    check_gold_files(inputs)
    record: RunRecord = {
        "format": FORMAT,
        "command": "sweep",
        "impl": inputs.impl,
        "recipe": recipe_name,
        "inputs": inputs.hashes,
        "settings": with_sources(settings, given.settings, recorded=given.recorded)
        | as_given({**given.recipe, "seed": ", ".join(map(str, seeds))})
        | {
            "points": {
                "value": [f"{point.method}: {point.words}" for point in points],
                "source": given.recorded.get("points") or settings.points or LISTED,
            },
        },
        "versions": run_directory.versions(),
    }
    name = f"sweep-{settings.method}-{settings.semantics}-{settings.modality}"
    out = run_directory.choose(
        settings.out, name, record, resume, {"choose", "split_seed"} | WITHOUT_EFFECT, by_option
    )
    runs = [
        resolve_point(settings, point, number, seed, given, out, inputs)
        for number, point in enumerate(points, 1)
        for seed in seeds
    ]
    return ResolvedSweep(inputs, recipe, record, out, resume, (), runs, settings, points, seeds)


def explicit(settings: Sweep, points: list[Point], given: Given) -> list[Point]:
    """The points with every value that another point of the method, or the embedded world, has.

    So sweep.csv and the commands give the same runs after the embedded world's values have changed.
    raises  UserError for two points with the same values
    """
    found: list[Point] = []
    values: dict[int, tuple[str, MethodRecipe]] = {}
    for index, point in enumerate(points):
        own = of_method(settings, method=point.method)
        texts = Given(recipe={**given.recipe, **point.recipe}, options=point.options)
        used = method_recipe_for(own, texts)
        for before, other in values.items():
            if other == (point.method, used):
                raise UserError(
                    f"{point.method} with {points[before].words} and with {point.words} are the "
                    "same setting; expected each once"
                )
        values[index] = (point.method, used)
        same_method = [each for each in points if each.method == point.method]
        recipe = {n for each in same_method for n in each.recipe} | used.tuned_recipe
        options = {n for each in same_method for n in each.options} | used.tuned_options
        found.append(
            Point(
                point.method,
                _completed(point.recipe, used.recipe, recipe - given.recipe.keys()),
                _completed(point.options, used.options, options),
            )
        )
    return found


def _completed(texts: dict[str, str], values: Any, names: Collection[str]) -> dict[str, str]:
    """The texts, and str() of the value of each other name, in alphabetical order."""
    return texts | {name: str(getattr(values, name)) for name in sorted(names) if name not in texts}


def of_method(settings: Sweep, **more: Any) -> Unlearn:
    """The settings of a METHOD run with those of the sweep, and `more`."""
    common = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Unlearn)}
    return Unlearn(**{**common, **more})


def resolve_point(
    settings: Sweep, point: Point, number: int, seed: int, given: Given, out: Path, inputs: Any
) -> ResolvedUnlearn:
    """The run of one point with one seed, in out/METHOD-NUMBER-seedSEED."""
    directory = out / f"{point.method}-{number:03}-seed{seed}"
    own = of_method(settings, method=point.method, seed=seed, out=str(directory))
    all_given = Given(
        given.settings | {"method", "seed", "out"},
        {**given.recipe, **point.recipe},
        point.options,
    )
    return resolve_unlearn(own, all_given, is_begun(directory), inputs)


@run_directory.alone_in_its_directory
def sweep(run: ResolvedSweep, fresh: bool = False) -> dict[str, Any]:
    """Do every run that is not finished, choose, and write sweep.json, sweep.csv and report.html.

    fresh   evaluate base and gold although their logs are kept, see evaluated.py
    returns what sweep.json holds
    raises  RunFailed at the end, naming the runs that failed; the others are in the files
    """
    inputs, out = run.inputs, run.out
    logs = evaluated(inputs, base_and_gold(inputs), out, fresh)
    lines = run_in_processes("sweep", run.runs, logs, lambda line: None)
    failures(lines)
    summary = results(run, logs, lines)
    write_json(out / RESULT_FILE, summary)
    write_text(out / TABLE_FILE, sweep_tables.csv_text(summary))
    write_text(out / run_directory.REPORT_FILE, sweep_page.page(summary, run.record))
    remove_finished_groups(out)
    check_all_finished(lines, out)
    return summary


def results(
    run: ResolvedSweep, logs: dict[str, Logs], lines: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What sweep.json holds: scores of base and gold, of every point, and which ones are chosen.

    lines  of many_runs, one for each run
    """
    split_seed = run.settings.split_seed
    gold = logs.get("gold")
    models = {name: scores_of(own, gold, split_seed) for name, own in logs.items()}
    points = []
    n_seeds = len(run.seeds)
    for number, point in enumerate(run.points):
        several = range(number * n_seeds, (number + 1) * n_seeds)
        line = {
            "number": number + 1,
            "method": point.method,
            "recipe": point.recipe,
            "options": point.options,
            "words": point.words,
            "command": command_line(run.runs[several[0]].record),
            "failed": next((lines[k]["failed"] for k in several if "failed" in lines[k]), ""),
            "chosen": False,
        }
        guards = [guard for k in several for guard in lines[k].get("guards", ())]
        if guards:
            line["guards"] = each_once(guards)
        if not line["failed"]:
            of_seeds = [
                scores_of(logs_in(run.runs[k].out, logs), gold, split_seed) for k in several
            ]
            for part in PARTS:
                own = [scores[part] for scores in of_seeds]
                zeros = sorted({metric for scores in own for metric in scores["zeros"]})
                line[part] = mean_scores(own, METRICS) | {"zeros": zeros}
            seconds = [lines[k]["seconds"]["train"] for k in several]
            line["seconds"] = round(sum(seconds) / n_seeds, 1)
        points.append(line)
    choose(points, run.settings.choose, models)
    return {
        "semantics": run.settings.semantics,
        "modality": run.settings.modality,
        "recipe": run.record["recipe"],
        "seeds": run.seeds,
        "rule": run.settings.choose,
        "split_seed": split_seed,
        "pair": list(pair_of(models["base"]["choosing"])),
        "impl": run.inputs.impl,
        "quality_records": quality_records(logs["base"], split_seed),
        "models": models,
        "points": points,
        "out": str(run.out),
    }


def choose(points: list[dict[str, Any]], rule: str, models: dict[str, Any]) -> None:
    """Mark in each method's points the one that the rule chooses on the choosing half.

    Sets "chosen", and "meets": whether the point meets the rule's condition on Retain.
    """
    base = models["base"]["choosing"]
    gold = models["gold"]["choosing"] if "gold" in models else None
    for method in dict.fromkeys(point["method"] for point in points):
        own = [p for p in points if p["method"] == method and not p["failed"]]
        for point in own:
            point["meets"] = meets(point["choosing"], rule, base)
        if own:
            own[best([point["choosing"] for point in own], rule, base, gold)]["chosen"] = True


def scores_of(logs: Logs, gold: Logs | None, split_seed: int) -> dict[str, dict[str, Any]]:
    """{part of the records: {metric: number}} of a model, by the paper's definitions.

    "zeros" of a part lists the metrics that are 0 because of some of their parts (zero_means.py).
    """
    found = {}
    scored = {**scored_halves(logs, gold, split_seed), "all": score(logs, gold)}
    for part, scores in scored.items():
        zeros = [metric for metric in METRICS if zero_parts(scores, metric)]
        found[part] = {metric: scores.get(metric) for metric in METRICS} | {"zeros": zeros}
    return found


def quality_records(logs: Logs, split_seed: int) -> dict[str, int]:
    """{half: number of records that its Forget Quality compares}; {} if there is no such task."""
    task = next((task for task in QUALITY_TASKS if task in logs), None)
    if task is None:
        return {}
    parts = zip(HALVES, halves({task: logs[task]}, split_seed), strict=True)
    return {part: len(own[task]["avg_gt_loss"]) for part, own in parts}
