"""Logs and metrics of models: load, evaluate, and write what was found into the run directory."""

import shutil
from pathlib import Path

import torch

from clear_ref.common import distributed, run_directory
from clear_ref.common.files import write_json, write_jsonl
from clear_ref.evaluation.evaluate import run_tasks
from clear_ref.evaluation.log_format import Logs
from clear_ref.evaluation.metrics import score, sets_of, versions_of
from clear_ref.evaluation.record_lines import record_lines
from clear_ref.evaluation.summary import Summary
from clear_ref.evaluation.tasks import Task
from clear_ref.loop.history import read_history
from clear_ref.model.vlm import VLM
from clear_ref.report import verdict
from clear_ref.report.record_intervals import of_sets

from .resolve import Inputs

# In a run directory: finished groups of records, while an evaluation is running.
FINISHED_GROUPS = Path(run_directory.CHECKPOINT_DIRECTORY) / "evaluation"


def load_model(inputs: Inputs, directory: Path, adapter: str = "") -> VLM:
    """The model of a directory, with the adapters of a PEFT directory if one is named."""
    vlm = inputs.load(directory, adapter)
    if adapter:
        merge_where_exact(vlm)
    return vlm


def merge_where_exact(vlm: VLM) -> None:
    """Merge the adapters for speed, unless 16-bit weights would round the sum.

    Weights that are shared out over processes stay as they are.
    """
    if vlm.dtype not in (torch.bfloat16, torch.float16) and not vlm.is_shared_out:
        vlm.merge_lora()


def evaluate_directory(
    inputs: Inputs, directory: Path, name: str, out: Path | None = None, adapter: str = ""
) -> Logs:
    """The logs of the model of a directory; see evaluate_model."""
    return evaluate_model(inputs, load_model(inputs, directory, adapter), name, out)


def evaluate_model(
    inputs: Inputs,
    vlm: VLM,
    name: str,
    out: Path | None = None,
    tasks: list[Task] | None = None,
) -> Logs:
    """{task: log} of a loaded model.

    name   the model's name in progress lines and in the run directory
    out    run directory: it keeps finished groups of records, so that a stopped evaluation resumes
    tasks  None: all tasks of the inputs
    """
    return run_tasks(
        vlm,
        inputs.data,
        inputs.phrases,
        list(tasks or inputs.tasks),
        inputs.evaluation,
        f"evaluate {name}",
        out and out / FINISHED_GROUPS / name,
    )


def write_results(
    out: Path, logs: dict[str, Logs], summary: Summary, metrics: str, gold: Path | None = None
) -> Summary:
    """Write every log, records.jsonl and metrics.json; returns what was found.

    gold  the directory of the gold model, if there is one

    Logs are in logs/MODEL/, those of the unlearned model directly in logs/. Logs of tasks that an
    earlier evaluation of this run had and this one does not are removed.
    """
    models = {name: score(found, logs.get("gold"), metrics) for name, found in logs.items()}
    for name, found in logs.items():
        folder = out / run_directory.LOGS_DIRECTORY / ("" if name == "unlearned" else name)
        for task, log in found.items():
            write_json(folder / f"{task}.json", log)
        for path in folder.glob("*.json"):
            if distributed.is_first() and path.stem not in found:
                path.unlink()
    write_jsonl(out / run_directory.RECORDS_FILE, record_lines(logs))
    definitions = next(iter(models.values()))["definitions"]
    gold_is_known = gold is None or read_history(gold)["complete"]
    complete: Summary = {
        **summary,
        "models": models,
        "notes": [
            *verdict.sentences(
                models, summary.get("lr"), gold_is_known, summary.get("modality", "")
            ),
            *summary.get("notes", ()),
        ],
        "definitions": definitions,
        "definition_versions": versions_of(metrics),
        "intervals": {
            name: of_sets(sets_of(found, metrics), logs[name], logs.get("gold"))
            for name, found in models.items()
        },
        "out": str(out),
    }
    write_json(out / run_directory.METRICS_FILE, complete)
    remove_finished_groups(out)
    return complete


def not_asked(inputs: Inputs) -> Summary:
    """{"not_asked": {task of --leakage: why records could not be asked}}; {} if all were."""
    return {"not_asked": inputs.not_asked} if inputs.not_asked else {}


def remove_finished(out: Path, name: str) -> None:
    """Remove what a run directory kept of one evaluation: its numbers are known."""
    if distributed.is_first():
        shutil.rmtree(out / FINISHED_GROUPS / name, ignore_errors=True)


def remove_finished_groups(out: Path) -> None:
    """Remove what a run directory kept for resuming an evaluation; its logs are written."""
    if not distributed.is_first():
        return
    shutil.rmtree(out / FINISHED_GROUPS, ignore_errors=True)
    folder = (out / FINISHED_GROUPS).parent
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
