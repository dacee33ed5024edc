"""What is finished of an experiment, on disk: one result for each split and stage.

    DIR/splits/003/base.network.safetensors   network and head; of every stage with --networks all
    DIR/splits/003/base.trace.jsonl           one line for each step
    DIR/splits/003/base.cosines.safetensors   [rows] cosines to the own reference, by definition
    DIR/splits/003/base.json                  accuracies, steps, seconds; written last

A stage whose last file is there is finished and is not trained again. Every file appears whole or
not at all; under torchrun each process writes the files of its own splits.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from clear_ref.common.atomic import atomic_file
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number
from clear_ref.common.files import read_json

from .head import Head
from .network import ResNet18, read_trained, write_network
from .scores import DEFINITIONS, GROUPS

FORMAT = "clear_ref.visual/1"
SPLITS = "splits"


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

    def is_finished(self, split: int, stage: str) -> bool:
        """Whether the last file of this training is there."""
        return self.path(split, stage, "json").exists()

    def write_network(self, split: int, stage: str, network: ResNet18, head: Head) -> None:
        """Keep a network with its head."""
        write_network(self.path(split, stage, "network.safetensors"), network, head, by_all=True)

    def has_network(self, split: int, stage: str) -> bool:
        """Whether the network of this training is there."""
        return self.path(split, stage, "network.safetensors").exists()

    def network(self, split: int, stage: str) -> tuple[ResNet18, Head]:
        """A network and its head, as they were kept; UserError as read_trained."""
        return read_trained(self.path(split, stage, "network.safetensors"))

    def write(
        self,
        split: int,
        stage: str,
        result: Result,
        cosines: Mapping[str, np.ndarray],
        trace: Sequence[Mapping[str, Any]],
    ) -> None:
        """Keep a result; the training is finished then."""
        lines = "".join(json.dumps(line) + "\n" for line in trace)
        self._write(self.path(split, stage, "trace.jsonl"), lines.encode())
        data = save_arrays(dict(cosines))
        self._write(self.path(split, stage, "cosines.safetensors"), data)
        entry = {"format": FORMAT, "split": split, "stage": stage, **vars(result)}
        self._write(self.path(split, stage, "json"), (json.dumps(entry, indent=2) + "\n").encode())

    def result(self, split: int, stage: str) -> Result:
        """A result that was kept; UserError if the file is another."""
        path = self.path(split, stage, "json")
        entry = read_json(path)
        accuracy = entry.get("accuracy")
        right = (
            entry.get("format") == FORMAT
            and (entry.get("split"), entry.get("stage")) == (split, stage)
            and isinstance(accuracy, dict)
            and all(_is_accuracy(accuracy.get(definition)) for definition in DEFINITIONS)
            and type(entry.get("steps")) is int
            and is_number(entry.get("seconds"))
        )
        if not right:
            raise UserError(
                f"{path}: is not the result of split {split}, {stage}; remove it, and the same "
                "command with --resume trains it again"
            )
        return Result(entry["accuracy"], entry["steps"], entry["seconds"])

    def cosines(self, split: int, stage: str, n_rows: int) -> dict[str, np.ndarray]:
        """{definition: [n_rows] cosines} that were kept; UserError if the file is another."""
        path = self.path(split, stage, "cosines.safetensors")
        try:
            found: dict[str, np.ndarray] = load_file(path)
        except (OSError, SafetensorError):
            found = {}
        if any(each not in found or found[each].shape != (n_rows,) for each in DEFINITIONS):
            raise UserError(
                f"{path}: does not hold cosines of {n_rows} rows in each definition; remove "
                f"{stage}.json beside it, and the same command with --resume trains it again"
            )
        return found

    def _write(self, path: Path, data: bytes) -> None:
        with atomic_file(path, len(data), by_all=True) as temporary:
            temporary.write_bytes(data)


def number_or_none(value: float) -> float | None:
    """The value; None for NaN, which JSON cannot hold."""
    return None if math.isnan(value) else value


def _is_accuracy(found: object) -> bool:
    """Whether these are the accuracies of one definition."""
    return isinstance(found, dict) and all(
        group in found and (found[group] is None or is_number(found[group])) for group in GROUPS
    )
