"""What is finished of an experiment, on disk: one result for each split and stage.

    DIR/splits/people.json                    whose face each row shows, who is in which split
    DIR/splits/003/base.network.safetensors   network and head; of every stage with --networks all
    DIR/splits/003/base.trace.jsonl           one line for each step
    DIR/splits/003/base.cosines.safetensors   [rows] cosines to the own reference, by definition
    DIR/splits/003/base.json                  accuracies, steps, seconds; written last
    DIR/splits/003/dpo.failed.json            why a training failed; until it ends with a result

A stage whose last file is there is finished and is not trained again. Every file appears whole or
not at all; under torchrun each process writes the files of its own splits.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from clear_ref.common.atomic import atomic_file
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number, same, shown
from clear_ref.common.files import one_line, read_json
from clear_ref.model.weights import read_header

from .head import Head
from .method_names import METHOD_NAMES
from .names import Classes
from .network import ResNet18, read_trained, write_network
from .scores import DEFINITIONS, GROUPS
from .splits import Split

FORMAT = "clear_ref.visual/1"
SPLITS = "splits"
PEOPLE = "people.json"
DTYPES = {"paper": "F64", "released": "F32"}  # of cosines: the precision of each definition
# By which float32 products of vectors of length 1, with 512 numbers each, can pass 1: 512 * 2^-23.
ROUNDING = 1e-4
FAILED = "failed.json"  # ends the name of the file that says why a training failed
MISSING = "missing"  # in place of a value that a file does not have


@dataclass(frozen=True)
class Result:
    """What is kept of one training.

    accuracy  {definition: {group: percent, or None without a question}}
    seconds   of training and scoring
    """

    accuracy: dict[str, dict[str, float | None]]
    steps: int
    seconds: float


@dataclass(frozen=True)
class Store:
    """The results of an experiment in a directory."""

    directory: Path

    def path(self, split: int, stage: str, ending: str) -> Path:
        """The path of a file of one training."""
        return self.directory / SPLITS / f"{split:03}" / f"{stage}.{ending}"

    def write_people(self, classes: Classes, splits: Sequence[Split]) -> None:
        """Keep the classes and the splits, with which the results can be summed up again."""
        entry = {
            "format": FORMAT,
            "names": classes.names,
            "labels": classes.labels.tolist(),
            "splits": [asdict(split) for split in splits],
        }
        self._write(self.directory / SPLITS / PEOPLE, (json.dumps(entry) + "\n").encode())

    def people(self) -> tuple[Classes, list[Split]] | None:
        """The classes and the splits; None if they are not kept. UserError for another file."""
        path = self.directory / SPLITS / PEOPLE
        if not path.exists():
            return None
        problem = ""
        try:
            return _people(read_json(path))
        except UserError as error:
            problem = reason_of(error, path)
        except (KeyError, TypeError, ValueError) as error:
            problem = one_line(f"{type(error).__name__}: {error}", 100)
        raise UserError(
            f"{path}: is not what a run keeps of its people ({problem}); the same command with "
            "--resume writes it again"
        )

    def is_finished(self, split: int, stage: str) -> bool:
        """Whether the last file of this training is there."""
        return self.path(split, stage, "json").exists()

    def write_network(self, split: int, stage: str, network: ResNet18, head: Head) -> None:
        """Keep a network with its head."""
        write_network(self.path(split, stage, "network.safetensors"), network, head, by_all=True)

    def has_network(self, split: int, stage: str) -> bool:
        """Whether the network of this training is there."""
        return self.path(split, stage, "network.safetensors").exists()

    def network(self, split: int, stage: str, n_classes: int) -> tuple[ResNet18, Head]:
        """A network and its head of n_classes, as they were kept; UserError if the file is
        another.
        """
        path = self.path(split, stage, "network.safetensors")
        kept = f"the network of split {split}, {stage}"
        try:
            network, head = read_trained(path)
        except UserError as error:
            raise _other(path, stage, kept, reason_of(error, path)) from None
        if len(head.weight) != n_classes:
            reason = f"its head has {len(head.weight)} classes, the rows {n_classes}"
            raise _other(path, stage, kept, reason)
        return network, head

    def write(
        self,
        split: int,
        stage: str,
        result: Result,
        cosines: Mapping[str, np.ndarray],
        trace: Sequence[Mapping[str, Any]],
    ) -> None:
        """Keep a result; the training is finished then, and no failure of it is kept."""
        lines = "".join(json.dumps(line) + "\n" for line in trace)
        self._write(self.path(split, stage, "trace.jsonl"), lines.encode())
        data = save_arrays(dict(cosines))
        self._write(self.path(split, stage, "cosines.safetensors"), data)
        entry = {"format": FORMAT, "split": split, "stage": stage, **vars(result)}
        self._write_json(self.path(split, stage, "json"), entry)
        self.path(split, stage, FAILED).unlink(missing_ok=True)

    def write_failure(self, split: int, stage: str, reason: str) -> None:
        """Keep why a training failed."""
        entry = {"format": FORMAT, "split": split, "stage": stage, "reason": reason}
        self._write_json(self.path(split, stage, FAILED), entry)

    def failure(self, split: int, stage: str) -> str:
        """Why the last training failed; "" if it did not, or was not tried. UserError if the file
        is another.
        """
        path = self.path(split, stage, FAILED)
        if self.is_finished(split, stage) or not path.exists():
            return ""
        try:
            entry = read_json(path)
            problem = _other_key(entry, split, stage)
            if not problem and not (isinstance(entry.get("reason"), str) and entry["reason"]):
                problem = f"reason is {shown(entry.get('reason'))}, expected a text"
        except UserError as error:
            problem = reason_of(error, path)
        if problem:
            raise _other(path, stage, f"the failure of split {split}, {stage}", problem)
        return str(entry["reason"])

    def failures(self, splits: Sequence[int], stages: Sequence[str]) -> list[str]:
        """The failures that are kept, a sentence for each."""
        found = [self.failure(split, stage) for split in splits for stage in stages]
        return [reason for reason in found if reason]

    def result(self, split: int, stage: str) -> Result:
        """A result that was kept; UserError if the file is another."""
        path = self.path(split, stage, "json")
        try:
            entry = read_json(path)
            problem = _problem(entry, split, stage)
        except UserError as error:
            problem = reason_of(error, path)
        if problem:
            raise _other(path, stage, f"the result of split {split}, {stage}", problem)
        return Result(entry["accuracy"], entry["steps"], entry["seconds"])

    def cosines(self, split: int, stage: str, n_rows: int) -> dict[str, np.ndarray]:
        """{definition: [n_rows] cosines} that were kept; UserError if the file is another."""
        path = self.path(split, stage, "cosines.safetensors")
        found: dict[str, np.ndarray] = {}
        try:
            problem = _wrong_tensor(read_header(path), n_rows)
            if not problem:
                found = load_file(path)
                problem = _no_cosine(found)
        except UserError as error:
            problem = reason_of(error, path)
        if problem:
            kept = f"the cosines of {n_rows} rows of split {split}, {stage}"
            raise _other(path, stage, kept, problem)
        return found

    def _write_json(self, path: Path, entry: object) -> None:
        self._write(path, (json.dumps(entry, indent=2) + "\n").encode())

    def _write(self, path: Path, data: bytes) -> None:
        with atomic_file(path, len(data), by_all=True) as temporary:
            temporary.write_bytes(data)


def number_or_none(value: float) -> float | None:
    """The value; None for NaN, which JSON cannot hold."""
    return None if math.isnan(value) else value


def _people(entry: Mapping[str, Any]) -> tuple[Classes, list[Split]]:
    """The classes and splits of a file; UserError, KeyError, TypeError or ValueError for another
    one.
    """
    if entry.get("format") != FORMAT:
        raise UserError(f"format is {shown(entry.get('format'))}, expected {FORMAT!r}")
    splits = [Split(**each) for each in entry["splits"]]
    labels = np.array(entry["labels"])
    used = [labels, *(np.array(each) for split in splits for each in (split.forget, split.holdout))]
    n_names = len(entry["names"])
    for each in used:
        is_whole = each.ndim == 1 and len(each) and each.dtype == np.int64
        if not is_whole or each.min() < 0 or each.max() >= n_names:
            raise UserError(f"labels and lists are not all whole numbers from 0 to {n_names - 1}")
    if [split.number for split in splits] != list(range(len(splits))) or not splits:
        raise UserError("the splits are not numbered from 0")
    return Classes(tuple(entry["names"]), labels), splits


def _other(path: Path, stage: str, kept: str, reason: str) -> UserError:
    """The error of a file that is not what a training kept, with the way to make it again."""
    removed = "it" if path.suffix == ".json" else f"{stage}.json beside it"
    method = stage if stage in METHOD_NAMES else "METHOD"
    return UserError(
        f"{path}: is not {kept} ({reason}); remove {removed}, and visual {method} --resume --out "
        "DIR trains it again"
    )


def reason_of(error: UserError, path: Path) -> str:
    """What a reader found wrong with a file, without the file and without another way out."""
    return str(error).removeprefix(f"{path}: ").partition(";")[0]


def _problem(entry: Mapping[str, Any], split: int, stage: str) -> str:
    """The first thing that is wrong with what a result's file holds; "" if there is none."""
    problem = _other_key(entry, split, stage)
    if problem:
        return problem
    for definition in DEFINITIONS:
        for group in GROUPS:
            found = _at(entry, "accuracy", definition, group)
            if found is not None and not (is_number(found) and 0 <= found <= 100):
                return (
                    f"accuracy.{definition}.{group} is {shown(found)}, expected a percentage from "
                    "0 to 100, or null"
                )
    if type(entry.get("steps")) is not int or entry["steps"] < 1:
        return f"steps is {shown(entry.get('steps'))}, expected a whole number above 0"
    if not is_number(entry.get("seconds")) or entry["seconds"] < 0:
        return f"seconds is {shown(entry.get('seconds'))}, expected a number, not below 0"
    return ""


def _other_key(entry: Mapping[str, Any], split: int, stage: str) -> str:
    """Which key says that a file is of another format, split or stage; "" if none does."""
    expected: dict[str, object] = {"format": FORMAT, "split": split, "stage": stage}
    for key, value in expected.items():
        if not same(entry.get(key), value):
            return f"{key} is {shown(entry.get(key))}, expected {value!r}"
    return ""


def _at(entry: object, *keys: str) -> Any:
    """The value at these keys inside each other; MISSING if there is none."""
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            return MISSING
        entry = entry[key]
    return entry


def _wrong_tensor(header: Mapping[str, Mapping[str, Any]], n_rows: int) -> str:
    """What is wrong with dtypes and shapes of cosines; "" if nothing is."""
    for definition, dtype in DTYPES.items():
        entry = header.get(definition)
        if entry is None:
            return f"it has no tensor {definition}"
        if (entry["dtype"], entry["shape"]) != (dtype, [n_rows]):
            return f"{definition} is {entry['dtype']} {entry['shape']}, expected {dtype} [{n_rows}]"
    return ""


def _no_cosine(cosines: Mapping[str, np.ndarray]) -> str:
    """The first value that is neither a cosine nor NaN, in words; "" if there is none."""
    for definition in DTYPES:
        wrong = np.flatnonzero(np.abs(cosines[definition]) > 1 + ROUNDING)
        if wrong.size:
            value = cosines[definition][wrong[0]]
            return f"row {wrong[0]} of {definition} is {value}, expected a cosine from -1 to 1"
    return ""
