"""What closed forms are made of: inputs where student and teacher agree or not, and gradients written down from p - e.

p is the softmax of the student's logits, e the label's one-hot.
"""

import torch

from clear_ref.losses.rows import select_rows

from . import random_trials
from .laws import larger


def at_teacher(method, semantics, given=None, change=None):
    """(batches, Result) with a teacher that is the student; change: batches -> batches, before the loss."""
    given = given or {}
    outputs = random_trials.batches(
        method, semantics, given, random_trials.shape_for(method, semantics), same=True
    )
    outputs = outputs if change is None else change(outputs)
    return outputs, random_trials.loss(method, semantics, given, outputs)


def apart(method, semantics, given=None, change=None):
    """(batches, Result) with a teacher of its own."""
    given = given or {}
    outputs = random_trials.batches(
        method, semantics, given, random_trials.shape_for(method, semantics)
    )
    outputs = outputs if change is None else change(outputs)
    return outputs, random_trials.loss(method, semantics, given, outputs)


def nll_gradient(one, weights):
    """[B, T, V]: weights[s] (p - e) at the answer rows of sequence s."""
    rows = select_rows(one.labels, one.attention_mask, "answer")
    gradient = torch.zeros_like(one.logits)
    part = one.logits[rows.sequence, rows.position].softmax(-1)
    part[torch.arange(len(part)), rows.labels] -= 1
    gradient[rows.sequence, rows.position] = weights[rows.sequence, None] * part
    return gradient


def lengths(one):
    """[B] answer tokens of each sequence."""
    return torch.bincount(
        select_rows(one.labels, one.attention_mask, "answer").sequence, minlength=len(one.labels)
    ).double()


def token_weights(one, factor=1.0):
    """[B]: the weights of a token mean."""
    return torch.full((len(one.labels),), factor / float(lengths(one).sum()), dtype=torch.float64)


def sum_weights(one, factor=1.0):
    """[B]: those of a mean over sequences of sums."""
    return torch.full((len(one.labels),), factor / len(one.labels), dtype=torch.float64)


def sums(one, teacher=False):
    """[B]: nll of each whole answer."""
    rows = select_rows(one.labels, one.attention_mask, "answer")
    logits = (one.teacher_logits if teacher else one.logits)[rows.sequence, rows.position]
    nll = logits.logsumexp(-1) - logits.gather(1, rows.labels[:, None])[:, 0]
    return torch.zeros(len(one.labels), dtype=torch.float64).index_add_(0, rows.sequence, nll)


def off(found, wanted) -> float:
    """The largest difference of two gradients by batch."""
    return larger(
        *(
            float((found.gradients[name] - wanted.get(name, torch.zeros(()))).abs().max())
            for name in found.gradients
        )
    )
