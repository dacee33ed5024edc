"""finetune: train a base model (split full) or a gold model (split retain), and evaluate it."""

import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation.summary import Summary
from clear_ref.loop import finetune as training
from clear_ref.loop.history import read_history, write_history
from clear_ref.loop.modalities import MODALITIES
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.rows import forget_rows
from clear_ref.loop.saving import read_saving
from clear_ref.mini.directories import start_directory
from clear_ref.report import terminal

from . import curve
from .given import Given, given_from, settings_from
from .guarded import all_guards, guarding, strict_check, with_guards
from .input_roles import by_option
from .model_logs import evaluate_model, load_model, write_results
from .output import Output
from .repeat import check_inputs
from .resolve import (
    Resolved,
    check_never_saw,
    check_pictures,
    resolve_inputs,
    trained_parts,
    training_record,
)
from .settings import Finetune
from .training_recipe import recipe_for


@dataclass(frozen=True)
class ResolvedFinetune(Resolved):
    """A fine-tuning run; plan: the records that each step sees."""

    settings: Finetune
    plan: FinetunePlan


def command(arguments: Namespace) -> Output:
    """What `finetune` prints."""
    settings, given = settings_from(arguments, Finetune), given_from(arguments, Finetune)
    run = resolve(settings, given, arguments.resume)
    check_inputs(arguments, run.record)
    return Output(finetune(run), terminal.one_run, strict_check(run))


@guarding(with_guards)
def resolve(settings: Finetune, given: Given, resume: bool) -> ResolvedFinetune:
    """Everything that the run needs, checked; nothing is written or loaded."""
    start = start_directory(settings.model)
    recipe_name, recipe = recipe_for(settings.recipe, start, "finetune", given.recipe)
    inputs = resolve_inputs(settings, directory_of=start_directory)
    if inputs.shard and recipe.lora_rank:
        raise UserError(
            "--shard on: finetune adds the adapters to the weights and writes the whole model, "
            "which no process has; leave one of --shard and --lora-rank out"
        )
    inputs = replace(inputs, shard=False)  # --lora-rank 0 shares every weight out by itself
    curve.check(settings, inputs, recipe)
    if settings.split == "retain":
        check_never_saw(inputs.model, forget_rows(inputs.data, settings.forget), "--model")
    plan = plan_of(settings, inputs.data, inputs.phrases, inputs.sees_pictures)
    check_pictures(inputs, [*plan.rows, *plan.named])
    sketch = inputs.without_weights(inputs.model)
    adapted = prepare(sketch, recipe, settings.seed)
    record = training_record(
        "finetune", settings, inputs, recipe_name, recipe, given, sketch, adapted
    )
    name = f"finetune-{settings.split}-seed{settings.seed}"
    return ResolvedFinetune(
        inputs=inputs,
        recipe=recipe,
        record=record,
        out=run_directory.choose(
            settings.out, name, record, resume, curve.changeable(settings), by_option
        ),
        resume=resume,
        guards=(),
        settings=settings,
        plan=plan,
    )


def configs_of(settings: Finetune, pictures: bool) -> list[str]:
    """The configs that are trained on; the second one is for --name-question.

    pictures  False for a language model
    """
    split = "full" if settings.split == "full" else f"retain{100 - settings.forget}"
    if not pictures:
        return [MODALITIES["text"].format(split)]
    configs = [MODALITIES["both"].format(split)]
    return [*configs, split] if settings.name_question else configs


def plan_of(settings: Finetune, data: Path, phrases: Phrases, pictures: bool) -> FinetunePlan:
    """The records that each step sees; raises UserError for missing or wrong rows."""
    if settings.name_question and not pictures:
        raise UserError("--name-question is about pictures, and the model sees none; leave it out")
    rows, *named = [read_rows(data, config) for config in configs_of(settings, pictures)]
    return FinetunePlan(rows, phrases, settings.seed, tuple(named[0] if named else ()))


@run_directory.alone_in_its_directory
def finetune(run: ResolvedFinetune) -> Summary:
    """Train on the whole split, merge adapters, write the model to OUT/model and evaluate it."""
    inputs, settings, out = run.inputs, run.settings, run.out
    vlm = load_model(inputs, inputs.model)
    prepare(vlm, run.recipe, settings.seed)
    started = time.monotonic()
    records = curve.finetune_records(inputs, settings, run.plan.rows)
    points = curve.make_curve(inputs, settings, records, {}, out)
    steps = training.finetune(
        vlm,
        run.plan,
        run.recipe,
        settings.seed,
        f"finetune {settings.split}",
        out,
        run.resume,
        curve=points,
        saving=read_saving(settings.save_every, settings.keep_checkpoints),
        guards=run.guards,
    )
    seconds_between = points.seconds if points else 0.0
    train_seconds = time.monotonic() - started - seconds_between
    started = time.monotonic()
    vlm.merge_lora()
    vlm.save(out / "model")
    write_history(
        out / "model",
        read_history(inputs.model),
        command="finetune",
        recipe=run.record["recipe"],
        split=f"{settings.split}, forget {settings.forget}",
        seed=settings.seed,
        rows=run.plan.rows,
    )
    logs = evaluate_model(inputs, vlm, settings.split, out)
    evaluate_seconds = time.monotonic() - started + seconds_between
    summary: Summary = {
        "command": "finetune",
        "split": settings.split,
        "seed": settings.seed,
        "impl": inputs.impl,
        "recipe": run.record["recipe"],
        "lr": run.recipe.lr,
        "epochs": run.recipe.epochs,
        "trained": trained_parts(run.record),
        "steps": steps,
        "seconds": {"train": round(train_seconds, 2), "evaluate": round(evaluate_seconds, 2)},
        **curve.summarised(points, settings, {}),
    }
    models = {settings.split: logs}
    summary |= all_guards(run, models)
    return write_results(out, models, summary, inputs.metrics)
