"""evaluate MODEL: logs and metrics of one model.

With --robustness also whether what it forgot comes back.
"""

import hashlib
import json
import time
from argparse import Namespace
from dataclasses import asdict, dataclass, fields, replace

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.guards import collected
from clear_ref.common.run_directory import FORMAT, RunRecord
from clear_ref.common.settings import with_sources
from clear_ref.evaluation import robustness
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.robustness_results import Robustness
from clear_ref.evaluation.summary import Seconds, Summary
from clear_ref.losses.native import description
from clear_ref.report import terminal

from .evaluated import evaluated
from .given import Given, given_from, settings_from
from .guarded import all_guards, guarding, strict_check, with_guards
from .input_roles import by_option
from .model_logs import (
    FINISHED_GROUPS,
    evaluate_directory,
    evaluate_model,
    load_model,
    not_asked,
    write_results,
)
from .output import Output
from .repeat import check_inputs
from .resolve import Resolved, check_gold_files, check_pictures, resolve_inputs
from .settings import ROBUSTNESS_SETTINGS, Evaluate
from .training_recipe import recipe_for


@dataclass(frozen=True)
class ResolvedEvaluate(Resolved):
    """An evaluation.

    recipe      of relearning
    robustness  what --robustness measures; None: without it
    """

    settings: Evaluate
    robustness: robustness.RobustnessPlan | None


def command(arguments: Namespace) -> Output:
    """What `evaluate` prints; UserError without a model."""
    if not hasattr(arguments, "model"):
        raise UserError(
            "evaluate: MODEL is missing; expected a model directory, mini, or --settings of an "
            "earlier evaluation"
        )
    settings = settings_from(arguments, Evaluate)
    given = given_from(arguments, Evaluate)
    run = resolve(settings, given, arguments.resume)
    check_inputs(arguments, run.record)
    return Output(evaluate(run, arguments.fresh), terminal.one_run, strict_check(run))


@guarding(with_guards)
def resolve(settings: Evaluate, given: Given, resume: bool) -> ResolvedEvaluate:
    """Everything that the evaluation needs, checked; nothing is written or loaded."""
    idle = sorted(given.settings & set(ROBUSTNESS_SETTINGS))
    if idle and not settings.robustness:
        raise UserError(
            f"--{idle[0].replace('_', '-')} is a setting of --robustness; add that, or leave it out"
        )
    inputs = resolve_inputs(settings, settings.gold, settings.adapter)
    if inputs.shard and settings.robustness:
        raise UserError(
            "--shard on: --robustness rounds and trains whole weights, which no process has; leave "
            "one of the two out"
        )
    plan = None
    if settings.robustness:
        plan = robustness.make_plan(
            robustness_settings(settings, given),
            inputs.data,
            inputs.phrases,
            inputs.sees_pictures,
        )
    check_pictures(inputs, plan.rows if plan else ())
    inputs.without_weights(inputs.model, settings.adapter)
    check_gold_files(inputs)
    record: RunRecord = {
        "format": FORMAT,
        "command": "evaluate",
        "kernel": description(),
        "impl": inputs.impl,
        "settings": with_sources(settings, given.settings, recorded=given.recorded),
        "inputs": inputs.hashes,
        "versions": run_directory.versions(),
    }
    return ResolvedEvaluate(
        inputs=inputs,
        recipe=recipe_for(settings.recipe, inputs.model, "unlearn", {})[1],
        record=record,
        out=run_directory.choose(
            settings.out, f"evaluate-{inputs.model.name}", record, resume, files_of=by_option
        ),
        resume=resume,
        guards=(),
        settings=settings,
        robustness=plan,
    )


def robustness_settings(settings: Evaluate, given: Given) -> robustness.RobustnessSettings:
    """The settings of --robustness; a held-out config that was named must exist."""
    own = {f.name for f in fields(robustness.RobustnessSettings)}
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in own}
    values["gradnorm"] = settings.gradnorm == "on"
    return robustness.RobustnessSettings(**values, holdout_required="holdout" in given.settings)


@run_directory.alone_in_its_directory
def evaluate(run: ResolvedEvaluate, fresh: bool = False) -> Summary:
    """Evaluate the model, and the gold model if there is one; write logs and metrics.

    fresh  evaluate models although their logs are kept, see evaluated.py
    """
    inputs, settings, out = run.inputs, run.settings, run.out
    started = time.monotonic()
    logs = {}
    models = {"gold": inputs.gold} if inputs.gold else {}
    if settings.adapter:
        logs["model"] = evaluate_directory(inputs, inputs.model, "model", out, settings.adapter)
    else:
        models = {"model": inputs.model} | models
    logs |= evaluated(inputs, models, out, fresh)
    seconds: Seconds = {"evaluate": round(time.monotonic() - started, 2)}
    summary: Summary = {"command": "evaluate", "model": str(inputs.model)}
    if settings.adapter:
        summary["adapter"] = settings.adapter
    summary["impl"] = inputs.impl
    summary["seconds"] = seconds
    if run.robustness:
        started = time.monotonic()
        with collected() as of_relearning:
            summary["robustness"] = measure_robustness(run, run.robustness, logs)
        run = replace(run, guards=(*run.guards, *of_relearning))
        seconds["robustness"] = round(time.monotonic() - started, 2)
    summary |= not_asked(inputs) | all_guards(run, logs)
    return write_results(out, logs, summary, inputs.metrics, inputs.gold)


def measure_robustness(
    run: ResolvedEvaluate, plan: robustness.RobustnessPlan, logs: dict[str, Logs]
) -> Robustness:
    """The "robustness" part of metrics.json; see evaluation/robustness.py."""
    inputs, gold = run.inputs, run.inputs.gold
    models = {"model": lambda: load_model(inputs, inputs.model, run.settings.adapter)}
    if gold:
        models["gold"] = lambda: load_model(inputs, gold)
    return robustness.run(
        plan,
        models,
        logs,
        inputs.tasks_of_sets,
        run.recipe,
        lambda vlm, name, tasks: evaluate_model(inputs, vlm, name, run.out, tasks),
        run.out,
        run.out / FINISHED_GROUPS / f"robustness-{finished_with(run)}",
    )


def finished_with(run: ResolvedEvaluate) -> str:
    """Hash of the settings that may change when an evaluation is resumed.

    What a stopped measurement had finished belongs to these.
    """
    inputs = run.inputs
    values = [asdict(inputs.evaluation), [asdict(task) for task in inputs.tasks], inputs.metrics]
    return hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()[:16]
