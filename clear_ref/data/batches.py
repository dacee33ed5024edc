"""One padded batch of tensors from token ids and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .images import Picture

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """One batch, padded on the left.

    input_ids       int64 [B, T]
    attention_mask  int64 [B, T], 1 where there is a token, 0 at padding
    labels          int64 [B, T], the ids of the answer, IGNORE elsewhere
    pixel_values    the pictures of the records that have one, in order: [N, 3, H, W], or
                    [patches of all pictures, patch width] for model families whose pictures vary
                    in size; None without pictures
    image_grid_thw  int64 [N, 3] in patches (time, height, width), for those families; else None
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Batch":
        """The same batch on a device; the pixels in the model's dtype."""
        pixels = self.pixel_values
        grid = self.image_grid_thw
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.labels.to(device),
            None if pixels is None else pixels.to(device, dtype),
            None if grid is None else grid.to(device),
        )


def collate(
    sequences: Sequence[Sequence[int]],
    answer_starts: Sequence[int],
    pictures: Sequence[Picture],
    pad: int,
) -> Batch:
    """One batch; the labels are the ids from each answer's start on.

    sequences      token ids of each record
    answer_starts  position of the first answer token of each record, before padding
    pictures       of the records that have one, in order
    pad            token id at padding
    """
    T = max(map(len, sequences))
    ids = torch.full((len(sequences), T), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for row, (sequence, start) in enumerate(zip(sequences, answer_starts, strict=True)):
        first = T - len(sequence)
        ids[row, first:] = torch.tensor(sequence)
        mask[row, first:] = 1
        labels[row, first + start :] = ids[row, first + start :]
    if not pictures:
        return Batch(ids, mask, labels, None)
    pixels = [picture.pixels for picture in pictures]
    if pictures[0].grid is None:
        return Batch(ids, mask, labels, torch.stack(pixels))
    grid = torch.tensor([picture.grid for picture in pictures])
    return Batch(ids, mask, labels, torch.cat(pixels), grid)


def padded(batch: Batch, T: int, pad: int) -> Batch:
    """The same batch, T positions wide: more padding on the left.

    pad  token id at padding
    """
    n = T - batch.input_ids.shape[1]
    widened = {
        name: torch.nn.functional.pad(getattr(batch, name), (n, 0), value=value)
        for name, value in (("input_ids", pad), ("attention_mask", 0), ("labels", IGNORE))
    }
    return replace(batch, **widened)
