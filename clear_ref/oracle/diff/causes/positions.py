"""Causes of wrong positions: those of Qwen2-VL have three axes (time, height, width)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import torch

from ..comparison import Causes, Fit
from ..places import AXES

Sizes = Sequence[tuple[int, int]]  # (rows, columns) in tokens of the batch's pictures
AFTER_PICTURE: dict[str, Callable[[int, int], int]] = {
    "number of tokens": lambda rows, columns: rows * columns,
    "rows": lambda rows, columns: rows,
    "columns": lambda rows, columns: columns,
    "1": lambda rows, columns: 1,
    "0": lambda rows, columns: 0,
    "2 x max(rows, columns), the picture's size in patches": lambda r, c: 2 * max(r, c),
}


def with_axes(positions: torch.Tensor, B: int, T: int) -> torch.Tensor:
    """[A, B, T] of positions [B, T], [3, B, T] or [4, B, T], where B may be 1; A is 1 or 3.

    The first of 4 axes is left out: it is transformers' position in the text.
    """
    if positions.ndim == 2:
        positions = positions[None]
    return positions[-3:].expand(-1, B, T)


def relative(positions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Positions [A, B, T] minus that of each row's first real position, on each axis.

    Rotary attention depends on differences of positions alone.
    """
    first = real.long().argmax(1)[None, :, None].expand(len(positions), -1, 1)
    return positions - positions.gather(2, first)


def plain(real: torch.Tensor) -> torch.Tensor:
    """[3, B, T]: real positions counted from 0, on three axes."""
    return (real.long().cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)


def wrong_positions(
    is_image: torch.Tensor, real: torch.Tensor, sizes: Sizes
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(name of the cause, detail, positions [3, B, T]) of every known wrong position.

    is_image, real  [B, T] bool
    """
    yield "plain_positions", "", plain(real)
    right = three_axes(is_image, real, sizes)
    for axes in permutations(range(3)):
        if axes != (0, 1, 2):
            detail = ", ".join(AXES[axis] for axis in axes)
            yield "position_axes_permuted", f"the order is {detail}", right[list(axes)]
    swapped = [(columns, rows) for rows, columns in sizes]
    yield "position_grid_swapped", "", three_axes(is_image, real, swapped)
    yield "position_picture_from_zero", "", three_axes(is_image, real, sizes, from_zero=True)
    for detail, after in AFTER_PICTURE.items():
        found = three_axes(is_image, real, sizes, after)
        yield "position_after_picture", f"it continues at start + {detail}", found
    one = [(1, rows * columns) for rows, columns in sizes]
    yield "picture_has_one_position", "", three_axes(is_image, real, one, lambda r, c: 1, flat=True)


def three_axes(
    is_image: torch.Tensor,
    real: torch.Tensor,
    sizes: Sizes,
    after: Callable[[int, int], int] = max,
    from_zero: bool = False,
    flat: bool = False,
) -> torch.Tensor:
    """[3, B, T] positions, token by token; those of Qwen2-VL unless an argument changes a rule.

    after      (rows, columns) of a picture -> how far the text after it is from its start
    from_zero  a picture's positions start at 0; flat: all its tokens are at its start
    """
    positions = torch.zeros(3, *is_image.shape, dtype=torch.long)
    pictures = iter(sizes)
    for b in range(len(is_image)):
        next_position = 0
        start = 0
        done = size = columns = 0  # tokens of the picture so far, its tokens, its columns
        for t in real[b].nonzero().flatten().tolist():
            if not bool(is_image[b, t]):
                positions[:, b, t] = next_position
                next_position += 1
                continue
            if done == size:
                rows, columns = next(pictures, (1, 1))
                done, size, start = 0, rows * columns, next_position
                next_position += after(rows, columns)
            row, column = (0, 0) if flat else divmod(done, columns)
            base = 0 if from_zero else start
            positions[:, b, t] = base + torch.tensor((0, row, column))
            done += 1
    return positions


def position_causes(
    fit: Fit, theirs: torch.Tensor, is_image: torch.Tensor, real: torch.Tensor, sizes: Sizes
) -> Causes:
    """The causes of wrong positions; theirs [A, B, T], as the dump has them.

    fit  theirs and ours relative to each row's first real position, [B, T, A]
    """
    causes: Causes = {}
    if len(theirs) == 1:
        return {"positions_with_gaps": ""}
    for name, detail, wrong in wrong_positions(is_image, real, sizes):
        if name not in causes and fit.explained_by(relative(wrong, real).permute(1, 2, 0)):
            causes[name] = detail
    if "plain_positions" in causes:
        first = real.long().argmax(1)
        offsets = theirs[0].gather(1, first[:, None])[:, 0].tolist()
        causes["plain_positions"] = f"rows start at {', '.join(map(str, offsets))}"
    return causes
