"""training_history.json beside a model's weights: what the model was trained on, stage by stage.

A gold model must never have seen the forget set, and a recipe belongs to a model. Both are known
from this file, whatever the directory is called.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from clear_ref.common.errors import UserError
from clear_ref.common.files import PathName, read_json, write_json
from clear_ref.data.records import Row
from clear_ref.model.model_directory import HISTORY

FILE = HISTORY
FORMAT = "clear_ref.training_history/1"
ID_DIGITS = 16  # hexadecimal; that two of 10^6 rows have one id has probability 3e-8


class StageRecord(TypedDict):
    """One training of a model.

    command  finetune, a method, or mini (the embedded world's own training)
    recipe   mini or paper
    split    the data split, in words
    rows     sorted ids of the data rows that it learned from, see row_id
    """

    command: str
    recipe: str
    split: str
    seed: int
    rows: list[str]


class History(TypedDict):
    """The stages of a model, the first one first.

    complete  True: the first stage began with random weights; False: with a model whose history
              is not known
    """

    format: str
    complete: bool
    stages: list[StageRecord]


UNKNOWN = History(format=FORMAT, complete=False, stages=[])


def row_id(row: Row) -> str:
    """The id of a data row: a hash of caption, question, answer and the picture's name.

    The same row has the same id in every config and data directory.
    """
    columns = ("caption", "question", "answer")
    values = {key: row.values[key] for key in columns if row.values.get(key) is not None}
    if row.image is not None:
        values["image"] = row.image.name
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:ID_DIGITS]


def read_history(directory: PathName) -> History:
    """The history of a model directory; UNKNOWN if it has none; UserError for a broken file."""
    path = Path(directory) / FILE
    if not path.exists():
        return UNKNOWN
    found: Any = read_json(path)
    if found.get("format") != FORMAT or not _is_history(found):
        raise UserError(
            f"{path}: is not a training history of this version ({FORMAT}); expected the file that "
            "clear_ref wrote, or none"
        )
    return History(format=FORMAT, complete=found["complete"], stages=found["stages"])


def _is_history(found: dict[str, Any]) -> bool:
    stages = found.get("stages")
    if not isinstance(found.get("complete"), bool) or not isinstance(stages, list):
        return False
    kinds = {"command": str, "recipe": str, "split": str, "seed": int, "rows": list}
    return all(
        isinstance(stage, dict)
        and all(isinstance(stage.get(key), kind) for key, kind in kinds.items())
        for stage in stages
    )


def write_history(
    directory: PathName,
    parent: History,
    command: str,
    recipe: str,
    split: str,
    seed: int,
    rows: Iterable[Row],
) -> None:
    """Write a model's history: its parent's, and one stage more."""
    stage = StageRecord(
        command=command,
        recipe=recipe,
        split=split,
        seed=seed,
        rows=sorted({row_id(row) for row in rows}),
    )
    history = History(format=FORMAT, complete=parent["complete"], stages=[*parent["stages"], stage])
    write_json(Path(directory) / FILE, history)


def recipe_of(history: History) -> str:
    """The recipe of a model's last stage; "" if no stage is known."""
    return history["stages"][-1]["recipe"] if history["stages"] else ""


def n_learned(history: History, rows: Iterable[Row]) -> int:
    """How many different rows of `rows` the model was trained on, as far as is known."""
    learned: set[str] = set()
    for stage in history["stages"]:
        learned |= set(stage["rows"])
    return len(learned & {row_id(row) for row in rows})
