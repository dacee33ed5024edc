"""METHOD: unlearn with one method; evaluate base, gold and the unlearned model; report."""

import time
from dataclasses import dataclass, fields, replace
from typing import Any

from clear_ref.common import distributed, run_directory
from clear_ref.common.settings import with_sources
from clear_ref.data.records import Row
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.summary import Summary
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.history import read_history, write_history
from clear_ref.loop.kept import Kept
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.prepare import prepare
from clear_ref.loop.requests import read_requests, rows_of_request
from clear_ref.loop.rows import split_rows
from clear_ref.loop.saving import read_saving
from clear_ref.methods import Variant, table

from . import curve, report
from .evaluated import base_and_gold, completed, reused
from .given import Given
from .guarded import all_guards, guarding, with_guards
from .input_roles import by_option
from .model_logs import (
    evaluate_model,
    load_model,
    merge_where_exact,
    not_asked,
    write_results,
)
from .released_code import changed_sources, with_released_code
from .resolve import (
    Inputs,
    Resolved,
    check_gold_files,
    check_pictures,
    resolve_inputs,
    trained_parts,
    training_record,
)
from .settings import Unlearn
from .teacher_files import kept_results, remove_results
from .training_recipe import method_recipe_for


@dataclass(frozen=True)
class ResolvedUnlearn(Resolved):
    """A run of one method.

    rows            (forget, retain): the data rows that it trains on
    mask            label mask: answer or released
    trained_layers  names of the layers that the variant trains; None: those of the recipe
    """

    settings: Unlearn
    variant: Variant
    options: Any
    rows: tuple[list[Row], list[Row]]
    mask: str
    trained_layers: list[str] | None
    adapted: bool


def training_rows(settings: Unlearn, inputs: Inputs) -> tuple[list[Row], list[Row]]:
    """(forget, retain): the data rows of the chosen split and modality, or of a request."""
    if settings.sequence:
        return rows_of_request(
            read_requests(inputs.data, settings.sequence, settings.forget, False),
            settings.request,
            settings.modality,
            inputs.sees_pictures,
            settings.retain_modality,
        )
    return split_rows(
        inputs.data,
        settings.modality,
        settings.forget,
        inputs.sees_pictures,
        settings.retain_modality,
    )


def plan_of(settings: Unlearn, options: Any, inputs: Inputs) -> UnlearnPlan:
    """The records that each step sees; raises UserError for rows that are missing or too few."""
    rows = training_rows(settings, inputs)
    needs = table.needs(settings.method, settings.semantics, options)
    contents = table.variant(settings.method, settings.semantics).contents
    return UnlearnPlan(*rows, tuple(needs), inputs.phrases, settings.seed, contents)


@guarding(with_guards)
def resolve(
    settings: Unlearn, given: Given, resume: bool, inputs: Inputs | None = None
) -> ResolvedUnlearn:
    """Everything that the run needs, checked; nothing is written or loaded.

    inputs  of other runs with the same models and data (`all`); they are checked already
    raises  UserError for settings, rows, pictures or model files that are wrong
    """
    asked, settings = settings, with_released_code(settings, given.settings)
    given = replace(given, recorded=changed_sources(asked, settings) | given.recorded)
    chosen = method_recipe_for(settings, given)
    recipe, options = chosen.recipe, chosen.options
    variant = table.variant(settings.method, settings.semantics)
    shared = inputs is not None
    inputs = inputs or resolve_inputs(settings, settings.gold)
    if not recipe.lora_rank:
        inputs = replace(inputs, shard=False)  # the training shares every weight out by itself
    curve.check(settings, inputs, recipe)
    plan = plan_of(settings, options, inputs)
    rows = plan.forget, plan.retain
    if not shared:
        check_pictures(inputs, [*rows[0], *rows[1]])
        check_gold_files(inputs)
    sketch = inputs.without_weights(inputs.model)
    sketch.check_layer(getattr(options, "layer", None))
    trained_layers = variant.targets(options) if variant.targets else None
    adapted = prepare(sketch, recipe, settings.seed, trained_layers)
    mask = unlearning.label_mask(sketch.family.name, variant, settings.mask)
    record = training_record(
        "unlearn",
        settings,
        inputs,
        chosen.name,
        recipe,
        given,
        sketch,
        adapted,
        chosen.tuned_recipe,
    )
    record["label_mask"] = mask
    record["options"] = with_sources(
        options, set(given.options), chosen.tuned_options, given.recorded_options
    )
    name = f"{settings.method}-{settings.semantics}-{settings.modality}-seed{settings.seed}"
    name += "-sequence" * bool(settings.sequence)
    return ResolvedUnlearn(
        inputs=inputs,
        recipe=recipe,
        record=record,
        out=run_directory.choose(
            settings.out, name, record, resume, curve.changeable(settings), by_option
        ),
        resume=resume,
        guards=(),
        settings=settings,
        variant=variant,
        options=options,
        rows=rows,
        mask=mask,
        trained_layers=trained_layers,
        adapted=bool(adapted),
    )


@run_directory.alone_in_its_directory
def unlearn(
    run: ResolvedUnlearn,
    known: dict[str, Logs] | None = None,
    fresh: bool = False,
    shared: Kept | None = None,
) -> Summary:
    """Do the run and write its directory.

    known   logs of base and gold from a run with the same models and data
    fresh   evaluate base and gold although their logs are kept, see evaluated.py
    shared  the frozen model's results, kept for several runs
    """
    inputs, settings, out = run.inputs, run.settings, run.out
    started = time.monotonic()
    logs = dict(known or reused(inputs, base_and_gold(inputs), fresh))
    # Gold is evaluated before the base is loaded: two large models may not fit in memory.
    if inputs.gold:
        logs["gold"] = completed(inputs, inputs.gold, "gold", out, logs["gold"])
    vlm = load_model(inputs, inputs.model)
    logs["base"] = completed(inputs, inputs.model, "base", out, logs["base"], vlm)
    prepare(vlm, run.recipe, settings.seed, run.trained_layers)
    evaluate_seconds = time.monotonic() - started
    started = time.monotonic()
    training = unlearning.Unlearning(
        method=settings.method,
        semantics=settings.semantics,
        options=run.options,
        recipe=run.recipe,
        rows=run.rows,
        phrases=inputs.phrases,
        seed=settings.seed,
        mask=run.mask,
        out=out,
        resume=run.resume,
        saving=read_saving(settings.save_every, settings.keep_checkpoints),
        guards=run.guards,
        kept=shared or kept_results(settings, inputs, out),
    )
    records = curve.unlearn_records(inputs, settings, run.rows)
    points = curve.make_curve(inputs, settings, records, logs, out)
    steps = unlearning.unlearn(vlm, training, points)
    if shared is None:
        remove_results(out)
    seconds_between = points.seconds if points else 0.0
    train_seconds = time.monotonic() - started - seconds_between
    evaluate_seconds += seconds_between
    started = time.monotonic()
    if run.adapted:
        vlm.save_adapter(out / "adapter")
        merge_where_exact(vlm)
    else:
        vlm.save(out / "model")
        write_history(
            out / "model",
            read_history(inputs.model),
            command=settings.method,
            recipe=run.record["recipe"],
            split=f"forget {settings.forget}, {settings.modality}",
            seed=settings.seed,
            rows=[*run.rows[0], *run.rows[1]],
        )
    logs["unlearned"] = evaluate_model(inputs, vlm, "unlearned", out)
    evaluate_seconds += time.monotonic() - started
    summary: Summary = {
        "method": settings.method,
        "semantics": settings.semantics,
        "modality": settings.modality,
        "seed": settings.seed,
        "impl": inputs.impl,
        "recipe": run.record["recipe"],
        "lr": run.recipe.lr,
        "epochs": run.recipe.epochs,
        "options": changed_options(run.options),
        "trained": trained_parts(run.record),
        "steps": steps,
        "seconds": {"train": round(train_seconds, 2), "evaluate": round(evaluate_seconds, 2)},
        **curve.summarised(points, settings, logs),
    }
    summary |= not_asked(inputs) | all_guards(run, logs, settings.modality)
    result = write_results(out, logs, summary, inputs.metrics, inputs.gold)
    if distributed.is_first():
        report.of_run(out, inputs.metrics)
    return result


def changed_options(options: Any) -> dict[str, Any]:
    """{name: value} of the options of a variant whose value is not the definition's default."""
    found = {each.name: (getattr(options, each.name), each.default) for each in fields(options)}
    return {name: value for name, (value, default) in found.items() if value != default}
