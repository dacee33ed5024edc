"""Where a loss or gradient that nothing explains differs from the right one first."""

import numpy as np

from clear_ref.oracle.reference.rows import IGNORE, IMAGE, PADDING, Batch

from .agreement import Judge
from .judged_function import Answer


def first_difference(judge: Judge, answer: Answer, batches: dict[str, Batch]) -> str:
    """One sentence: which batch, row and columns differ first, and how many rows of which kind."""
    loss = "the loss is right" if judge.loss_agrees(answer) else "the loss is off"
    if answer.gradients is None:
        return f"{loss}; without a gradient no place can be named"
    off = judge.excess(answer)
    if not off:
        return f"{loss}, the gradient is right"
    name = next(iter(off))
    wrong = off[name]
    b, t, _ = (int(i) for i in np.argwhere(wrong)[0])
    columns = [int(v) for v in np.flatnonzero(wrong[b, t])]
    shown = f"columns {', '.join(map(str, columns[:5]))}{', ...' if len(columns) > 5 else ''}"
    if len(columns) == wrong.shape[2]:
        shown = "all columns"
    kinds = _kinds_of_rows(batches[name])
    counts = []
    for kind in dict.fromkeys(kinds.ravel()):
        n_wrong = int(wrong[kinds == kind].max(1).sum())
        if n_wrong:
            counts.append(f"{n_wrong} of {int((kinds == kind).sum())} {kind} rows")
    return (
        f"{loss}; the gradient of {name} differs first at sequence {b}, position {t} "
        f"({kinds[b, t]} row), in {shown}; in all in {', '.join(counts)}"
    )


def _kinds_of_rows(batch: Batch) -> np.ndarray:
    """[B, T]: answer for a row that predicts a label, else the kind of its own position."""
    kinds = np.full(batch["labels"].shape, "prompt", dtype=object)
    kinds[batch["kinds"] == IMAGE] = "image"
    kinds[batch["kinds"] == PADDING] = "padding"
    kinds[(batch["kinds"] == 3) & (batch["attention_mask"] == 1)] = "last"
    following = np.full_like(batch["labels"], IGNORE)
    following[:, :-1] = batch["labels"][:, 1:]
    kinds[following != IGNORE] = "answer"
    return kinds
