"""Records to one padded batch of tensors."""

from dataclasses import dataclass

import torch

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """input_ids, attention_mask, labels [B, T] (labels: the answer's ids, IGNORE elsewhere); pixel_values [N, 3, H, W] of the
    records with a picture, in order, or None. Padding stands on the left."""
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None

    def to(self, device, dtype) -> "Batch":
        """The same batch on a device, pixels in the model's dtype."""
        pixels = None if self.pixel_values is None else self.pixel_values.to(device, dtype)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), pixels)


def collate(sequences, answer_starts, pixels, pad: int, side: str = "left") -> Batch:
    """One batch of token id lists; labels are the ids from each answer's start on."""
    T = max(map(len, sequences))
    ids = torch.full((len(sequences), T), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for row, (sequence, start) in enumerate(zip(sequences, answer_starts, strict=True)):
        first = T - len(sequence) if side == "left" else 0
        last = first + len(sequence)
        ids[row, first:last] = torch.tensor(sequence)
        mask[row, first:last] = 1
        labels[row, first + start:last] = ids[row, first + start:last]
    return Batch(ids, mask, labels, torch.stack(pixels) if pixels else None)
