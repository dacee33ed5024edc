"""all: every method from the same start, one leaderboard."""

import dataclasses
from pathlib import Path

import torch

from . import reporting, rundir, world
from .errors import RunFailed, UserError
from .evaluation.metrics import score
from .experiment import Result, check, check_gold, evaluation_logs, options_for, recipe_for, unlearn
from .files import write_json
from .forked import share
from .losses.native import implementation
from .loop import unlearn as unlearning
from .loop.unlearn import MODALITIES
from .methods import table
from .model.vlm import load
from .model.weights import dtype_of
from .progress import Progress


def run_all(s, modalities: list[str], seeds: list[int], recipe_given: dict, given: set, report) -> Result:
    """Every method, in each modality and with each seed; base and gold are evaluated once. `report` hears of each finished run.

    On the CPU, as many runs at a time as torch has threads. Each gets its directory below out; the leaderboard goes to
    out/leaderboard.json, and with reporting.of_all to report.html, CSV, LaTeX and Markdown. A run that fails leaves a gap, the
    others go on.
    raises  RunFailed at the end, naming the runs that failed
    """
    check(s)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))}: a seed stands there twice; name each once")
    for modality in modalities:
        if modality not in MODALITIES:
            raise UserError(f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}, or each")
    base, gold = world.model_directory(s.model), world.gold_directory(s.gold, s.model)
    check_gold(base, gold)
    recipe_name, _ = recipe_for(s.recipe, s.model, "unlearn", recipe_given)
    vlm = load(base, s.dtype, s.device, s.template)
    for method in table.METHODS:
        unlearning.label_mask(vlm.family.name, table.variant(method, s.semantics), s.mask)
        vlm.check_layer(getattr(options_for(method, s.semantics, recipe_name, seeds[0], {})[0], "layer", None))
    out = Path(s.out) if s.out else rundir.free_directory(f"all-{s.semantics}")
    rundir.check_empty(out, "--out")
    logs = {"base": evaluation_logs(base, s, "base")}
    if gold:
        logs["gold"] = evaluation_logs(gold, s, "gold")
    runs = [{"method": method, "modality": modality, "seed": seed}
            for modality in modalities for method in table.METHODS for seed in seeds]
    n_processes = torch.get_num_threads() if vlm.device.type == "cpu" else 1
    bar, quiet = Progress("all methods", len(runs[::n_processes]), "run"), Progress.quiet
    given = given | {"method", "modality", "seed", "out"}

    def compute(run):
        name = f"{run['method']}-{s.semantics}-{run['modality']}-seed{run['seed']}"
        try:
            result = unlearn(dataclasses.replace(s, **run, out=str(out / name)), recipe_given, {}, given, evaluated=logs)
        except RunFailed as error:
            return {"failed": f"{name}: {error}"}
        row = {**run, "metrics": result.metrics["unlearned"], "seconds": result.summary["seconds"],
               "steps": result.summary["steps"]}
        report(row)
        bar.step(note=name)
        return row

    Progress.quiet = True  # one line for all of them
    try:
        found = share(compute, runs, n_processes)
    finally:
        Progress.quiet = quiet
        bar.close()
    rows, failed = [row for row in found if "metrics" in row], [row["failed"] for row in found if "failed" in row]
    if not rows:
        raise RunFailed(f"all of {len(failed)} runs: {failed[0]}")
    models = {name: score(log, logs.get("gold"), s.metrics) for name, log in logs.items()}
    impl = implementation("auto", s.device, dtype_of(s.dtype))
    summary = {"semantics": s.semantics, "seeds": seeds, "impl": impl, "models": models, "runs": rows, "failed": failed,
               "definitions": models["base"]["definitions"], "out": str(out)}
    write_json(out / "leaderboard.json", summary)
    reporting.of_all(out, s.metrics)
    if failed:
        raise RunFailed(f"{len(failed)} of {len(failed) + len(rows)} runs, first {failed[0]}; the others are in {out}")
    return Result(models, out, summary)
