"""mini: what the embedded world holds; --rebuild makes it again from its sources."""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.evaluation.metrics import score
from clear_ref.loop.recipes import MiniFinetune, MiniPretrain
from clear_ref.mini import build_models
from clear_ref.mini.directories import BASE, GOLD, MINI, WORLD
from clear_ref.report import terminal

from .model_logs import evaluate_directory
from .output import Output
from .resolve import resolve_inputs
from .settings import Evaluate


def command(arguments: Namespace) -> Output:
    """What `mini` prints."""
    found = contents()
    if arguments.rebuild is not None:
        found |= rebuild(Path(arguments.rebuild), arguments.seed)
    return Output(found, terminal.mini)


def contents() -> dict[str, Any]:
    """{"data", "base", "gold": directories, "rows": {config: number of rows}}."""
    rows = {
        str(path.parent.relative_to(WORLD)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(WORLD.glob("**/rows.jsonl"))
    }
    return {"data": str(WORLD), "base": str(BASE), "gold": str(GOLD), "rows": rows}


def rebuild(target: Path, seed: int) -> dict[str, Any]:
    """Build the world again in `target`; returns metrics of the shipped and rebuilt models."""
    run_directory.check_empty(target, "--rebuild")
    started = time.monotonic()
    build_models.rebuild(target, MiniPretrain(), MiniFinetune(), seed)
    minutes = round((time.monotonic() - started) / 60, 1)
    inputs = resolve_inputs(Evaluate())
    logs = {}
    for name in ("base", "gold"):
        for kind, directory in (("shipped", MINI), ("rebuilt", target)):
            model = f"{kind} {name}"
            logs[model] = evaluate_directory(inputs, directory / name, model)
    models = {model: score(log, logs[f"{model.split()[0]} gold"]) for model, log in logs.items()}
    return {
        "rebuilt": str(target),
        "minutes": minutes,
        "models": models,
        "definitions": models["shipped base"]["definitions"],
    }
