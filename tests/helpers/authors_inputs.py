"""The inputs behind tests/vectors/authors.json, from a seed: what the authors' code was given, and what ours is given.

Every number is one of NumPy's legacy generator (whose stream is frozen), rounded to fp32, so that fp32 and float64 start equal.
"""

import numpy as np
import torch

from clear_ref.losses import IGNORE, Outputs


def outputs(seed, layout, V=5, D=4, gap=0.15, same=False, dtype=torch.float64):
    """Outputs [B, T]: one batch.

    layout  one string a sequence, a letter a position: "." padding, "p" prompt, "a" answer (labelled)
    gap     deviation of teacher's from student's logits; same: they are equal
    """
    rng = np.random.RandomState(seed)
    B, T = len(layout), len(layout[0])
    draw = lambda width, scale: torch.tensor(
        (scale * rng.standard_normal((B, T, width))).astype(np.float32)
    )  # noqa: E731
    logits, moved, hidden, moved_hidden = draw(V, 1.5), draw(V, gap), draw(D, 1.0), draw(D, 0.5)
    labels = torch.tensor(rng.randint(0, V, (B, T)))
    kinds = [list(row) for row in layout]
    labels[torch.tensor([[kind != "a" for kind in row] for row in kinds])] = IGNORE
    mask = torch.tensor([[int(kind != ".") for kind in row] for row in kinds])
    teacher = logits if same else logits + moved
    return Outputs(
        logits.to(dtype),
        labels,
        teacher.to(dtype),
        mask,
        hidden.to(dtype),
        (hidden + moved_hidden).to(dtype),
    )
