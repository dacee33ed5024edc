"""Entries of the fuzz for what a resumed or a later run reads back: logs, groups, summaries.

`ENTRIES` are these and those of fuzz_entries.py.
"""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from clear_ref.audit import models
from clear_ref.audit.members import Member
from clear_ref.audit.numbers import numbers_of
from clear_ref.commands import evaluated, finished, many_runs, sweep
from clear_ref.data.prompts import read_phrases
from clear_ref.evaluation import evaluate, logs
from clear_ref.evaluation.evaluate import EvaluationSettings
from clear_ref.evaluation.kept_files import write_kept
from clear_ref.evaluation.leakage import Asked
from clear_ref.evaluation.membership_scores import score_names
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.mini.directories import WORLD
from clear_ref.report import terminal
from tests.helpers import fuzz_entries, made_runs
from tests.helpers.fuzz_entries import Entry, both, command
from tests.helpers.fuzz_folders import write_json

OF = {"format": evaluated.FORMAT, "model": {"model.safetensors": "0" * 64}}
TASKS = tuple(task for task in tasks(10, 64) if task.name in ("eval_log", "eval_log_forget"))
[TASK] = [task for task in TASKS if task.name == "eval_log_forget"]
RECORDS = items(TASK, WORLD, read_phrases(WORLD), 2)
SETTINGS = EvaluationSettings(limit=2)


def write_kept_logs(folder: Path) -> None:
    """kept/: key.json and a log of each task, as evaluated.py keeps them."""
    write_json_in(folder / "kept" / evaluated.KEY_FILE, OF)
    found = made_runs.logs(made_runs.BASE, only=[task.name for task in TASKS])
    for task in TASKS:
        content = {"task": asdict(task), "sha256": "", "log": found[task.name]}
        write_json_in(folder / "kept" / evaluated._file_name(task), content)


def write_json_in(path: Path, value: object) -> None:
    """Write JSON into a directory that may be new."""
    path.parent.mkdir(exist_ok=True)
    write_json(path, value)


def read_kept_logs(folder: Path) -> None:
    """The hash of each log is made to fit: it is not what refuses a log here."""
    for task in TASKS:
        path = folder / "kept" / evaluated._file_name(task)
        try:
            content = json.loads(path.read_bytes())
            text = json.dumps(content["log"], ensure_ascii=False).encode("utf-8")
            content["sha256"] = hashlib.sha256(text).hexdigest()
            text = json.dumps(content)
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        path.write_text(text)
    score(evaluated._read(folder / "kept", OF, TASKS), None)


def write_groups(folder: Path) -> None:
    """groups/: a group of two records that an evaluation has kept."""
    known = made_runs.log(TASK.name, 0.5, lambda i: f"says {i}", 2)
    row = {"gt_loss": 2.0, "num_token_gt": 2, "paraphrased_loss": 2.0, "num_token_paraphrased": 2}
    row |= {"perturb_loss": [2.0], "num_token_perturb": [2], "truth_ratio": 1.0}
    row |= {"rouge1_recall": 0.5}
    row |= {"candidates": {"answer": "a", "paraphrased": "b", "perturbed": ["c"]}}
    columns = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall")
    records = []
    for index in ("0", "1"):
        more = {name: known[name][index] for name in (*columns, "generated_text")}
        records.append(row | more)
    of = evaluate._description(TASK, RECORDS, SETTINGS)
    write_kept(
        evaluate._group_file(folder / "groups", TASK, RECORDS), {"of": of, "records": records}
    )


def read_groups(folder: Path) -> None:
    """A log of the kept group, scored. The hash is made to fit: it is not what refuses a group."""
    path = evaluate._group_file(folder / "groups", TASK, RECORDS)
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        write_kept(path, json.loads(path.read_bytes())["content"])
    found = evaluate._read_group(folder / "groups", TASK, RECORDS, SETTINGS)
    if found is not None:
        log: dict = evaluate._header(TASK, Asked([]))
        for record, columns in zip(RECORDS, found, strict=True):
            for column, value in columns.items():
                log.setdefault(column, {})[str(record.index)] = value
        score({TASK.name: log}, None)  # type: ignore[dict-item]


# Of an audit: a model of which one task and the scores of two records are measured.
MEMBER = Member("with", 1)
COMPARED = {"captions": {"forget": [None], "holdout": [None]}}


def audit_of(folder: Path) -> SimpleNamespace:
    """What of an audit is needed to read a model back."""
    settings = SimpleNamespace(gradnorm=True)
    plan = SimpleNamespace(
        compared=COMPARED, settings=settings, directory=WORLD, phrases=read_phrases(WORLD)
    )
    return SimpleNamespace(
        directory=lambda member: folder / member.name,
        robustness=plan,
        evaluation=SETTINGS,
        tasks=(TASK,),
        conditions_of=lambda member: [models.TRAINED],
    )


def write_measured(folder: Path) -> None:
    """with-seed1/: the log and the scores of a model, as an audit writes them."""
    own = folder / MEMBER.name
    texts = {"answer": "a", "paraphrased": "b", "perturbed": ["c"]}
    columns = {"gt_loss": 2.0, "num_token_gt": 2, "avg_gt_loss": 1.0}
    columns |= {"paraphrased_loss": 2.0, "num_token_paraphrased": 2, "avg_paraphrased_loss": 1.0}
    columns |= {"perturb_loss": [2.0], "num_token_perturb": [2], "average_perturb_loss": [1.0]}
    columns |= {"truth_ratio": 1.0, "rouge1_recall": 1.0, "rougeL_recall": 1.0}
    columns |= {"generated_text": ["q", "a", "a"], "candidates": texts}
    log: dict = evaluate._header(TASK, Asked([]))
    for column, value in columns.items():
        log[column] = {str(record.index): value for record in RECORDS}
    for path in (own / "logs", models.logs_directory(own, models.TRAINED), own / "scores"):
        path.mkdir(parents=True, exist_ok=True)
    write_json(models.logs_directory(own, models.TRAINED) / f"{TASK.name}.json", log)
    parts = {part: {"0": 1.0} for part in COMPARED["captions"]}
    scores = {"captions": dict.fromkeys(score_names(True), parts)}
    content = {"format": models.FORMAT, "scores": scores}
    write_json(models.scores_file(own, models.TRAINED), content)


def read_measured(folder: Path) -> None:
    """What the table of an audit needs of the model."""
    audit = audit_of(folder)
    models.check_measured(audit, MEMBER)  # type: ignore[arg-type]
    logs_of = models.read_logs(audit, MEMBER, models.TRAINED)  # type: ignore[arg-type]
    scores = models.read_scores(audit, MEMBER, models.TRAINED)  # type: ignore[arg-type]
    numbers_of(logs_of, logs_of, scores, scores)


def write_finished(folder: Path) -> None:
    """run/: a finished run of `all` or `sweep`."""
    made_runs.write(folder / "run")
    scores = score(logs.read(folder / "run").tasks, None)
    summary = {"models": {"unlearned": scores}, "seconds": {"train": 1.5, "evaluate": 2.0}}
    summary["intervals"] = {"unlearned": {"paper": {"forget": [0.1, 0.4], "retain": [0.5, 0.6]}}}
    made_runs.change(folder / "run" / "metrics.json", lambda kept: kept.update(summary))
    (folder / "run" / "report.html").touch()


def read_finished(folder: Path) -> None:
    """What `all` and `sweep` read of a run that they need not repeat."""
    run = SimpleNamespace(
        out=folder / "run", settings=SimpleNamespace(method="scrub", modality="both", seed=0)
    )
    line = many_runs.line_of(run, finished.finished_summary(run.out))  # type: ignore[arg-type]
    terminal.print_finished_run(line)
    words = {"seeds": [0], "semantics": "paper", "impl": "torch", "out": "run"}
    words |= {"models": {}, "intervals": {}}
    terminal.all_methods(words | {"runs": [line]})
    like = {"base": made_runs.logs(made_runs.BASE)}
    sweep.scores_of(finished.logs_in(folder / "run", like), None, 0)


def write_scored(folder: Path) -> None:
    """run/: a run without what `score` would contradict."""
    made_runs.write(folder / "run")
    for log in (folder / "run" / "logs").glob("*.json"):
        content = json.loads(log.read_bytes())
        del content["rougeL_recall"]
        write_json(log, content)
    shutil.rmtree(folder / "run" / "logs" / "gold", ignore_errors=True)


FINISHED = ("run/metrics.json", "run/logs/eval_log_forget.json", "run/logs/eval_log.json")
RESUMED: dict[str, Entry] = {
    "kept logs": Entry(
        write_kept_logs,
        both(*(f"kept/{evaluated._file_name(task)}" for task in TASKS), "kept/key.json"),
        read_kept_logs,
        60,
    ),
    "kept groups": Entry(
        write_groups, both(f"groups/{TASK.name}-{RECORDS[0].index}.json"), read_groups, 60
    ),
    "audit": Entry(
        write_measured,
        both(f"with-seed1/logs/trained/{TASK.name}.json", "with-seed1/scores/trained.json"),
        read_measured,
        60,
    ),
    "finished run": Entry(write_finished, both(*FINISHED), read_finished, 60),
    "scored run": Entry(
        write_scored,
        both("run/metrics.json", "run/settings.json"),
        partial(command("score", "FOLDER/run/logs")),
        60,
    ),
}
ENTRIES: dict[str, Entry] = fuzz_entries.ENTRIES | RESUMED
