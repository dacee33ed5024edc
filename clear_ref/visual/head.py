"""The head of the face network: AM-softmax, a softmax over people with a margin.

    z_k = s (e_hat . W_k - m [k = y]),  s = 30, m = 0.4;  loss = logsumexp(z) - z_y

e_hat is the embedding divided by its length. There are two readings of W:

paper      every W_k divided by its length too, as AM-softmax defines it
released   W as it is: the code divides into a local name, which nothing reads
                                                          [CLEAR cv/AdMSLoss.py:26-27 at bb14c96]

The released code takes exp(z) without subtracting the largest z, and in float32 gives inf once a z
is above 88.7 (a length of W_k above 2.96). Here the largest z is subtracted: the same value where
the code's is finite, and a finite one where it is not.

source  AM-softmax, arXiv 1801.05599; CLEAR cv/AdMSLoss.py:7-36 at bb14c96
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from clear_ref.common.errors import LabelError, ShapeError
from clear_ref.data.torch_draws import torch_generator

SCALE = 30.0
MARGIN = 0.4
HEAD_WEIGHT = "head.weight"  # the name of the head's tensor in a file


class Head(nn.Module):
    """weight [classes, D]: one vector for each person."""

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_classes, width))


def new_head(n_classes: int, width: int, seed: int) -> Head:
    """A head with initial values: uniform in (-1/sqrt(D), 1/sqrt(D)), so that a row has a length of
    about 0.577.

    source  torch.nn.Linear, which the code uses (CLEAR cv/AdMSLoss.py:16 at bb14c96)
    """
    head = Head(n_classes, width)
    bound = 1 / math.sqrt(width)
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=torch_generator(seed, "visual head"))
    return head


def cosine_logits(
    embeddings: Tensor, weight: Tensor, normalise_weights: bool, scale: float = SCALE
) -> Tensor:
    """[B, classes]: s e_hat . W_k, the logits of a picture without a margin.

    embeddings         [B, D]; one of length 0 gives logits 0
    weight             [classes, D]
    normalise_weights  True: every W_k is divided by its length (paper); False: as it is (released)
    raises             ShapeError on any disagreement
    """
    check_head(embeddings, weight)
    if normalise_weights:
        weight = functional.normalize(weight, dim=1)
    return scale * (functional.normalize(embeddings, dim=1) @ weight.T)


def am_softmax(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    normalise_weights: bool,
    scale: float = SCALE,
    margin: float = MARGIN,
) -> Tensor:
    """[B]: the loss of each picture in nats; not reduced.

    labels  [B] int64, in [0, classes)
    others  as cosine_logits
    raises  ShapeError on any disagreement; LabelError names the first label out of range
    """
    logits = cosine_logits(embeddings, weight, normalise_weights, scale)
    check_labels(labels, len(logits), weight.shape[0])
    margins = scale * margin * functional.one_hot(labels, weight.shape[0])
    return functional.cross_entropy(logits - margins, labels, reduction="none")


def check_head(embeddings: Tensor, weight: Tensor) -> None:
    """ShapeError unless embeddings are [B, D] and weight [classes, D], of one dtype."""
    fits = (
        embeddings.ndim == 2
        and weight.ndim == 2
        and embeddings.shape[1] == weight.shape[1]
        and embeddings.dtype == weight.dtype
    )
    if not fits:
        raise ShapeError(
            f"embeddings are {embeddings.dtype} {list(embeddings.shape)}, the head's weight "
            f"{weight.dtype} {list(weight.shape)}; expected [B, D] and [classes, D] of one dtype"
        )


def check_labels(labels: Tensor, n: int, n_classes: int) -> None:
    """ShapeError unless labels are int64 [n]; LabelError for one outside [0, n_classes)."""
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ShapeError(
            f"labels are {labels.dtype} {list(labels.shape)}; expected torch.int64 [{n}]"
        )
    wrong = ((labels < 0) | (labels >= n_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise LabelError(
            f"label of picture {row} is {int(labels[row])}; expected a class in [0, {n_classes})"
        )
