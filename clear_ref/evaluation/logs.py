"""Reads evaluation logs of five formats as {task: log}.

The format is detected from the JSON keys; unknown formats are rejected.

clear_ref        logs/TASK.json of a run: "format" is clear_ref.log/1; a run directory or its logs/
                 folder gives all of them
released         eval_log_aggregated.json of the authors' code: tasks with pictures
TOFU             eval_log_aggregated.json of TOFU: the same columns, with Real Authors among its
                 tasks. Its eval_log and eval_log_forget are questions about text, so they become
                 eval_text_retain and eval_text_forget
Open-MMUnlearning  eval_log_aggregated.json of that project: the released tasks, and questions
                 about text under our names, without paraphrases and wrong answers
open-unlearning  TOFU_EVAL.json: metrics with value_by_index, which become the columns of the same
                 four tasks

Tasks of eval_log_aggregated.json whose names nothing here knows are not read; Evaluation.unread
names them.

Any file may be compressed with gzip. Losses, probabilities, shares and texts of single records are
scored, never an aggregate.
"""

import dataclasses
import gzip
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, parse_json, read_bytes
from clear_ref.common.run_directory import LOGS_DIRECTORY

from .definitions import PICTURES
from .log_format import LOG_FORMAT, Log, Logs
from .membership import RecordScores
from .open_mmunlearning import SOURCE as OPEN_MMUNLEARNING
from .open_unlearning import SOURCE

FORMATS = ("clear_ref", "released", "TOFU", OPEN_MMUNLEARNING, "open-unlearning")
# Task names of eval_log_aggregated.json: one in both projects' files, one in TOFU's only.
IN_BOTH = "eval_real_world_wo_options"
IN_TOFU_ONLY = "eval_real_author_wo_options"
# {task name in TOFU's files: our name of that task}
AS_TEXT = {"eval_log": "eval_text_retain", "eval_log_forget": "eval_text_forget"}
# Tasks that of these files Open-MMUnlearning's alone have.
IN_OPEN_MMUNLEARNING_ONLY = ("eval_text_forget", "eval_text_retain")
# Columns that the released code may leave empty.
ROUGE_COLUMNS = ("rougeL_recall", "rouge1_recall")
# A gzip'd file may unpack to this many times its size (real logs: 3 to 20), or to a megabyte.
MOST_TIMES = 100
LEAST_BYTES = 1 << 20
# open-unlearning: our task, the first part of its metrics' names, and the last part of the name of
# the metric that holds the right answer in other words. The Real sets have no paraphrase, so the
# right answer itself is used.
OPEN_UNLEARNING = (
    ("eval_text_forget", "forget", "Q_A_PARA_Prob"),
    ("eval_text_retain", "retain", "Q_A_PARA_Prob"),
    ("eval_real_author_wo_options", "ra", "Q_A_Prob"),
    ("eval_real_world_wo_options", "wf", "Q_A_Prob"),
)
OPEN_UNLEARNING_ROUGE = ("rougeL_recall", "rougeL_f1", "rouge1_recall")
OPEN_UNLEARNING_TEXTS = ("input", "generation", "ground_truth")
MEMORIZATION = ("exact_memorization", "extraction_strength")


@dataclass(frozen=True)
class Evaluation:
    """The logs of one model.

    files   the files that were read
    format  one of FORMATS
    tasks   {task: log}
    scores  open-unlearning's scores that belong to no task: {"exact_memorization": {index: score},
            "mia_loss": {"forget": {index: score}, "holdout": {index: score}}, ...}
    stated  {metric: its entry} as open-unlearning's file has it; contradictions.py compares its
            aggregates with its records
    unread  names of tasks in the files that no metric here reads
    """

    files: tuple[Path, ...]
    format: str
    tasks: Logs
    scores: RecordScores
    stated: dict[str, Any] = dataclasses.field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read(*paths: str | Path) -> Evaluation:
    """One model's evaluation, from a directory or from one or more files, all of one format.

    raises  UserError for a path that is missing, a file of an unknown format, files of two formats,
            a task in two files
    """
    formats: dict[str, Path] = {}
    tasks: Logs = {}
    scores: RecordScores = {}
    stated: dict[str, Any] = {}
    unread: dict[str, None] = {}
    files = tuple(file for path in paths for file in files_of(Path(path)))
    for file in files:
        content = parse_json(unpacked(file), file)
        file_format, file_tasks, file_scores = recognise(content, file)
        if file_format == FORMATS[-1]:
            stated |= content
        if _is_aggregated(content):
            unread |= dict.fromkeys(_unknown_tasks(content))
        formats[file_format] = file
        for task, log in file_tasks.items():
            if task in tasks:
                raise UserError(
                    f"{file}: holds {task}, which another file has given; expected each task once, "
                    "name the files of one model"
                )
            tasks[task] = log
        scores |= file_scores
    if len(formats) > 1:
        (one, one_file), (other, other_file) = list(formats.items())[:2]
        raise UserError(
            f"{one_file} is a log of {one}, {other_file} of {other}; expected the files of one "
            "evaluation of one model"
        )
    return Evaluation(files, next(iter(formats)), tasks, scores, stated, tuple(unread))


def files_of(path: Path) -> list[Path]:
    """The log files that a path names: the file itself, or the logs of one model in a directory.

    path    a file, a run directory or its logs/ folder
    raises  UserError for a directory without logs, or with the logs of several models of which none
            is in logs/ itself
    """
    if not path.is_dir():
        return [path]
    logs = path / LOGS_DIRECTORY
    folder = logs if logs.is_dir() else path
    files = sorted(folder.glob("*.json"))
    if files:
        return files
    models = sorted(
        sub.name for sub in folder.iterdir() if sub.is_dir() and any(sub.glob("*.json"))
    )
    evaluated = [name for name in models if name not in ("base", "gold")]
    if len(evaluated) == 1:
        return sorted((folder / evaluated[0]).glob("*.json"))
    if models:
        raise UserError(f"{path}: holds logs of {', '.join(models)}; name the folder of one")
    raise UserError(
        f"{path}: holds no logs; expected a run directory, its logs folder or a log file"
    )


def unpacked(path: Path) -> bytes:
    """A file's bytes, decompressed if their first two bytes are those of gzip.

    raises  UserError for data that cannot be unpacked, and as soon as they are more than a log can
            be; no more memory is taken
    """
    data = read_bytes(path)
    if data[:2] != b"\x1f\x8b":
        return data
    most = max(MOST_TIMES * len(data), LEAST_BYTES)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(most + 1)
            if len(found) <= most:
                file.read(1)  # the end, where the checksum stands
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: gzip'd data that cannot be unpacked ({one_line(error)}); fetch it again"
        ) from None
    if len(found) > most:
        raise UserError(
            f"{path}: {len(data)} bytes that unpack to more than {most}; expected at most "
            f"{MOST_TIMES} times as many: fetch it again, or unpack it with gunzip"
        )
    return found


def recognise(content: dict, where: str | Path) -> tuple[str, Logs, RecordScores]:
    """(format, {task: log}, open-unlearning's other scores) of one file's JSON object.

    raises  UserError, which begins with `where`, for an unknown format
    """
    if "format" in content:
        if content["format"] != LOG_FORMAT or not isinstance(content.get("task"), str):
            raise UserError(
                f"{where}: is {one_line(repr(content['format']), 60)}; expected {LOG_FORMAT}, the "
                "log of one task"
            )
        return "clear_ref", {content["task"]: cast(Log, content)}, {}
    if _is_aggregated(content):
        file_format, tasks = _read_aggregated(content, where)
        return file_format, tasks, {}
    if any(f"{start}_Q_A_Prob" in content for _, start, _ in OPEN_UNLEARNING):
        if not any(isinstance(entry, dict) for entry in content.values()):
            raise UserError(
                f"{where}: holds open-unlearning's aggregates alone; expected TOFU_EVAL.json, with "
                "value_by_index"
            )
        tasks = _tasks_of_open_unlearning(content, where)
        return "open-unlearning", tasks, _scores_of_open_unlearning(content, where)
    keys = one_line(", ".join(map(str, list(content)[:4])) or "none", 120)
    raise UserError(
        f"{where}: a log of no known format, its keys are {keys}; expected a log of clear_ref, "
        "eval_log_aggregated.json of the released code, of TOFU or of Open-MMUnlearning, or "
        "TOFU_EVAL.json of open-unlearning"
    )


# ---- eval_log_aggregated.json


KNOWN_TASKS = {*PICTURES, IN_BOTH, IN_TOFU_ONLY, *IN_OPEN_MMUNLEARNING_ONLY}


def _is_aggregated(content: dict) -> bool:
    """True if a key is a task name of eval_log_aggregated.json, and all values are dicts."""
    names = {name.removesuffix(".json") for name in content}
    return bool(names & KNOWN_TASKS) and all(isinstance(log, dict) for log in content.values())


def _unknown_tasks(content: dict) -> list[str]:
    """The names of the tasks of an eval_log_aggregated.json that are not read."""
    return [name for name in content if name.removesuffix(".json") not in KNOWN_TASKS]


def _read_aggregated(content: dict, where: str | Path) -> tuple[str, Logs]:
    """(whose format, {task: log}); UserError if the tasks do not show which one it is."""
    logs = {name.removesuffix(".json"): log for name, log in content.items()}
    logs = {task: log for task, log in logs.items() if task in KNOWN_TASKS}
    released_only = set(PICTURES) - set(AS_TEXT)
    has_texts = not logs.keys().isdisjoint(IN_OPEN_MMUNLEARNING_ONLY)
    is_released = has_texts or not released_only.isdisjoint(logs)
    is_tofu = IN_TOFU_ONLY in logs
    if is_released == is_tofu:
        raise UserError(
            f"{where}: holds {', '.join(logs)}: captions of pictures or questions about text? "
            f"Expected either {IN_TOFU_ONLY} (TOFU) or one of {', '.join(sorted(released_only))} "
            "(released)"
        )
    if is_tofu:
        return "TOFU", {AS_TEXT.get(task, task): _cleaned(log) for task, log in logs.items()}
    if has_texts:
        of_project = {"source": OPEN_MMUNLEARNING}
        return OPEN_MMUNLEARNING, {
            task: cast(Log, _cleaned(log) | of_project) for task, log in logs.items()
        }
    return "released", {task: _cleaned(log) for task, log in logs.items()}


def _cleaned(log: dict) -> Log:
    """A log without empty ROUGE columns, and with three texts for each record.

    The released code leaves the ROUGE columns empty; without them ROUGE is computed from the text.
    """
    cleaned = {
        column: values for column, values in log.items() if column not in ROUGE_COLUMNS or values
    }
    if isinstance(log.get("generated_text"), dict):
        cleaned["generated_text"] = {
            index: texts[:3] if isinstance(texts, list) else texts
            for index, texts in log["generated_text"].items()
        }
    return cast(Log, cleaned)


# ---- open-unlearning's TOFU_EVAL.json


def _tasks_of_open_unlearning(content: dict, where: str | Path) -> Logs:
    """The logs of the tasks that the file evaluates."""
    tasks: Logs = {}
    for task, start, paraphrased in OPEN_UNLEARNING:
        if f"{start}_Q_A_Prob" not in content:
            continue
        log: dict[str, object] = {"source": SOURCE}
        for column, end, field in (
            ("avg_gt_loss", "Q_A_Prob", "avg_loss"),
            ("avg_paraphrased_loss", paraphrased, "avg_loss"),
            ("average_perturb_loss", "Q_A_PERT_Prob", "avg_loss"),
            ("gt_prob", "Q_A_Prob", "prob"),
            ("perturb_prob", "Q_A_PERT_Prob", "prob"),
        ):
            log[column] = _column(content, f"{start}_{end}", field, where)
        name = f"{start}_Q_A_ROUGE"
        for column in OPEN_UNLEARNING_ROUGE:
            log[column] = _column(content, name, column, where)
        log["generated_text"] = {
            index: [_value(row, field, name, index, where) for field in OPEN_UNLEARNING_TEXTS]
            for index, row in _rows(content, name, where).items()
        }
        tasks[task] = cast(Log, log)
    return tasks


def _scores_of_open_unlearning(content: dict, where: str | Path) -> RecordScores:
    """Memorisation of every record, and every mia_ metric's score of forget and holdout records."""
    scores: RecordScores = {}
    for name in MEMORIZATION:
        if name in content:
            scores[name] = _column(content, name, "score", where)
    for name, entry in content.items():
        if not name.startswith("mia_") or not isinstance(entry, dict):
            continue
        if "forget" in entry and "holdout" in entry:
            scores[name] = {
                part: _column(entry, part, "score", where, f"{name} {part}")
                for part in ("forget", "holdout")
            }
    return scores


def _column(
    content: Mapping[str, object],
    name: str,
    field: str,
    where: str | Path,
    label: str | None = None,
) -> dict[str, Any]:
    """{index: one field} of a metric's records; label: the metric's name in messages."""
    return {
        index: _value(row, field, label or name, index, where)
        for index, row in _rows(content, name, where).items()
    }


def _rows(content: Mapping[str, object], name: str, where: str | Path) -> dict[str, object]:
    """value_by_index of one of open-unlearning's metrics; UserError if it is missing."""
    entry = content.get(name)
    rows = entry.get("value_by_index") if isinstance(entry, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise UserError(
            f"{where}: no value_by_index of {name}; expected a value for every record, evaluate "
            "again"
        )
    return rows


def _value(row: object, field: str, name: str, index: str, where: str | Path) -> Any:
    """One field of one record; UserError if it is missing."""
    if not isinstance(row, dict) or field not in row:
        raise UserError(
            f"{where}: {name} of record {one_line(index, 40)} "
            f"has no {field}; expected one for every record, "
            "evaluate again"
        )
    return row[field]
