"""What the commands do: unlearn and evaluate one method or all, finetune, evaluate, rebuild the embedded world."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from . import rundir, settings as settings_of, world
from .data.images import open_image
from .data.prompts import phrase_files, phrases
from .data.records import read_rows
from .errors import UserError
from .evaluation import robustness
from .evaluation.definitions import check_set
from .evaluation.evaluate import run_tasks
from .evaluation.metrics import score
from .evaluation.tasks import Task, tasks, text_tasks
from .files import write_json, write_text
from .losses.native import description, implementation
from .loop import unlearn as unlearning, world as building
from .loop.plan import FinetunePlan, UnlearnPlan
from .methods import table
from .model import lora
from .model.families import sees_pictures
from .model.vlm import load
from .model.weights import dtype_of
from .progress import Progress
from .report import examples
from .report.page import page


@dataclass(frozen=True)
class Result:
    """What a command found: metrics by model, where it was written, and what --json prints of it."""
    metrics: dict[str, dict]
    out: Path
    summary: dict


def recipe_for(chosen: str, model: str, purpose: str, given: dict):
    """The recipe (mini for the embedded world, paper otherwise, unless named), with the values given on the command line."""
    name = chosen or ("mini" if model == "mini" else "paper")
    if name not in settings_of.RECIPES:
        raise UserError(f"--recipe is {name!r}; expected one of {', '.join(settings_of.RECIPES)}")
    kind = settings_of.RECIPES[name][purpose]
    recipe = kind(**{key: settings_of.convert(kind, key, value) for key, value in given.items()})
    settings_of.check_recipe(recipe)
    return name, recipe


def check(s) -> None:
    """UserError for a value of the common settings that nothing can run with."""
    if s.forget not in (1, 5, 10):
        raise UserError(f"--forget is {s.forget}; expected 1, 5 or 10")
    if s.limit < 0 or s.max_new_tokens < 4:
        raise UserError(f"--limit is {s.limit} and --max-new-tokens {s.max_new_tokens}; expected 0 or more, and 4 or more")
    check_set(s.metrics)


def check_gold(model: Path, gold: Path | None) -> None:
    """UserError if a model would be its own gold: Forget Quality is then 1 whatever the model is."""
    if gold and gold.resolve() == model.resolve():
        raise UserError(f"--gold {gold}: is the model itself; expected another one, which never saw the forget set")


def chosen_tasks(data: Path, s, pictures: bool) -> list[Task]:
    """The tasks that the model is evaluated on; without pictures, those of text alone."""
    return tasks(s.forget, s.max_new_tokens) if pictures else text_tasks(s.forget, s.max_new_tokens, data)


def check_rows(data: Path, s, pictures: bool, training_rows=()) -> None:
    """UserError for a row or picture that is wrong, before anything is trained or written: every picture is decoded once."""
    rows = [*training_rows, *(row for task in chosen_tasks(data, s, pictures) for row in read_rows(data, task.config))]
    pictures = {row.image: row.where for row in rows if row.image is not None}
    bar = Progress("check pictures", len(pictures), "picture")
    for path, where in pictures.items():
        open_image(path, where)
        bar.step()
    bar.close()


def inputs(data: Path, *models: Path | str | None) -> dict[str, str]:
    """SHA-256 of everything a run reads: each model's files, rows and phrases of the data, and one for all its pictures."""
    files = [path for model in models if model for path in sorted(Path(model).iterdir())
             if path.suffix in (".json", ".jinja", ".safetensors")]
    pictures = sorted(path for path in data.glob("**/*") if path.is_file() and path.suffix not in (".jsonl", ".json", ".txt"))
    return rundir.hashes([*files, *sorted(data.glob("**/rows.jsonl")), *phrase_files(data)]) | {
        f"{data}, pictures": rundir.hash_of_all(data, pictures)}


def model_of(directory, s, adapter: str = ""):
    """The model in a directory, with adapters if they are named."""
    vlm = load(directory, s.dtype, s.device, s.template)
    if adapter:
        vlm.load_adapter(adapter)
        merge_where_exact(vlm)
    return vlm


def evaluation_logs(directory, s, what: str, adapter: str = "") -> dict[str, dict]:
    """The logs of the model in a directory."""
    return logs_of(model_of(directory, s, adapter), s, what)


def merge_where_exact(vlm) -> None:
    """Merge the adapters for speed, unless the weights are too coarse to hold the sum: then they stay beside."""
    if vlm.dtype not in (torch.bfloat16, torch.float16):
        vlm.merge_lora()


def logs_of(vlm, s, what: str, chosen: list[Task] | None = None) -> dict[str, dict]:
    """The logs of a model at hand, on these tasks or on all that it is evaluated on."""
    data = world.data_directory(s.data)
    chosen = chosen or chosen_tasks(data, s, vlm.family.sees_pictures)
    return run_tasks(vlm, data, phrases(data), chosen, s.limit or None, f"evaluate {what}")


def options_for(method: str, semantics: str, recipe_name: str, seed: int, given: dict):
    """The variant's options: its own defaults, the embedded world's where they differ, the run's seed, what was given."""
    known = settings_of.names(table.variant(method, semantics).options)
    defaults = settings_of.MINI_OPTIONS.get(method, {}) if recipe_name == "mini" else {}
    defaults = {name: value for name, value in {**defaults, "seed": seed}.items() if name in known}
    return table.make_options(method, {**defaults, **given}, semantics), set(defaults) - {"seed"}


def unlearn(s, recipe_given: dict, options_given: dict, given: set, resume: bool = False,
            evaluated: dict | None = None) -> Result:
    """Unlearn with one method; evaluate base, gold (where there is one) and the unlearned model; write the run directory.

    Nothing is written before everything that is read has been read, and base and gold have been evaluated.
    evaluated  logs of base and gold from an earlier call with the same models and data
    """
    check(s)
    base, gold, data = world.model_directory(s.model), world.gold_directory(s.gold, s.model), world.data_directory(s.data)
    check_gold(base, gold)
    recipe_name, recipe = recipe_for(s.recipe, s.model, "unlearn", recipe_given)
    chosen = table.variant(s.method, s.semantics)
    options, defaults = options_for(s.method, s.semantics, recipe_name, s.seed, options_given)
    batches = tuple(table.needs(s.method, s.semantics, options))
    pictures = sees_pictures(base)
    rows, own = unlearning.split_rows(data, s.modality, s.forget, pictures), phrases(data)
    UnlearnPlan(*rows, batches, own, s.seed, chosen.views)
    check_rows(data, s, pictures, [*rows[0], *rows[1]])
    vlm = load(base, s.dtype, s.device, s.template)
    vlm.check_layer(getattr(options, "layer", None))
    mask = unlearning.label_mask(vlm.family.name, chosen, s.mask)
    adapted = unlearning.prepare(vlm, recipe, s.seed, chosen.targets and chosen.targets(options))
    record = describe("unlearn", s, recipe, recipe_name, recipe_given, given, vlm, adapted, inputs(data, base, gold))
    record["label_mask"] = mask
    record["options"] = settings_of.with_sources(options, set(options_given), defaults)
    out = rundir.choose(s.out, f"{s.method}-{s.semantics}-{s.modality}-seed{s.seed}", record, resume)
    started, logs = time.monotonic(), dict(evaluated or {})
    if "base" not in logs:
        with vlm.adapters_off():
            logs["base"] = logs_of(vlm, s, "base")
    if gold and "gold" not in logs:
        logs["gold"] = evaluation_logs(gold, s, "gold")
    evaluating = time.monotonic() - started
    write_json(out / rundir.SETTINGS, record)
    started = time.monotonic()
    steps = unlearning.unlearn(vlm, s.method, s.semantics, options, recipe, rows, own, s.seed, out, resume, mask)
    trained = time.monotonic()
    if adapted:
        vlm.save_adapter(out / "adapter")
        merge_where_exact(vlm)
    else:
        vlm.save(out / "model")
    logs["unlearned"] = logs_of(vlm, s, s.method)
    evaluating += time.monotonic() - trained
    result = finish(out, logs, {
        "method": s.method, "semantics": s.semantics, "modality": s.modality, "seed": s.seed, "impl": record["impl"],
        "trained": trained_parts(record), "steps": steps,
        "seconds": {"train": round(trained - started, 2), "evaluate": round(evaluating, 2)}}, s.metrics)
    write_text(out / "report.html", page(examples.run_for_page(result.summary, record, out, logs, data)))
    return result


def describe(command: str, s, recipe, recipe_name: str, recipe_given: dict, given: set, vlm, adapted: list[str],
             read: dict) -> dict:
    """What settings.json holds of a training run: every value with its source, what is trained, hashes, versions."""
    return {
        "format": "clear_ref.run/1", "command": command, "impl": implementation("auto", vlm.device, vlm.dtype),
        "kernel": description(), "recipe": recipe_name,
        "settings": settings_of.with_sources(s, given) | settings_of.with_sources(recipe, set(recipe_given)),
        "adapted_layers": adapted, "trained": lora.manifest(vlm.model),
        "inputs": read, "versions": rundir.versions()}


def trained_parts(record: dict) -> dict:
    """{"tensors", "parameters", "of", "layers"}, counts: what a run trains of how much, and on how many layers adapters are."""
    found = record["trained"]
    return {"tensors": len(found["tensors"]), "parameters": found["trainable"], "of": found["total"],
            "layers": len(record["adapted_layers"])}


def finish(out: Path, logs: dict[str, dict], summary: dict, metrics: str) -> Result:
    """Write the logs (the unlearned model's directly below logs/) and metrics.json; returns what was found."""
    models = {name: score(found, logs.get("gold"), metrics) for name, found in logs.items()}
    for name, found in logs.items():
        for task, log in found.items():
            write_json(out / "logs" / ("" if name == "unlearned" else name) / f"{task}.json", log)
    definitions = next(iter(models.values()))["definitions"]
    summary = {**summary, "models": models, "definitions": definitions, "out": str(out)}
    write_json(out / "metrics.json", summary)
    return Result(models, out, summary)


def finetune(s, recipe_given: dict, given: set, resume: bool = False) -> Result:
    """Train the model on a whole split, evaluate it and write it to OUT/model (adapters merged)."""
    check(s)
    start, data = world.model_directory(s.model), world.data_directory(s.data)
    pictures = sees_pictures(start)
    splits = {name: f"{config}+tofu" if pictures else f"tofu/{config}"
              for name, config in (("full", "full"), ("retain", f"retain{100 - s.forget}"))}
    if s.split not in splits:
        raise UserError(f"--split is {s.split!r}; expected one of {', '.join(splits)}")
    recipe_name, recipe = recipe_for(s.recipe, s.model, "finetune", recipe_given)
    plan = FinetunePlan(read_rows(data, splits[s.split]), phrases(data), s.seed)
    check_rows(data, s, pictures, plan.rows)
    vlm = load(start, s.dtype, s.device, s.template)
    adapted = unlearning.prepare(vlm, recipe, s.seed)
    record = describe("finetune", s, recipe, recipe_name, recipe_given, given, vlm, adapted, inputs(data, start))
    out = rundir.choose(s.out, f"finetune-{s.split}-seed{s.seed}", record, resume)
    write_json(out / rundir.SETTINGS, record)
    started = time.monotonic()
    steps = building.finetune(vlm, plan, recipe, s.seed, f"finetune {s.split}", out, resume)
    trained = time.monotonic()
    vlm.merge_lora()
    vlm.save(out / "model")
    return finish(out, {s.split: logs_of(vlm, s, s.split)}, {
        "command": "finetune", "split": s.split, "seed": s.seed, "impl": record["impl"], "trained": trained_parts(record),
        "steps": steps,
        "seconds": {"train": round(trained - started, 2), "evaluate": round(time.monotonic() - trained, 2)}}, s.metrics)


def evaluate(s, given: set) -> Result:
    """Logs and metrics of one model, with Forget Quality where a gold model is named; with --robustness, whether it lasts."""
    check(s)
    directory, gold, data = world.model_directory(s.model), world.gold_directory(s.gold, s.model), world.data_directory(s.data)
    if s.adapter and not Path(s.adapter).is_dir():
        raise UserError(f"--adapter {s.adapter}: no such directory; expected one with adapter_config.json")
    if not s.adapter:
        check_gold(directory, gold)
    pictures, probes = sees_pictures(directory), None
    if s.robustness:
        probes = robustness.probes(s, data, phrases(data), pictures, given)
    elif idle := sorted(given & set(settings_of.OF_ROBUSTNESS)):
        raise UserError(f"--{idle[0].replace('_', '-')} is a setting of --robustness; add that, or leave it out")
    recipe = recipe_for(s.recipe, s.model, "unlearn", {})[1]
    check_rows(data, s, pictures, probes.rows if probes else ())
    record = {"format": "clear_ref.run/1", "command": "evaluate", "kernel": description(),
              "impl": implementation("auto", s.device, dtype_of(s.dtype)),
              "settings": settings_of.with_sources(s, given), "inputs": inputs(data, directory, gold, s.adapter or None),
              "versions": rundir.versions()}
    out = rundir.choose(s.out, f"evaluate-{directory.name}", record, resume=False)
    started = time.monotonic()
    logs = {"model": evaluation_logs(directory, s, directory.name, s.adapter)}
    if gold:
        logs["gold"] = evaluation_logs(gold, s, "gold")
    write_json(out / rundir.SETTINGS, record)
    summary = {"command": "evaluate", "model": str(directory), "impl": record["impl"],
               "seconds": {"evaluate": round(time.monotonic() - started, 2)}}
    if probes:
        started = time.monotonic()
        models = {"model": lambda: model_of(directory, s, s.adapter)} | ({"gold": lambda: model_of(gold, s)} if gold else {})
        summary["robustness"] = robustness.run(probes, models, logs, chosen_tasks(data, s, pictures), s, recipe,
                                               lambda vlm, what, of: logs_of(vlm, s, what, of), out)
        summary["seconds"]["robustness"] = round(time.monotonic() - started, 2)
    return finish(out, logs, summary, s.metrics)


def mini(rebuild: str | None, seed: int) -> dict:
    """What the embedded world holds; with `rebuild`, make it again in that directory and compare it with the shipped one."""
    counts = {str(path.parent.relative_to(world.WORLD)): len(path.read_text(encoding="utf-8").splitlines())
              for path in sorted(world.WORLD.glob("**/rows.jsonl"))}
    found = {"data": str(world.WORLD), "base": str(world.BASE), "gold": str(world.GOLD), "rows": counts}
    if rebuild is None:
        return found
    target = Path(rebuild)
    rundir.check_empty(target, "--rebuild")
    started = time.monotonic()
    building.rebuild(target, settings_of.MiniPretrain(), settings_of.MiniFinetune(), seed)
    minutes = round((time.monotonic() - started) / 60, 1)
    s = settings_of.Evaluate()
    logs = {f"{kind} {name}": evaluation_logs(path / name, s, f"{kind} {name}")
            for name in ("base", "gold") for kind, path in (("shipped", world.MINI), ("rebuilt", target))}
    models = {name: score(log, logs[f"{name.split()[0]} gold"]) for name, log in logs.items()}
    return found | {"rebuilt": str(target), "minutes": minutes, "models": models,
                    "definitions": models["shipped base"]["definitions"]}
