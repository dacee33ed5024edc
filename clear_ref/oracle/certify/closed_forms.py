"""Inputs and gradients of closed forms, written down without the package's losses.

p is the softmax of the student's logits, e the label's one-hot vector.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from clear_ref.losses.outputs import Outputs
from clear_ref.losses.rows import Rows, select_rows

from . import random_trials
from .measured import Given, largest
from .random_trials import Result

Batches = dict[str, Outputs]


def at_teacher(
    method: str,
    semantics: str,
    given: Given | None = None,
    change: Callable[[Batches], Batches] | None = None,
) -> tuple[Batches, Result]:
    """(batches, Result) with the student as teacher; change: applied to the batches first."""
    outputs = random_trials.usual_batches(method, semantics, given or {}, same=True)
    if change is not None:
        outputs = change(outputs)
    return outputs, random_trials.loss(method, semantics, given or {}, outputs)


def apart(method: str, semantics: str, given: Given | None = None) -> tuple[Batches, Result]:
    """(batches, Result) with a teacher that differs from the student."""
    outputs = random_trials.usual_batches(method, semantics, given or {})
    return outputs, random_trials.loss(method, semantics, given or {}, outputs)


def logits_of(batch: Outputs) -> Tensor:
    """The student's logits [B, T, V]."""
    assert batch.logits is not None  # only rmu has hidden states instead
    return batch.logits


def teacher_logits_of(batch: Outputs) -> Tensor:
    """The teacher's logits [B, T, V]."""
    assert batch.teacher_logits is not None  # the method reads a teacher
    return batch.teacher_logits


def hidden_of(batch: Outputs) -> Tensor:
    """The student's hidden states [B, T, D]."""
    assert batch.hidden is not None  # the method is rmu
    return batch.hidden


def answer_rows(batch: Outputs) -> Rows:
    """The answer rows of a batch."""
    assert batch.attention_mask is not None  # random batches have one
    return select_rows(batch.labels, batch.attention_mask, "answer")


def nll_gradient(batch: Outputs, weights: Tensor) -> Tensor:
    """[B, T, V]: weights[s] (p - e) at the answer rows of sequence s, 0 elsewhere."""
    rows = answer_rows(batch)
    logits = logits_of(batch)
    part = logits[rows.sequence, rows.position].softmax(-1)
    part[torch.arange(len(part)), rows.labels] -= 1
    gradient = torch.zeros_like(logits)
    gradient[rows.sequence, rows.position] = weights[rows.sequence, None] * part
    return gradient


def token_mean_gradient(batch: Outputs, factor: float = 1.0) -> Tensor:
    """[B, T, V]: the gradient of factor times the token mean of nll."""
    return nll_gradient(batch, token_weights(batch, factor))


def lengths(batch: Outputs) -> Tensor:
    """[B]: number of answer tokens of each sequence."""
    return torch.bincount(answer_rows(batch).sequence, minlength=len(batch.labels)).double()


def token_weights(batch: Outputs, factor: float = 1.0) -> Tensor:
    """[B]: the weights of a token mean."""
    weight = factor / float(lengths(batch).sum())
    return torch.full((len(batch.labels),), weight, dtype=torch.float64)


def sum_weights(batch: Outputs, factor: float = 1.0) -> Tensor:
    """[B]: the weights of a mean over sequences of sums."""
    weight = factor / len(batch.labels)
    return torch.full((len(batch.labels),), weight, dtype=torch.float64)


def answer_nll(batch: Outputs, teacher: bool = False) -> Tensor:
    """[B]: the nll of each whole answer, by the student or by the teacher."""
    rows = answer_rows(batch)
    logits = teacher_logits_of(batch) if teacher else logits_of(batch)
    logits = logits[rows.sequence, rows.position]
    nll = logits.logsumexp(-1) - logits.gather(1, rows.labels[:, None])[:, 0]
    return torch.zeros(len(batch.labels), dtype=torch.float64).index_add_(0, rows.sequence, nll)


def gradient_error(found: Result, wanted: dict[str, Tensor]) -> float:
    """The largest difference from the wanted gradients, by batch name; 0 where none is named."""
    zero = torch.zeros(())
    return largest(
        *(
            float((gradient - wanted.get(name, zero)).abs().max())
            for name, gradient in found.gradients.items()
        )
    )
