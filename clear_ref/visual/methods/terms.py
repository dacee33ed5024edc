"""The terms of the visual losses. Each is a mean over pictures and says by what it divides."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from clear_ref.common.errors import ShapeError
from clear_ref.visual.head import am_softmax, check_head, check_labels

from .inputs import Batch


def picture_mean(values: Tensor) -> Tensor:
    """Scalar: the sum of [B] values / B, the pictures of the batch."""
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"values are {list(values.shape)}; expected [B], one for each picture")
    return values.mean()


def mean_am_softmax(
    batch: Batch, weight: Tensor, normalise_weights: bool, labels: Tensor | None = None
) -> Tensor:
    """Scalar: mean over pictures of AM-softmax; labels None: the pictures' own."""
    chosen = batch.labels if labels is None else labels
    return picture_mean(am_softmax(batch.embeddings, weight, chosen, normalise_weights))


def kl(of: Tensor, against: Tensor) -> Tensor:
    """[B]: KL(of || against) of the softmax of two tensors of logits [B, K], in nats."""
    if of.shape != against.shape or of.ndim != 2:
        raise ShapeError(
            f"logits are {list(of.shape)} and {list(against.shape)}; expected two [B, K]"
        )
    logp = of.log_softmax(1)
    return (logp.exp() * (logp - against.log_softmax(1))).sum(1)


def squared_distance(batch: Batch) -> Tensor:
    """[B]: mean over the D coordinates of (embedding - target)^2."""
    return (batch.embeddings - batch.target()).square().mean(1)


def cosine(batch: Batch) -> Tensor:
    """[B]: cosine of embedding and target."""
    return functional.cosine_similarity(batch.embeddings, batch.target(), dim=1)


def own_log_probability(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """[B]: log softmax(e . W)[y], e and W as they are: no scale, no margin."""
    check_head(embeddings, weight)
    check_labels(labels, len(embeddings), len(weight))
    logp = (embeddings @ weight.T).log_softmax(1)
    return logp.gather(1, labels[:, None])[:, 0]


def chosen(values: Tensor, among: Tensor) -> Tensor:
    """Scalar: the sum of the [B] values where `among` is true / B: a part of the batch's mean."""
    if values.shape != among.shape or among.dtype != torch.bool:
        raise ShapeError(
            f"values are {list(values.shape)}, the pictures' set is {among.dtype} "
            f"{list(among.shape)}; expected [B] and bool [B]"
        )
    return picture_mean(torch.where(among, values, torch.zeros_like(values)))
