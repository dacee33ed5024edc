"""Records to one padded batch of tensors."""

from dataclasses import dataclass

import torch

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """input_ids, attention_mask, labels [B, T] (labels: the answer's ids, IGNORE elsewhere). Padding stands on the left.

    pixel_values    the pictures of the records that have one, in order: [N, 3, H, W], or for families whose pictures vary in
                    size [patches of all, patch width]; None without pictures
    image_grid_thw  int64 [N, 3], in patches, for those families; else None
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None = None

    def to(self, device, dtype) -> "Batch":
        """The same batch on a device, pixels in the model's dtype."""
        pixels = None if self.pixel_values is None else self.pixel_values.to(device, dtype)
        grid = None if self.image_grid_thw is None else self.image_grid_thw.to(device)
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.labels.to(device),
            pixels,
            grid,
        )


def collate(sequences, answer_starts, pictures, pad: int) -> Batch:
    """One batch of token id lists and Pictures; labels are the ids from each answer's start on."""
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
    if pictures[0].grid is None:
        return Batch(ids, mask, labels, torch.stack([picture.pixels for picture in pictures]))
    return Batch(
        ids,
        mask,
        labels,
        torch.cat([picture.pixels for picture in pictures]),
        torch.tensor([picture.grid for picture in pictures]),
    )
