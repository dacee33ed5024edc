"""Where the tokens of a batch's records lie in the rows of a dump."""

from dataclasses import dataclass

import torch

from clear_ref.data.batches import IGNORE
from clear_ref.oracle.encoded_batches import EncodedBatch
from clear_ref.oracle.reference.rows import KINDS, PADDING

NOTHING = -1  # the id at a position where a record has no token


@dataclass(frozen=True)
class Alignment:
    """The records' tokens at the positions of a dump's rows.

    ids     [B, T] the record's id at each position; NOTHING outside
    labels  [B, T] the right labels; kinds [B, T] numbers in KINDS
    whole   [B] bool: the row holds its record's ids, all of them, side by side
    rows    the record's ids of each row
    """

    ids: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    whole: torch.Tensor
    rows: list[list[int]]

    @property
    def real(self) -> torch.Tensor:
        """[B, T] bool: the positions that hold a record's token."""
        return self.ids != NOTHING


def align(encoded: EncodedBatch, ids: torch.Tensor, real: torch.Tensor, pad: int) -> Alignment:
    """The records of an EncodedBatch at the positions of rows of ids [B, T].

    A record begins at the row's first real position, or where its ids are found, if nothing but
    padding is around them.
    real  [B, T] bool: the positions that the dump's mask has; pad: the padding token
    """
    batch = encoded.batch
    own_real = batch.attention_mask.cpu() == 1
    expected = torch.full_like(ids, NOTHING)
    labels = torch.full_like(ids, IGNORE)
    kinds = torch.full_like(ids, PADDING)
    whole = torch.zeros(len(ids), dtype=torch.bool)
    rows = []
    for b in range(len(ids)):
        own_ids = batch.input_ids[b].cpu()[own_real[b]]
        own_labels = batch.labels[b].cpu()[own_real[b]]
        numbers = torch.tensor([KINDS.index(kind) for kind in encoded.kinds[b]])[own_real[b]]
        rows.append(own_ids.tolist())
        start, whole[b] = _start(ids[b], own_ids, real[b], pad)
        n = min(len(own_ids), ids.shape[1] - start)
        place = slice(start, start + n)
        expected[b, place] = own_ids[:n]
        labels[b, place] = own_labels[:n]
        kinds[b, place] = numbers[:n]
    return Alignment(expected, labels, kinds, whole, rows)


def _start(row: torch.Tensor, own: torch.Tensor, real: torch.Tensor, pad: int) -> tuple[int, bool]:
    """(where a record begins in a row, whether its ids are there)."""
    n = len(own)
    first = int(real.long().argmax())
    if n <= len(row):
        matches = (row.unfold(0, n, 1) == own).all(1).nonzero().flatten().tolist()
        for start in sorted(matches, key=lambda start: abs(start - first)):
            outside = real.clone()
            outside[start : start + n] = False
            if bool((row[outside] == pad).all()):
                return start, True
    return first, False
