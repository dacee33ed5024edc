"""What the commands do: unlearn and evaluate one method or all, finetune, evaluate, rebuild the embedded world."""

import time
from pathlib import Path

from clear_ref.common import run_directory
from clear_ref.common.devices import device_of, dtype_of
from clear_ref.common.errors import UserError
from clear_ref.common.files import write_json
from clear_ref.common.settings import with_sources
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation import robustness
from clear_ref.evaluation.metrics import score
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.plan import FinetunePlan, UnlearnPlan
from clear_ref.loop.recipes import MiniFinetune, MiniPretrain
from clear_ref.losses.implementation import choose_implementation
from clear_ref.losses.native import description
from clear_ref.methods import table
from clear_ref.mini import build_models as building
from clear_ref.mini import directories
from clear_ref.model import lora
from clear_ref.model.families import sees_pictures
from clear_ref.model.vlm import load, load_without_weights

from . import report
from .model_logs import Result, evaluation_logs, finish, logs_of, merge_where_exact, model_of
from .resolve import check, check_gold, check_rows, chosen_tasks, inputs, options_for, recipe_for
from .settings import OF_ROBUSTNESS, Evaluate


def unlearn(
    s,
    recipe_given: dict,
    options_given: dict,
    given: set,
    resume: bool = False,
    evaluated: dict | None = None,
) -> Result:
    """Unlearn with one method; evaluate base, gold (where there is one) and the unlearned model; write the run directory.

    Nothing is written before everything that is read has been checked: rows, pictures, and the models' files by their headers.
    evaluated  logs of base and gold from an earlier call with the same models and data
    """
    check(s)
    base, gold, data = (
        directories.model_directory(s.model),
        directories.gold_directory(s.gold, s.model),
        directories.data_directory(s.data),
    )
    check_gold(base, gold)
    recipe_name, recipe = recipe_for(s.recipe, s.model, "unlearn", recipe_given)
    chosen = table.variant(s.method, s.semantics)
    options, defaults = options_for(s.method, s.semantics, recipe_name, s.seed, options_given)
    batches = tuple(table.needs(s.method, s.semantics, options))
    pictures = sees_pictures(base)
    rows, own = (
        unlearning.split_rows(data, s.modality, s.forget, pictures, s.retain_modality),
        read_phrases(data),
    )
    UnlearnPlan(*rows, batches, own, s.seed, chosen.contents)
    check_rows(data, s, pictures, [*rows[0], *rows[1]])
    sketch = load_without_weights(base, s.dtype, s.template)
    sketch.check_layer(getattr(options, "layer", None))
    mask = unlearning.label_mask(sketch.family.name, chosen, s.mask)
    only = chosen.targets and chosen.targets(options)
    adapted = unlearning.prepare(sketch, recipe, s.seed, only)
    if gold and "gold" not in (evaluated or {}):
        load_without_weights(gold, s.dtype, s.template)
    record = describe(
        "unlearn",
        s,
        recipe,
        recipe_name,
        recipe_given,
        given,
        sketch,
        adapted,
        inputs(data, base, gold),
    )
    record["label_mask"] = mask
    record["options"] = with_sources(options, set(options_given), defaults)
    out = run_directory.choose(
        s.out, f"{s.method}-{s.semantics}-{s.modality}-seed{s.seed}", record, resume
    )
    started, logs = time.monotonic(), dict(evaluated or {})
    write_json(out / run_directory.SETTINGS_FILE, record)
    if gold and "gold" not in logs:  # before the base is in memory: two large models may not fit
        logs["gold"] = evaluation_logs(gold, s, "gold", out=out)
    vlm = load(base, s.dtype, s.device, s.template)
    if "base" not in logs:
        logs = {"base": logs_of(vlm, s, "base", out)} | logs
    unlearning.prepare(vlm, recipe, s.seed, only)
    evaluating = time.monotonic() - started
    started = time.monotonic()
    steps = unlearning.unlearn(
        vlm, s.method, s.semantics, options, recipe, rows, own, s.seed, out, resume, mask
    )
    trained = time.monotonic()
    if adapted:
        vlm.save_adapter(out / "adapter")
        merge_where_exact(vlm)
    else:
        vlm.save(out / "model")
    logs["unlearned"] = logs_of(vlm, s, "unlearned", out)
    evaluating += time.monotonic() - trained
    result = finish(
        out,
        logs,
        {
            "method": s.method,
            "semantics": s.semantics,
            "modality": s.modality,
            "seed": s.seed,
            "impl": record["impl"],
            "trained": trained_parts(record),
            "steps": steps,
            "seconds": {"train": round(trained - started, 2), "evaluate": round(evaluating, 2)},
        },
        s.metrics,
    )
    report.of_run(out, s.metrics)
    return result


def describe(
    command: str,
    s,
    recipe,
    recipe_name: str,
    recipe_given: dict,
    given: set,
    vlm,
    adapted: list[str],
    read: dict,
) -> dict:
    """What settings.json holds of a training run: every value with its source, what is trained, hashes, versions."""
    return {
        "format": "clear_ref.run/1",
        "command": command,
        "impl": choose_implementation("auto", device_of(s.device), vlm.dtype),
        "kernel": description(),
        "recipe": recipe_name,
        "settings": with_sources(s, given) | with_sources(recipe, set(recipe_given)),
        "adapted_layers": adapted,
        "trained": lora.manifest(vlm.model),
        "inputs": read,
        "versions": run_directory.versions(),
    }


def trained_parts(record: dict) -> dict:
    """{"tensors", "parameters", "of", "layers"}, counts: what a run trains of how much, and on how many layers adapters are."""
    found = record["trained"]
    return {
        "tensors": len(found["tensors"]),
        "parameters": found["trainable"],
        "of": found["total"],
        "layers": len(record["adapted_layers"]),
    }


def finetune(s, recipe_given: dict, given: set, resume: bool = False) -> Result:
    """Train the model on a whole split, evaluate it and write it to OUT/model (adapters merged)."""
    check(s)
    start, data = directories.model_directory(s.model), directories.data_directory(s.data)
    pictures = sees_pictures(start)
    splits = {
        name: f"{config}+tofu" if pictures else f"tofu/{config}"
        for name, config in (("full", "full"), ("retain", f"retain{100 - s.forget}"))
    }
    if s.split not in splits:
        raise UserError(f"--split is {s.split!r}; expected one of {', '.join(splits)}")
    recipe_name, recipe = recipe_for(s.recipe, s.model, "finetune", recipe_given)
    plan = FinetunePlan(read_rows(data, splits[s.split]), read_phrases(data), s.seed)
    check_rows(data, s, pictures, plan.rows)
    vlm = load(start, s.dtype, s.device, s.template)
    adapted = unlearning.prepare(vlm, recipe, s.seed)
    record = describe(
        "finetune", s, recipe, recipe_name, recipe_given, given, vlm, adapted, inputs(data, start)
    )
    out = run_directory.choose(s.out, f"finetune-{s.split}-seed{s.seed}", record, resume)
    write_json(out / run_directory.SETTINGS_FILE, record)
    started = time.monotonic()
    steps = building.finetune(vlm, plan, recipe, s.seed, f"finetune {s.split}", out, resume)
    trained = time.monotonic()
    vlm.merge_lora()
    vlm.save(out / "model")
    return finish(
        out,
        {s.split: logs_of(vlm, s, s.split, out)},
        {
            "command": "finetune",
            "split": s.split,
            "seed": s.seed,
            "impl": record["impl"],
            "trained": trained_parts(record),
            "steps": steps,
            "seconds": {
                "train": round(trained - started, 2),
                "evaluate": round(time.monotonic() - trained, 2),
            },
        },
        s.metrics,
    )


def evaluate(s, given: set, resume: bool = False) -> Result:
    """Logs and metrics of one model, with Forget Quality where a gold model is named; with --robustness, whether it lasts.

    resume: go on with what `s.out` holds.
    """
    check(s)
    directory, gold, data = (
        directories.model_directory(s.model),
        directories.gold_directory(s.gold, s.model),
        directories.data_directory(s.data),
    )
    if s.adapter and not Path(s.adapter).is_dir():
        raise UserError(
            f"--adapter {s.adapter}: no such directory; expected one with adapter_config.json"
        )
    if not s.adapter:
        check_gold(directory, gold)
    pictures, plan = sees_pictures(directory), None
    if s.robustness:
        plan = robustness.make_plan(
            robustness_settings(s, given), data, read_phrases(data), pictures
        )
    elif idle := sorted(given & set(OF_ROBUSTNESS)):
        raise UserError(
            f"--{idle[0].replace('_', '-')} is a setting of --robustness; add that, or leave it out"
        )
    recipe = recipe_for(s.recipe, s.model, "unlearn", {})[1]
    check_rows(data, s, pictures, plan.rows if plan else ())
    sketches = [
        load_without_weights(model, s.dtype, s.template) for model in (directory, gold) if model
    ]
    if s.adapter:
        sketches[0].load_adapter(s.adapter)
    record = {
        "format": "clear_ref.run/1",
        "command": "evaluate",
        "kernel": description(),
        "impl": choose_implementation("auto", s.device, dtype_of(s.dtype)),
        "settings": with_sources(s, given),
        "inputs": inputs(data, directory, gold, s.adapter or None),
        "versions": run_directory.versions(),
    }
    out = run_directory.choose(s.out, f"evaluate-{directory.name}", record, resume)
    started = time.monotonic()
    write_json(out / run_directory.SETTINGS_FILE, record)
    logs = {"model": evaluation_logs(directory, s, "model", s.adapter, out)}
    if gold:
        logs["gold"] = evaluation_logs(gold, s, "gold", out=out)
    adapter = {"adapter": s.adapter} if s.adapter else {}
    summary = {
        "command": "evaluate",
        "model": str(directory),
        **adapter,
        "impl": record["impl"],
        "seconds": {"evaluate": round(time.monotonic() - started, 2)},
    }
    if plan:
        started = time.monotonic()
        models = {"model": lambda: model_of(directory, s, s.adapter)} | (
            {"gold": lambda: model_of(gold, s)} if gold else {}
        )
        summary["robustness"] = robustness.run(
            plan,
            models,
            logs,
            chosen_tasks(data, s, pictures),
            recipe,
            lambda vlm, what, of: logs_of(vlm, s, what, None, of),
            out,
        )
        summary["seconds"]["robustness"] = round(time.monotonic() - started, 2)
    return finish(out, logs, summary, s.metrics)


def robustness_settings(s, given: set) -> robustness.RobustnessSettings:
    """The settings of `evaluate --robustness`; a held-out split that was named has to exist."""
    return robustness.RobustnessSettings(
        metrics=s.metrics,
        forget=s.forget,
        seed=s.seed,
        relearn_records=s.relearn_records,
        relearn_at=s.relearn_at,
        relearn_lr=s.relearn_lr,
        round_bits=s.round_bits,
        round_group=s.round_group,
        min_k=s.min_k,
        holdout=s.holdout,
        holdout_required="holdout" in given,
    )


def mini(rebuild: str | None, seed: int) -> dict:
    """What the embedded world holds; with `rebuild`, make it again in that directory and compare it with the shipped one."""
    counts = {
        str(path.parent.relative_to(directories.WORLD)): len(
            path.read_text(encoding="utf-8").splitlines()
        )
        for path in sorted(directories.WORLD.glob("**/rows.jsonl"))
    }
    found = {
        "data": str(directories.WORLD),
        "base": str(directories.BASE),
        "gold": str(directories.GOLD),
        "rows": counts,
    }
    if rebuild is None:
        return found
    target = Path(rebuild)
    run_directory.check_empty(target, "--rebuild")
    started = time.monotonic()
    building.rebuild(target, MiniPretrain(), MiniFinetune(), seed)
    minutes = round((time.monotonic() - started) / 60, 1)
    s = Evaluate()
    logs = {
        f"{kind} {name}": evaluation_logs(path / name, s, f"{kind} {name}")
        for name in ("base", "gold")
        for kind, path in (("shipped", directories.MINI), ("rebuilt", target))
    }
    models = {name: score(log, logs[f"{name.split()[0]} gold"]) for name, log in logs.items()}
    return found | {
        "rebuilt": str(target),
        "minutes": minutes,
        "models": models,
        "definitions": models["shipped base"]["definitions"],
    }
