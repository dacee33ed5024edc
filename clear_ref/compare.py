"""all: every method from the same start, one leaderboard."""

import dataclasses
from pathlib import Path

from . import rundir
from .errors import UserError
from .experiment import Result, check, evaluation_logs, unlearn
from .files import write_json, write_text
from .loop.unlearn import MODALITIES
from .methods import table
from .report.page import page
from . import world


def run_all(s, modalities: list[str], seeds: list[int], recipe_given: dict, given: set, report) -> Result:
    """Every method, in each modality and with each seed; base and gold are evaluated once. `report` hears of each finished run.

    Each run gets its directory below out; the leaderboard goes to out/leaderboard.json and out/report.html.
    """
    check(s)
    for modality in modalities:
        if modality not in MODALITIES:
            raise UserError(f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}, or each")
    gold = world.gold_directory(s.gold, s.model)
    out = Path(s.out) if s.out else rundir.free_directory(f"all-{s.semantics}")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: is not empty; choose another directory")
    logs = {"base": evaluation_logs(world.model_directory(s.model), s, "base")}
    if gold:
        logs["gold"] = evaluation_logs(gold, s, "gold")
    rows, metrics = [], {}
    for modality in modalities:
        for method in table.METHODS:
            for seed in seeds:
                one = dataclasses.replace(s, method=method, modality=modality, seed=seed,
                                          out=str(out / f"{method}-{s.semantics}-{modality}-seed{seed}"))
                result = unlearn(one, recipe_given, {}, given, evaluated=logs)
                metrics = result.metrics
                rows.append({"method": method, "modality": modality, "seed": seed, "metrics": metrics["unlearned"],
                             "seconds": result.summary["seconds"], "steps": result.summary["steps"]})
                report(rows[-1])
    summary = {"semantics": s.semantics, "seeds": seeds, "impl": result.summary["impl"],
               "models": {name: metrics[name] for name in logs}, "runs": rows, "definitions": metrics["base"]["definitions"],
               "out": str(out)}
    write_json(out / "leaderboard.json", summary)
    first = {f"{row['method']} {row['modality']}": row["metrics"] for row in rows if row["seed"] == seeds[0]}
    write_text(out / "report.html", page({"method": "all methods", "semantics": s.semantics, "seed": seeds[0],
                                          "modality": ", ".join(modalities), "impl": summary["impl"],
                                          "models": summary["models"] | first}))
    return Result(summary["models"], out, summary)
