"""A set of golden vectors in memory, and the SHA-256 of a case.

The format of the files is in ../suite/FORMAT.md, with the rules of its version.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from clear_ref.methods import LOSSES
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.rows import Batches

# Of the golden vectors as files. The first number is the format; FORMAT.md says what may change.
VERSION = "1.0.0"


class StoredRoundings(TypedDict):
    """How far rounding may move a case's loss and gradients, in unit roundoffs; by batch."""

    loss: float
    gradients: dict[str, float]
    added: dict[str, float]


class Entry(TypedDict, total=False):
    """One case of a vector file, as its JSON has it.

    Right results have the keys up to `control` (rmu only). Wrong results (`result` is invalid)
    have id, method, result, loss, gradients, sha256, and the last two.
    """

    id: str
    method: str
    semantics: str
    options: Options
    shape: str
    flags: list[str]
    result: str
    batches: dict[str, list[str]]
    loss: float
    terms: dict[str, float]
    scale: float
    weight: float
    roundings: StoredRoundings
    gradients: dict[str, str]
    sha256: str
    control: str
    of: str
    mistake: str


def _no_arrays() -> dict[str, dict[str, np.ndarray]]:
    return {name: {} for name in ("inputs", *LOSSES)}


@dataclass
class Vectors:
    """A set of golden vectors.

    entries  the cases as the JSON files have them
    arrays   {"inputs" or method: {key: array}}
    keys     {(method, shape and bytes of an array): the key under which the array is stored}
    version  of the golden vectors; set: "compact" or "full"
    """

    entries: list[Entry] = field(default_factory=list)
    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=_no_arrays)
    keys: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    version: str = VERSION
    set: str = "compact"

    def batches(self, entry: Entry) -> Batches:
        """The arrays of a case, by batch: the inputs of an implementation."""
        inputs = self.arrays["inputs"]
        batches = {}
        for name, keys in entry["batches"].items():
            batches[name] = {key: inputs[f"{entry['shape']}/{name}/{key}"] for key in keys}
        if "control" in entry:
            batches["forget"]["control"] = self.arrays[entry["method"]][entry["control"]]
        return batches

    def gradients(self, entry: Entry) -> dict[str, np.ndarray]:
        """d loss / d logits (rmu: hidden) of a case, by batch.

        Empty for an invalid case whose loss alone is wrong enough.
        """
        arrays = self.arrays[entry["method"]]
        return {name: arrays[key] for name, key in entry["gradients"].items()}

    def add(self, method: str, key: str, array: np.ndarray) -> str:
        """Store an array of a method; the key of an equal array if there is one, else `key`."""
        stored = self.keys.setdefault((method, array.shape, array.tobytes()), key)
        self.arrays[method].setdefault(stored, array)
        return stored


def digest(batches: Batches, gradients: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the inputs and gradients of a case.

    In the order of their names: name, dtype, shape and bytes of each array.
    """
    arrays = {}
    for name, batch in batches.items():
        for key, array in batch.items():
            arrays[f"{name}/{key}"] = array
    for name, array in gradients.items():
        arrays[f"{name}/gradient"] = array
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        sha256.update(f"{name}\n{arrays[name].dtype}\n{arrays[name].shape}\n".encode())
        sha256.update(np.ascontiguousarray(arrays[name]).tobytes())
    return sha256.hexdigest()
