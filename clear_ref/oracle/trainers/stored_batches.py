"""The batches of a case, found again by the input_ids that a trainer gives to its model."""

from collections.abc import Mapping

import torch

from clear_ref.common.errors import UserError

Batch = Mapping[str, torch.Tensor]
# Sequences of a batch: its name, and the first and last + 1.
Part = tuple[str, int, int]

TENSORS = ("logits", "hidden")


class StoredBatches:
    """The batches of a case, as conform hands them over: {name: {array name: tensor}}.

    raises  UserError for arrays that are no tensors, and for no batch at all
    """

    def __init__(self, batches: Mapping[str, Batch]) -> None:
        if not batches:
            raise UserError("the case has no batch; expected batches as conform hands them over")
        for name, batch in batches.items():
            if not isinstance(batch.get("input_ids"), torch.Tensor):
                raise UserError(
                    f"batch {name} has no tensor input_ids; expected batches as conform hands them "
                    "over with --framework torch"
                )
        self.batches = dict(batches)

    def parts(self, input_ids: object) -> list[Part]:
        """The batches, or the sequences of one, that input_ids [B, T] are.

        That is the stored tensor or a slice of its sequences, by storage; else whole batches, or
        single sequences, with the same ids, one below the other.
        raises  UserError for other ids, and for ids that two batches or sequences share
        """
        if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2:
            shape = list(getattr(input_ids, "shape", []))
            raise UserError(
                f"the fake model was called with input_ids of type {type(input_ids).__name__} and "
                f"shape {shape}; expected a tensor [B, T] of a batch of the case"
            )
        for name, batch in self.batches.items():
            part = _slice_of(batch["input_ids"], input_ids)
            if part is not None:
                return [(name, *part)]
        return self._parts_by_value(input_ids)

    def _parts_by_value(self, input_ids: torch.Tensor) -> list[Part]:
        found: list[Part] = []
        first = 0
        while first < len(input_ids):
            rest = input_ids[first:]
            parts = [(name, 0, len(b["input_ids"])) for name, b in self._items() if _at(rest, b)]
            if not parts:
                parts = [part for item in self._items() for part in _sequences(rest[0], *item)]
            if len(parts) != 1:
                raise UserError(self._problem(input_ids, first, parts))
            found += parts
            first += parts[0][2] - parts[0][1]
        return found

    def _problem(self, input_ids: torch.Tensor, first: int, parts: list[Part]) -> str:
        shape = list(input_ids.shape)
        if parts:
            names = " and of ".join(dict.fromkeys(name for name, _, _ in parts))
            return (
                f"input_ids of shape {shape} are from sequence {first} on those of {len(parts)} "
                f"places: of {names}; expected the batch's own tensor, which tells them apart"
            )
        known = ", ".join(f"{name} {list(b['input_ids'].shape)}" for name, b in self._items())
        return (
            f"input_ids of shape {shape} are of no batch of the case from sequence {first} on; "
            f"expected a batch, a slice of its sequences, or batches one below the other: {known}"
        )

    def _items(self) -> list[tuple[str, Batch]]:
        return list(self.batches.items())

    def rows(self, parts: list[Part], key: str) -> torch.Tensor:
        """The tensor `key` of these sequences, joined; a new tensor with a path to the batch's.

        raises  UserError if a batch lacks it
        """
        pieces = []
        for name, first, end in parts:
            if key not in self.batches[name]:
                raise UserError(_lacks(name, key, self.batches[name]))
            pieces.append(self.batches[name][key][first:end])
        return torch.cat(pieces)

    def has(self, parts: list[Part], key: str) -> bool:
        """True if every one of these batches has the tensor."""
        return all(key in self.batches[name] for name, _, _ in parts)


def _slice_of(stored: torch.Tensor, given: torch.Tensor) -> tuple[int, int] | None:
    """(first, end) if `given` are whole sequences of `stored` in the same memory; else None."""
    is_same = given.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
    if not is_same or given.dtype != stored.dtype or given.shape[1:] != stored.shape[1:]:
        return None
    width = stored.shape[1]
    offset = given.storage_offset() - stored.storage_offset()
    first = offset // width
    if offset % width or given.stride() != stored.stride() or first + len(given) > len(stored):
        return None
    return first, first + len(given)


def _at(input_ids: torch.Tensor, batch: Batch) -> bool:
    """True if these ids begin with a whole batch."""
    stored = batch["input_ids"]
    if len(input_ids) < len(stored) or input_ids.shape[1:] != stored.shape[1:]:
        return False
    return torch.equal(input_ids[: len(stored)], stored)


def _sequences(ids: torch.Tensor, name: str, batch: Batch) -> list[Part]:
    """The sequences of a batch that have these ids [T]."""
    found = []
    for b, stored in enumerate(batch["input_ids"]):
        if torch.equal(stored, ids):
            found.append((name, b, b + 1))
    return found


def _lacks(name: str, key: str, batch: Batch) -> str:
    """The sentence for a tensor that a batch lacks."""
    if key in ("logits", "teacher_logits") and ("hidden" in batch or "teacher_hidden" in batch):
        return (
            f"batch {name} has no {key}: the cases of rmu have hidden states and no logits; "
            "expected a loss of hidden states alone"
        )
    if key.startswith("teacher_"):
        return (
            f"batch {name} has no {key}: the method does not read them; expected conform "
            "--all-batches, which hands over every batch with its teacher"
        )
    return f"batch {name} has no {key}; expected conform --all-batches, or another method"
