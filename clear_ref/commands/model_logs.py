"""Models judged: loaded, their logs, the metrics of those, and what a command writes of them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from clear_ref.common.files import write_json
from clear_ref.data.prompts import read_phrases
from clear_ref.evaluation.evaluate import EvaluationSettings, run_tasks
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.tasks import Task
from clear_ref.mini import directories
from clear_ref.model.vlm import load

from .resolve import chosen_tasks

KEPT = (
    Path("checkpoint") / "evaluation"
)  # in a run directory: finished groups of records, while an evaluation is under way


@dataclass(frozen=True)
class Result:
    """What a command found: metrics by model, where it was written, and what --json prints of it."""

    metrics: dict[str, dict]
    out: Path
    summary: dict


def model_of(directory, s, adapter: str = ""):
    """The model in a directory, with adapters if they are named."""
    vlm = load(directory, s.dtype, s.device, s.template)
    if adapter:
        vlm.load_adapter(adapter)
        merge_where_exact(vlm)
    return vlm


def evaluation_logs(
    directory, s, what: str, adapter: str = "", out: Path | None = None
) -> Logs:
    """The logs of the model in a directory; see logs_of."""
    return logs_of(model_of(directory, s, adapter), s, what, out)


def merge_where_exact(vlm) -> None:
    """Merge the adapters for speed, unless the weights are too coarse to hold the sum: then they stay beside."""
    if vlm.dtype not in (torch.bfloat16, torch.float16):
        vlm.merge_lora()


def logs_of(
    vlm, s, what: str, out: Path | None = None, chosen: list[Task] | None = None
) -> Logs:
    """The logs of a model at hand.

    out     a run directory, which keeps what is finished until `finish` has written the logs, so that a stopped evaluation goes
            on; `what` names the model there
    chosen  tasks; None: all that it is evaluated on
    """
    data = directories.data_directory(s.data)
    chosen = chosen or chosen_tasks(data, s, vlm.family.sees_pictures)
    return run_tasks(
        vlm,
        data,
        read_phrases(data),
        chosen,
        EvaluationSettings(s.limit or None, s.eval_batch, s.plain),
        f"evaluate {what}",
        out and out / KEPT / what,
    )


def finish(out: Path, logs: dict[str, Logs], summary: dict, metrics: str) -> Result:
    """Write the logs (the unlearned model's directly below logs/) and metrics.json; returns what was found."""
    models = {name: score(found, logs.get("gold"), metrics) for name, found in logs.items()}
    for name, found in logs.items():
        folder = out / "logs" / ("" if name == "unlearned" else name)
        for task, log in found.items():
            write_json(folder / f"{task}.json", log)
        for path in folder.glob(
            "*.json"
        ):  # of tasks that an earlier evaluation of this run had and this one has not
            if path.stem not in found:
                path.unlink()
    definitions = next(iter(models.values()))["definitions"]
    summary = {**summary, "models": models, "definitions": definitions, "out": str(out)}
    write_json(out / "metrics.json", summary)
    drop_kept(out)
    return Result(models, out, summary)


def drop_kept(out: Path) -> None:
    """Remove what a run directory keeps of an evaluation under way: its logs are written."""
    shutil.rmtree(out / KEPT, ignore_errors=True)
    folder = (out / KEPT).parent
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
