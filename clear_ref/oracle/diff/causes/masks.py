"""Causes of a wrong attention mask."""

from collections.abc import Iterator

import torch

from clear_ref.data.batches import IGNORE

from ..comparison import Causes

MOST_SHIFT = 4  # positions
Masks = Iterator[tuple[str, str, torch.Tensor]]


def mask_causes(
    mask: torch.Tensor,
    right: torch.Tensor,
    ids: torch.Tensor,
    labels: torch.Tensor | None,
    image: int | None,
) -> Causes:
    """The causes that give exactly this mask; arguments as in `wrong_masks`."""
    causes: Causes = {}
    for name, detail, wrong in wrong_masks(right, ids, labels, image, ids.shape[1] - 1):
        if name not in causes and torch.equal(wrong, mask.bool()):
            causes[name] = detail
    return causes


def wrong_masks(
    right: torch.Tensor,
    ids: torch.Tensor,
    labels: torch.Tensor | None,
    image: int | None,
    most: int,
) -> Masks:
    """(name of the cause, detail, mask [B, T] bool) of every known wrong mask.

    right   [B, T] bool, the right mask; ids, labels [B, T]
    image   the image token, or None
    most    the largest number of tokens at an end that a mask leaves out
    """
    if not bool(right.all()):
        yield "mask_all_ones", "", torch.ones_like(right)
    yield "mask_for_other_side", "", right.flip(1)
    yield "mask_inverted", "", ~right
    if image is not None:
        yield "mask_hides_pictures", "", right & (ids != image)
    if labels is not None:
        yield "mask_hides_prompt", "", right & (labels != IGNORE)
        yield "mask_hides_answer", "", right & (labels == IGNORE)
    for n in range(1, len(right)):
        yield "mask_of_other_records", f"rows are moved by {n}", right.roll(n, 0)
    yield "mask_of_other_records", "rows are in reverse order", right.flip(0)
    number = right.long().cumsum(1)
    n_real = number[:, -1:]
    for n in range(1, most + 1):
        tokens = "token" if n == 1 else "tokens"
        yield "mask_prefix_missing", f"the first {n} {tokens}", right & (number > n)
        yield "mask_suffix_missing", f"the last {n} {tokens}", right & (number <= n_real - n)
    yield from _shifted_masks(right, min(most, MOST_SHIFT))


def _shifted_masks(right: torch.Tensor, most: int) -> Masks:
    """The mask shifted by up to `most` positions; the new ones are rolled in, 0 or 1."""
    for n in range(1, most + 1):
        for by in (n, -n):
            detail = f"by {by:+} {'position' if n == 1 else 'positions'}"
            rolled = right.roll(by, 1)
            new = slice(0, by) if by > 0 else slice(by, None)
            for filled in (None, False, True):
                moved = rolled.clone()
                if filled is not None:
                    moved[:, new] = filled
                if not bool(moved.all()):  # mask_all_ones
                    yield "mask_shifted", detail, moved


def real_by_ids(
    ids: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor | None,
    pad: int,
    never_padding: set[int],
) -> torch.Tensor:
    """[B, T] bool: positions that are not padding, as far as ids tell without their records.

    Padding is at an end of a row: a run of the pad token, or a run of one other id that the mask
    leaves out. Where pad is BOS or an end token, the mask decides about the run's inner end.
    never_padding  ids of tokens that are no padding: BOS, the image token
    """
    real = torch.ones_like(mask, dtype=torch.bool)
    for b, row in enumerate(ids.tolist()):
        for step in (1, -1):
            places = range(len(row))[::step]
            filler = row[places[0]]
            is_pad = filler == pad
            if filler in never_padding and not is_pad:
                continue
            run = []
            for t in places:
                if row[t] != filler or not (is_pad or mask[b, t] == 0):
                    break
                run.append(t)
            if is_pad and run and pad in never_padding and mask[b, run[-1]] == 1:
                run.pop()
            if len(run) < len(row):
                real[b, run] = False
    return real if labels is None else real | (labels != IGNORE) & (ids != pad)
