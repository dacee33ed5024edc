"""all: every method from the same start, one leaderboard."""

import dataclasses
from pathlib import Path

from . import rundir, world
from .errors import RunFailed, UserError
from .experiment import Result, check, evaluation_logs, options_for, recipe_for, unlearn
from .files import write_json, write_text
from .loop.unlearn import MODALITIES
from .methods import table
from .model.vlm import load
from .report.page import page


def run_all(s, modalities: list[str], seeds: list[int], recipe_given: dict, given: set, report) -> Result:
    """Every method, in each modality and with each seed; base and gold are evaluated once. `report` hears of each finished run.

    Each run gets its directory below out; the leaderboard goes to out/leaderboard.json and out/report.html. A run that fails
    leaves a gap, the others go on.
    raises  RunFailed at the end, naming the runs that failed
    """
    check(s)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))}: a seed stands there twice; name each once")
    for modality in modalities:
        if modality not in MODALITIES:
            raise UserError(f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}, or each")
    base, gold = world.model_directory(s.model), world.gold_directory(s.gold, s.model)
    recipe_name, _ = recipe_for(s.recipe, s.model, "unlearn", recipe_given)
    vlm = load(base, s.dtype, s.device)
    for method in table.METHODS:
        table.variant(method, s.semantics)
        vlm.check_layer(getattr(options_for(method, recipe_name, seeds[0], {})[0], "layer", None))
    out = Path(s.out) if s.out else rundir.free_directory(f"all-{s.semantics}")
    rundir.check_empty(out, "--out")
    logs = {"base": evaluation_logs(base, s, "base")}
    if gold:
        logs["gold"] = evaluation_logs(gold, s, "gold")
    rows, failed, metrics, impl = [], [], {}, None
    given = given | {"method", "modality", "seed", "out"}
    for modality in modalities:
        for method in table.METHODS:
            for seed in seeds:
                name = f"{method}-{s.semantics}-{modality}-seed{seed}"
                one = dataclasses.replace(s, method=method, modality=modality, seed=seed, out=str(out / name))
                try:
                    result = unlearn(one, recipe_given, {}, given, evaluated=logs)
                except RunFailed as error:
                    failed.append(f"{name}: {error}")
                    continue
                metrics, impl = result.metrics, result.summary["impl"]
                rows.append({"method": method, "modality": modality, "seed": seed, "metrics": metrics["unlearned"],
                             "seconds": result.summary["seconds"], "steps": result.summary["steps"]})
                report(rows[-1])
    if not rows:
        raise RunFailed(f"all of {len(failed)} runs: {failed[0]}")
    models = {name: metrics[name] for name in logs}
    summary = {"semantics": s.semantics, "seeds": seeds, "impl": impl, "models": models, "runs": rows, "failed": failed,
               "definitions": metrics["base"]["definitions"], "out": str(out)}
    write_json(out / "leaderboard.json", summary)
    first = {f"{row['method']} {row['modality']}": row["metrics"] for row in rows if row["seed"] == seeds[0]}
    write_text(out / "report.html", page({"method": "all methods", "semantics": s.semantics, "seed": seeds[0],
                                          "modality": ", ".join(modalities), "impl": impl, "models": models | first}))
    if failed:
        raise RunFailed(f"{len(failed)} of {len(failed) + len(rows)} runs, first {failed[0]}; the others are in {out}")
    return Result(models, out, summary)
