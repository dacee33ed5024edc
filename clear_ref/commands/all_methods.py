"""all: every method from the same start, one leaderboard."""

import dataclasses

from clear_ref.common import run_directory
from clear_ref.common.devices import device_of, dtype_of
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import read_json, write_json
from clear_ref.common.processes import map_in_processes, process_count
from clear_ref.common.progress import Progress
from clear_ref.common.settings import with_sources
from clear_ref.evaluation.metrics import score
from clear_ref.loop import unlearn as unlearning
from clear_ref.loop.unlearn import MODALITIES
from clear_ref.losses.implementation import choose_implementation
from clear_ref.methods import table
from clear_ref.mini import directories
from clear_ref.model.families import sees_pictures
from clear_ref.model.vlm import load_without_weights

from . import report as report_page
from .experiment import unlearn
from .model_logs import Result, drop_kept, evaluation_logs
from .resolve import check, check_gold, check_rows, inputs, options_for, recipe_for


def run_all(
    s,
    modalities: list[str],
    seeds: list[int],
    recipe_given: dict,
    given: set,
    report,
    resume: bool = False,
) -> Result:
    """Every method, in each modality and with each seed; base and gold are evaluated once. `report` hears of each finished run.

    resume: what `s.out` holds of finished runs and finished parts of runs is taken as it is.
    On the CPU, as many runs at a time as torch has threads. Each gets its directory below out; the leaderboard goes to
    out/leaderboard.json, and with report.of_all to report.html, CSV, LaTeX and Markdown. A run that fails leaves a gap, the
    others go on.
    raises  RunFailed at the end, naming the runs that failed
    """
    check(s)
    if len(set(seeds)) < len(seeds):
        raise UserError(
            f"--seeds {','.join(map(str, seeds))}: a seed stands there twice; name each once"
        )
    for modality in modalities:
        if modality not in MODALITIES:
            raise UserError(
                f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}, or each"
            )
    base, gold, data = (
        directories.model_directory(s.model),
        directories.gold_directory(s.gold, s.model),
        directories.data_directory(s.data),
    )
    check_gold(base, gold)
    recipe_name, recipe = recipe_for(s.recipe, s.model, "unlearn", recipe_given)
    sketch, pictures = load_without_weights(base, s.dtype, s.template), sees_pictures(base)
    for method in table.METHODS:
        unlearning.label_mask(sketch.family.name, table.variant(method, s.semantics), s.mask)
        sketch.check_layer(
            getattr(options_for(method, s.semantics, recipe_name, seeds[0], {})[0], "layer", None)
        )
    rows = [
        row
        for modality in modalities
        for split in unlearning.split_rows(data, modality, s.forget, pictures, s.retain_modality)
        for row in split
    ]
    check_rows(data, s, pictures, rows)
    if gold:
        load_without_weights(gold, s.dtype, s.template)
    every = {"modality": ", ".join(modalities), "seed": ", ".join(map(str, seeds)), "method": "all"}
    impl = choose_implementation("auto", device_of(s.device), dtype_of(s.dtype))
    record = {
        "format": "clear_ref.run/1",
        "command": "all",
        "impl": impl,
        "recipe": recipe_name,
        "inputs": inputs(data, base, gold),
        "settings": with_sources(s, given)
        | with_sources(recipe, set(recipe_given))
        | {name: {"value": value, "source": "command line"} for name, value in every.items()},
        "versions": run_directory.versions(),
    }
    out = run_directory.choose(s.out, f"all-{s.semantics}", record, resume, changeable={"out"})
    write_json(out / run_directory.SETTINGS_FILE, record)
    logs = {"base": evaluation_logs(base, s, "base", out=out)}
    if gold:
        logs["gold"] = evaluation_logs(gold, s, "gold", out=out)
    runs = [
        {"method": method, "modality": modality, "seed": seed}
        for modality in modalities
        for method in table.METHODS
        for seed in seeds
    ]
    n_processes = process_count(device_of(s.device))
    bar, quiet = Progress("all methods", len(runs[::n_processes]), "run"), Progress.quiet
    given = given | {"method", "modality", "seed", "out"}

    def compute(run):
        name = f"{run['method']}-{s.semantics}-{run['modality']}-seed{run['seed']}"
        own, begun = out / name, (out / name / run_directory.SETTINGS_FILE).exists()
        try:
            if (own / "report.html").exists():  # what a run writes last
                found = read_json(own / "metrics.json")
            else:
                found = unlearn(
                    dataclasses.replace(s, **run, out=str(own)),
                    recipe_given,
                    {},
                    given,
                    begun,
                    logs,
                ).summary
        except RunFailed as error:
            return {"failed": f"{name}: {error}"}
        row = {
            **run,
            "metrics": found["models"]["unlearned"],
            "seconds": found["seconds"],
            "steps": found["steps"],
        }
        report(row)
        bar.step(note=name)
        return row

    Progress.quiet = True  # one line for all of them
    try:
        found = map_in_processes(compute, runs, n_processes)
    finally:
        Progress.quiet = quiet
        bar.close()
    rows, failed = (
        [row for row in found if "metrics" in row],
        [row["failed"] for row in found if "failed" in row],
    )
    if not rows:
        raise RunFailed(f"all of {len(failed)} runs: {failed[0]}")
    models = {name: score(log, logs.get("gold"), s.metrics) for name, log in logs.items()}
    summary = {
        "semantics": s.semantics,
        "seeds": seeds,
        "impl": impl,
        "models": models,
        "runs": rows,
        "failed": failed,
        "definitions": models["base"]["definitions"],
        "out": str(out),
    }
    write_json(out / "leaderboard.json", summary)
    drop_kept(out)
    report_page.of_all(out, s.metrics)
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(failed) + len(rows)} runs, first {failed[0]}; the others are in {out}"
        )
    return Result(models, out, summary)
