"""metrics-audit: which definitions tell models with the people to forget from models without."""

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from clear_ref.audit.members import Member, members
from clear_ref.audit.models import Experiment, make_all, plan_of
from clear_ref.audit.results import rows_of
from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json, write_text
from clear_ref.common.processes import process_count
from clear_ref.common.run_directory import FORMAT, RunRecord
from clear_ref.common.settings import with_sources
from clear_ref.data.records import Row
from clear_ref.evaluation import robustness
from clear_ref.evaluation.choices import WITH_CHOICES
from clear_ref.evaluation.robustness import RobustnessPlan
from clear_ref.loop.recipes import Recipe
from clear_ref.loop.rows import forget_rows
from clear_ref.losses.native import description
from clear_ref.mini.directories import start_directory
from clear_ref.report import audit_table

from .audit_settings import WITHOUT, MetricsAudit
from .evaluate import robustness_settings
from .given import Given, given_from, settings_from
from .input_roles import by_option
from .output import Output
from .repeat import check_inputs
from .resolve import Inputs, check_never_saw, check_pictures, resolve_inputs
from .training_recipe import recipe_for

# More models may be added to a run that is resumed.
CHANGEABLE = run_directory.WITHOUT_EFFECT | {"models"}


@dataclass(frozen=True)
class ResolvedAudit:
    """An audit that was checked; nothing is written or trained yet."""

    settings: MetricsAudit
    inputs: Inputs
    members: list[Member]
    experiment: Experiment
    out: Path
    record: RunRecord


def command(arguments: Namespace) -> Output:
    """What `metrics-audit` prints."""
    settings = settings_from(arguments, MetricsAudit, metrics=WITH_CHOICES[0])
    given = given_from(arguments, MetricsAudit)
    run = resolve(settings, given, arguments.resume)
    check_inputs(arguments, run.record)
    return Output(audit(run), audit_table.terminal)


def resolve(settings: MetricsAudit, given: Given, resume: bool) -> ResolvedAudit:
    """Everything that the audit needs, checked.

    raises  UserError for a setting, a model or rows that cannot be used
    """
    chosen = members(settings.models, settings.seed)
    inputs = resolve_inputs(settings, directory_of=start_directory)
    if not inputs.sees_pictures:
        raise UserError(
            f"--model {settings.model}: sees no pictures; expected a vision-language model, which "
            "all of the audited definitions are about"
        )
    check_never_saw(inputs.model, forget_rows(inputs.data, settings.forget), "--model")
    recipe_name, recipe = recipe_for(settings.recipe, inputs.model, "finetune", given.recipe)
    if settings.relearn_steps < 1:
        raise UserError(f"--relearn-steps is {settings.relearn_steps}; expected 1 or more")
    plan = measurements(settings, given, inputs)
    experiment = Experiment(
        start=inputs.model,
        load=inputs.load,
        split=split_without(settings),
        recipe=recipe,
        recipe_name=recipe_name,
        relearn_recipe=relearn_recipe(settings, inputs.model),
        tasks=inputs.tasks,
        evaluation=inputs.evaluation,
        robustness=plan,
        out=Path(),
    )
    check_pictures(inputs, [*plan.rows, *training_rows(settings, inputs, chosen)])
    inputs.without_weights(inputs.model)
    own = {f.name for f in fields(settings)} - WITHOUT
    known = with_sources(settings, given.settings, recorded=given.recorded)
    record: RunRecord = {
        "format": FORMAT,
        "command": "metrics-audit",
        "impl": inputs.impl,
        "kernel": description(),
        "recipe": recipe_name,
        "settings": {name: entry for name, entry in known.items() if name in own}
        | with_sources(recipe, set(given.recipe), recorded=given.recorded),
        "inputs": inputs.hashes,
        "versions": run_directory.versions(),
    }
    out = run_directory.choose(settings.out, "metrics-audit", record, resume, CHANGEABLE, by_option)
    return ResolvedAudit(settings, inputs, chosen, replace(experiment, out=out), out, record)


def measurements(settings: MetricsAudit, given: Given, inputs: Inputs) -> RobustnessPlan:
    """What is measured of every model beside its logs."""
    measured = replace(settings, metrics="all", relearn_at=str(settings.relearn_steps))
    chosen = robustness_settings(measured, given)
    return robustness.make_plan(chosen, inputs.data, inputs.phrases, pictures=True)


def split_without(settings: MetricsAudit) -> str:
    """The split without the people to forget."""
    return f"retain{100 - settings.forget}"


def training_rows(settings: MetricsAudit, inputs: Inputs, chosen: Sequence[Member]) -> list[Row]:
    """The rows of gold and of one model with the people: the others have the same."""
    rows: list[Row] = []
    for member in chosen[:2]:
        plan = plan_of(member, inputs.data, split_without(settings))
        rows += [*plan.rows, *plan.named, *plan.rehearsal]
    return rows


def relearn_recipe(settings: MetricsAudit, start: Path) -> Recipe:
    """The recipe of relearning: adapters and rate of unlearning, unless --relearn-lr is given."""
    _, recipe = recipe_for(settings.recipe, start, "unlearn", {})
    return replace(recipe, lr=settings.relearn_lr) if settings.relearn_lr else recipe


@run_directory.alone_in_its_directory
def audit(run: ResolvedAudit) -> dict[str, Any]:
    """Train and measure what is missing, make the table; returns what metrics.json holds.

    raises  RunFailed if a training failed; the other models are done
    """
    started = time.monotonic()
    n_processes = process_count(run.inputs.device)
    make_all(run.experiment, run.members, n_processes)
    rows = rows_of(run.experiment, run.members, n_processes)
    experiment = run.experiment
    found = {
        "command": "metrics-audit",
        "models": run.settings.models,
        "members": [member.name for member in run.members],
        "recipe": experiment.recipe_name,
        "lr": experiment.recipe.lr,
        "epochs": experiment.recipe.epochs,
        "impl": run.inputs.impl,
        "conditions": experiment.conditions(),
        "relearned_records": len(experiment.robustness.relearned),
        "relearn_steps": run.settings.relearn_steps,
        "missing": experiment.robustness.missing,
        "rows": rows,
        "seconds": round(time.monotonic() - started, 1),
        "out": str(run.out),
    }
    write_json(run.out / run_directory.METRICS_FILE, found)
    write_text(run.out / "audit.csv", audit_table.as_csv(found))
    write_text(run.out / "audit.md", audit_table.as_markdown(found))
    return found
