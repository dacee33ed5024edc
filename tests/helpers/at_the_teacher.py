"""Batches whose student may be equal to the teacher, and the expected gradients of nll terms.

Gradients are with respect to raw logits, in float64, written down from p = softmax(z) directly.
"""

import torch

from clear_ref.losses import IGNORE, Outputs
from clear_ref.methods import make_options, needs

B, T, V, D = 3, 7, 5, 4
LENGTHS = (4, 1, 2)  # answer tokens of each sequence


def batch(seed, same=True):
    """Outputs of one batch; same: the teacher is equal to the student."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.full((B, T), IGNORE)
    for s, n in enumerate(LENGTHS):
        labels[s, 2 : 2 + n] = torch.randint(0, V, (n,), generator=g)
    logits, teacher = (2 * torch.randn(B, T, V, generator=g, dtype=torch.float64) for _ in range(2))
    hidden, teacher_hidden = (
        torch.randn(B, T, D, generator=g, dtype=torch.float64) for _ in range(2)
    )
    if same:
        teacher, teacher_hidden = logits.clone(), hidden.clone()
    return Outputs(logits, labels, teacher, None, hidden, teacher_hidden)


def batches(method, same=True, **options):
    """{batch name: Outputs} of what the method reads under `paper`."""
    names = needs(method, "paper", make_options(method, options))
    return {name: batch(len(name) + 10 * ord(name[-1]), same) for name in names}


def nll_gradient(outputs, weights):
    """weights[s] (p - onehot(label)) at every answer row, 0 elsewhere; weights [B]."""
    gradient = torch.zeros_like(outputs.logits)
    p = outputs.logits.softmax(-1)
    for s in range(B):
        for t in range(T - 1):
            label = int(outputs.labels[s, t + 1])
            if label != IGNORE:
                gradient[s, t] = weights[s] * p[s, t]
                gradient[s, t, label] -= weights[s]
    return gradient


def close(found, wanted):
    """float64 rounding of a few products of numbers below 10."""
    return (found - wanted).abs().max() < 1e-14


TOKEN = torch.full((B,), 1 / sum(LENGTHS), dtype=torch.float64)  # weights of a token mean
SEQUENCE = torch.tensor(
    [1 / (B * n) for n in LENGTHS], dtype=torch.float64
)  # weights of a sequence mean
SUM = torch.full((B,), 1 / B, dtype=torch.float64)  # weights of the mean sequence sum
