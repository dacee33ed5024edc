"""The inputs of tests/vectors/authors.json, from a seed; the authors' code and ours get the same.

Every number comes from NumPy's legacy generator, whose stream is frozen. It is rounded to fp32, so
fp32 and float64 start with equal values.
"""

import json
from pathlib import Path

import numpy as np
import torch

from clear_ref.losses import IGNORE, Outputs

FOUND = json.loads(
    (Path(__file__).parents[1] / "vectors" / "authors.json").read_text(encoding="utf-8")
)


def inputs(case, dtype=torch.float64):
    """{batch: Outputs} of a case of authors.json, its student tensors leaves."""
    given = {
        name: outputs(case["seeds"][name], layout, dtype=dtype, **case["inputs"])
        for name, layout in case["layouts"].items()
    }
    for name, other in case.get("others", {}).items():
        given[name] = outputs(other["seed"], other["layout"], dtype=dtype)
    for batch in given.values():
        getattr(batch, case["tensor"]).requires_grad_()
    return given


def outputs(seed, layout, V=5, D=4, gap=0.15, same=False, dtype=torch.float64):
    """Outputs [B, T]: one batch.

    layout  one string per sequence, one letter per position: "." padding, "p" prompt, "a" answer
            (with a label)
    gap     standard deviation of the teacher's logits from the student's; same: they are equal
    """
    rng = np.random.RandomState(seed)
    B, T = len(layout), len(layout[0])

    def draw(width, scale):
        return torch.tensor((scale * rng.standard_normal((B, T, width))).astype(np.float32))

    # The order of these draws fixes the numbers.
    logits = draw(V, 1.5)
    logits_change = draw(V, gap)
    hidden = draw(D, 1.0)
    hidden_change = draw(D, 0.5)
    labels = torch.tensor(rng.randint(0, V, (B, T)))
    kinds = [list(row) for row in layout]
    labels[torch.tensor([[kind != "a" for kind in row] for row in kinds])] = IGNORE
    mask = torch.tensor([[int(kind != ".") for kind in row] for row in kinds])
    teacher = logits if same else logits + logits_change
    return Outputs(
        logits.to(dtype),
        labels,
        teacher.to(dtype),
        mask,
        hidden.to(dtype),
        (hidden + hidden_change).to(dtype),
    )
