"""The arrays that a case gives to a function: those of its method, every batch, or padded ones."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.formulas import random_batches
from clear_ref.oracle.reference.rows import IGNORE, PADDING, Batch, Batches

from .vector_set import Entry, Vectors


class Asked(NamedTuple):
    """A case as the function gets it.

    batches  the arrays that the function gets; own: those that its method reads
    every   every batch and array of its shape, which other meanings may read
    result  the right result
    """

    entry: Entry
    batches: Batches
    own: Batches
    every: Batches
    result: LossResult

    @property
    def variant(self) -> tuple[str, str]:
        """(method, semantics)."""
        return self.entry["method"], self.entry["semantics"]


def ask(vectors: Vectors, entry: Entry, all_batches: bool, pad: bool) -> Asked:
    """The case; pad: with one T for all batches.

    all_batches  with every batch and the teacher; of random batches only those that are counted, if
                 any are
    """
    own = vectors.batches(entry)
    every = every_array(vectors, entry, own)
    if pad:
        every = padded(every)
        own = {name: {key: every[name][key] for key in batch} for name, batch in own.items()}
    result = formulas.reference_loss(entry["method"], entry["semantics"], entry["options"], own)
    given = own
    if all_batches:
        unread = set(random_batches(5)) - own.keys() if "random1" in own else set()
        given = {name: batch for name, batch in every.items() if name not in unread}
    return Asked(entry, given, own, every, result)


def every_array(vectors: Vectors, entry: Entry, batches: Batches) -> Batches:
    """Every batch of a case's shape, with every array: teacher and student."""
    tensor = "hidden" if entry["method"] == "rmu" else "logits"
    stored: Batches = {}
    for key, array in vectors.arrays["inputs"].items():
        shape, batch, name = key.split("/", 2)
        is_wanted = name in (tensor, f"teacher_{tensor}") or array.dtype == np.int64
        if shape == entry["shape"] and is_wanted:
            stored.setdefault(batch, {})[name] = array
    return {
        name: {**arrays, **batches.get(name, {})}
        for name, arrays in stored.items()
        if tensor in arrays
    }


def padded(batches: Batches) -> Batches:
    """The batches with as many positions as the longest has, on the side of the other padding.

    The added positions repeat the batch's own logits: nothing but the masks tells them from text.
    """
    longest = max(batch["labels"].shape[1] for batch in batches.values())
    left = any((batch["attention_mask"][:, 0] == 0).any() for batch in batches.values())
    return {name: _padded(batch, longest, left) for name, batch in batches.items()}


def _padded(batch: Batch, longest: int, left: bool) -> Batch:
    n = longest - batch["labels"].shape[1]
    fills = {"input_ids": 0, "labels": IGNORE, "attention_mask": 0, "kinds": PADDING}
    changed = {}
    for name, array in batch.items():
        if name == "control":
            changed[name] = array
            continue
        widths = [(0, 0), (n, 0) if left else (0, n), *[(0, 0)] * (array.ndim - 2)]
        if name in fills:
            changed[name] = np.pad(array, widths, constant_values=fills[name])
        else:
            changed[name] = np.ascontiguousarray(np.pad(array, widths, mode="wrap"))
    return changed


def chosen(
    entries: Sequence[Entry],
    methods: Sequence[str],
    semantics: Sequence[str],
    shapes: str,
    only: str,
) -> list[Entry]:
    """The right results of these methods, semantics, shapes and ids.

    shapes  names with commas, "" for all; only: patterns of ids with commas, "" for all
    raises  UserError for an unknown shape, a pattern without a case, or no case at all
    """
    right = [entry for entry in entries if entry["result"] != "invalid"]
    named = _parts(shapes)
    known = dict.fromkeys(entry["shape"] for entry in right)
    for shape in named:
        if shape not in known:
            raise UserError(f"--shapes: {shape!r} is unknown; expected {', '.join(known)}")
    found = [e for e in right if e["method"] in methods and e["semantics"] in semantics]
    if not found:
        raise UserError(
            f"no case of {', '.join(methods)} under {', '.join(semantics)}; expected semantics "
            "that the methods have"
        )
    example = found[0]["id"]
    if named:
        found = [entry for entry in found if entry["shape"] in named]
        if not found:
            raise UserError(f"--shapes: no case has shape {shapes}; expected one such as {example}")
    patterns = _parts(only)
    for pattern in patterns:
        if not any(fnmatchcase(entry["id"], pattern) for entry in found):
            raise UserError(
                f"--only: no case has an id like {pattern!r}; expected patterns of ids such as "
                f"{example}, * for any text (--methods, --semantics and --shapes choose first)"
            )
    if patterns:
        found = [e for e in found if any(fnmatchcase(e["id"], pattern) for pattern in patterns)]
    return found


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []
