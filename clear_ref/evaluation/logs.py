"""Anyone's evaluation logs, read into ours: {task: log}. What a file is, is told by its keys; what is not known is refused.

clear_ref        logs/TASK.json of a run: "format" is clear_ref.log/1; a run directory or its logs/ folder stands for all of them
released         eval_log_aggregated.json of the authors' code: tasks of pictures
TOFU             eval_log_aggregated.json of TOFU: the same columns, and Real Authors among its tasks. Its eval_log and
                 eval_log_forget are questions about text, so they become eval_text_retain and eval_text_forget
open-unlearning  TOFU_EVAL.json: metrics with value_by_index, which become the columns of the same four tasks

Any file may be gzip'd. Losses, shares and texts of single records are read, never an aggregate.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line, parse_json, read_bytes

from .definitions import PICTURES

FORMATS = ("clear_ref", "released", "TOFU", "open-unlearning")
OURS = "clear_ref.log/1"
SHARED, TOFU_ONLY = "eval_real_world_wo_options", "eval_real_author_wo_options"
AS_TEXT = {"eval_log": "eval_text_retain", "eval_log_forget": "eval_text_forget"}
ROUGE_COLUMNS = ("rougeL_recall", "rouge1_recall")
# open-unlearning: our task, how its metrics' names begin, and how the one of the right answer in other words ends.
OPEN_UNLEARNING = (
    ("eval_text_forget", "forget", "Q_A_PARA_Prob"),
    ("eval_text_retain", "retain", "Q_A_PARA_Prob"),
    ("eval_real_author_wo_options", "ra", "Q_A_Prob"),
    ("eval_real_world_wo_options", "wf", "Q_A_Prob"),
)
OPEN_UNLEARNING_ROUGE = ("rougeL_recall", "rougeL_f1", "rouge1_recall")
MEMORIZATION = ("exact_memorization", "extraction_strength")


@dataclass(frozen=True)
class Evaluation:
    """What was read: the files, their format (one of FORMATS), tasks {task: log}, and open-unlearning's scores that belong to no
    task: {"exact_memorization": {index: score}, "mia_loss": {"forget": {index: score}, "holdout": {index: score}}, ...}."""

    files: tuple[Path, ...]
    format: str
    tasks: dict[str, dict]
    scores: dict[str, dict]


def read(*paths) -> Evaluation:
    """One model's evaluation, from a directory or from one or more files, all of one format.

    raises  UserError for a path that is missing, a file of no known format, files of two formats, a task that comes twice
    """
    formats, tasks, scores = {}, {}, {}
    files = tuple(file for given in paths for file in files_of(Path(given)))
    for path in files:
        kind, found, extra = recognise(parse_json(unpacked(path), path), path)
        formats[kind] = path
        for task, log in found.items():
            if task in tasks:
                raise UserError(
                    f"{path}: holds {task}, which another file has given; expected each task once, "
                    "name the files of one model"
                )
            tasks[task] = log
        scores |= extra
    if len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        raise UserError(
            f"{first} is a log of {one}, {second} of {other}; expected the files of one evaluation of one model"
        )
    return Evaluation(files, *formats, tasks, scores)


def files_of(path: Path) -> list[Path]:
    """The log files that a path stands for: itself, or those of the run directory or logs/ folder that it names.

    raises  UserError for a directory without logs, or with those of several models and none of an unlearned one
    """
    if not path.is_dir():
        return [path]
    folder = path / "logs" if (path / "logs").is_dir() else path
    found = sorted(folder.glob("*.json"))
    if found:
        return found
    models = sorted(
        sub.name for sub in folder.iterdir() if sub.is_dir() and any(sub.glob("*.json"))
    )
    own = [name for name in models if name not in ("base", "gold")]
    if len(own) == 1:
        return sorted((folder / own[0]).glob("*.json"))
    raise UserError(
        f"{path}: "
        + (
            f"holds logs of {', '.join(models)}; name the folder of one"
            if models
            else "holds no logs; expected a run directory, its logs folder or a log file"
        )
    )


def unpacked(path: Path) -> bytes:
    """A file's bytes, unpacked if they are gzip'd (told by the first two bytes, not by the name)."""
    data = read_bytes(path)
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: gzip'd data that cannot be unpacked ({one_line(error)}); fetch it again"
        ) from None


def recognise(found: dict, where) -> tuple[str, dict, dict]:
    """(format, {task: log}, open-unlearning's other scores) of the object in one file; UserError if it is of no known format."""
    if "format" in found:
        if found["format"] != OURS or not isinstance(found.get("task"), str):
            raise UserError(
                f"{where}: is {one_line(repr(found['format']), 60)}; expected {OURS}, the log of one task"
            )
        return "clear_ref", {found["task"]: found}, {}
    names = {name.removesuffix(".json"): log for name, log in found.items()}
    if (
        names
        and set(names) <= {*PICTURES, SHARED, TOFU_ONLY}
        and all(isinstance(log, dict) for log in names.values())
    ):
        pictures = set(names) & set(PICTURES) - set(AS_TEXT)
        if bool(pictures) == (TOFU_ONLY in names):
            raise UserError(
                f"{where}: holds {', '.join(names)}: captions of pictures or questions about text? Expected either "
                f"{TOFU_ONLY} (TOFU) or one of {', '.join(sorted(set(PICTURES) - set(AS_TEXT)))} (released)"
            )
        kind = "released" if pictures else "TOFU"
        return (
            kind,
            {
                task if pictures else AS_TEXT.get(task, task): _cleaned(log)
                for task, log in names.items()
            },
            {},
        )
    if any(f"{start}_Q_A_Prob" in found for _, start, _ in OPEN_UNLEARNING):
        if not any(isinstance(entry, dict) for entry in found.values()):
            raise UserError(
                f"{where}: holds open-unlearning's aggregates alone; expected TOFU_EVAL.json, with value_by_index"
            )
        return (
            "open-unlearning",
            _tasks_of_open_unlearning(found, where),
            _scores_of_open_unlearning(found, where),
        )
    keys = one_line(", ".join(map(str, list(found)[:4])) or "none", 120)
    raise UserError(
        f"{where}: a log of no known format, its keys are {keys}; expected a log of clear_ref, "
        "eval_log_aggregated.json of the released code or of TOFU, or TOFU_EVAL.json of open-unlearning"
    )


def _cleaned(log: dict) -> dict:
    """A log without the ROUGE columns that the released code leaves empty, so that the text is scored; texts cut to three."""
    log = {
        column: values for column, values in log.items() if column not in ROUGE_COLUMNS or values
    }
    if isinstance(log.get("generated_text"), dict):
        log["generated_text"] = {
            key: texts[:3] if isinstance(texts, list) else texts
            for key, texts in log["generated_text"].items()
        }
    return log


def _tasks_of_open_unlearning(found: dict, where) -> dict[str, dict]:
    """The four tasks' logs, of the sets that the file evaluates; the right answer stands for its paraphrase on the real sets."""
    tasks = {}
    for task, start, paraphrased in OPEN_UNLEARNING:
        if f"{start}_Q_A_Prob" not in found:
            continue
        log = {
            column: {key: _value(row, "avg_loss", name, key, where) for key, row in rows.items()}
            for column, end in (
                ("avg_gt_loss", "Q_A_Prob"),
                ("avg_paraphrased_loss", paraphrased),
                ("average_perturb_loss", "Q_A_PERT_Prob"),
            )
            for name in [f"{start}_{end}"]
            for rows in [_rows(found, name, where)]
        }
        name = f"{start}_Q_A_ROUGE"
        rows = _rows(found, name, where)
        for column in OPEN_UNLEARNING_ROUGE:
            log[column] = {key: _value(row, column, name, key, where) for key, row in rows.items()}
        log["generated_text"] = {
            key: [
                _value(row, field, name, key, where)
                for field in ("input", "generation", "ground_truth")
            ]
            for key, row in rows.items()
        }
        tasks[task] = log
    return tasks


def _scores_of_open_unlearning(found: dict, where) -> dict[str, dict]:
    """Memorisation of every record, and every mia_ metric's score of every forget and holdout record."""
    scores = {
        name: {
            key: _value(row, "score", name, key, where)
            for key, row in _rows(found, name, where).items()
        }
        for name in MEMORIZATION
        if name in found
    }
    for name, entry in found.items():
        if (
            name.startswith("mia_")
            and isinstance(entry, dict)
            and {"forget", "holdout"} <= set(entry)
        ):
            scores[name] = {
                part: {
                    key: _value(row, "score", f"{name} {part}", key, where)
                    for key, row in _rows(entry, part, where).items()
                }
                for part in ("forget", "holdout")
            }
    return scores


def _rows(found: dict, name: str, where) -> dict:
    """value_by_index of one of open-unlearning's metrics; UserError if it is not there."""
    entry = found.get(name)
    rows = entry.get("value_by_index") if isinstance(entry, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise UserError(
            f"{where}: no value_by_index of {name}; expected a value for every record, evaluate again"
        )
    return rows


def _value(row, field: str, name: str, key: str, where):
    """One field of one record; UserError if it is not there."""
    if not isinstance(row, dict) or field not in row:
        raise UserError(
            f"{where}: {name} of record {key} has no {field}; expected one for every record, evaluate again"
        )
    return row[field]
