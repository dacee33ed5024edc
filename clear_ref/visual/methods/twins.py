"""Twins: make a forget picture look like a picture that was not trained on, its mirror image.

paper      L = mean_f d(e_f, m_f) + mean_r d(e_r, e_base),
           m the base's embedding of the mirrored picture;  distance=l2: d(a, b) = ||a - b||^2 / D;
           distance=kl: KL(softmax(30 b_hat . W_hat) || softmax(30 a_hat . W_hat)) over people,
           W the base's head                                                             [App. B.11]
released   L = mean_f d(e_f, m_f),  d(a, b) = ||a - b||^2 / D;  by caption text, see D2
                                                   [CLEAR cv/unlearning/twins.py:73-120 at bb14c96]

needs      embeddings of forget pictures, the base's of their mirror images; paper: those of retain
           pictures, and the base's; distance=kl: the base's head
positions  mean_f, mean_r: divided by the pictures of each batch; squares are averaged over the D
           coordinates
resolved   R1 App. B.11 names d "L2 or KL": l2 is the squared distance divided by D, as the code's
              mean square; kl reads the distribution over people.
           R2 the augmentation is the mirror, as in the code.
deviations D1 there is no retain term: retain targets are computed and never read, for the training
              set is the forget set alone (line 82).
           D2 targets are looked up by caption text: forget pictures with equal captions share the
              last one's, and a retain picture's embedding overwrites them (lines 113-117).
           D3 BN uses the statistics of forget batches alone and moves its running ones (line 17).
trained    network alone
at base    the retain term and its gradient are 0 but for BN, see rmu.py
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from torch import Tensor

from clear_ref.common.settings import setting
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import check_one_of
from clear_ref.visual.head import cosine_logits

from .inputs import Batch, Inputs
from .terms import kl, picture_mean, squared_distance
from .variant import Target, Variant


@dataclass(frozen=True)
class Options:
    distance: str = setting(
        "l2", "distance of embeddings: l2 | kl", "paper App. B.11", ("l2", "kl")
    )

    def __post_init__(self) -> None:
        check_one_of(self, "distance")


@dataclass(frozen=True)
class Released:
    """The released Twins has no options."""


def distance(inputs: Inputs, batch: Batch, options: Options) -> Tensor:
    """[B]: d of each picture."""
    if options.distance == "l2":
        return squared_distance(batch)
    target = cosine_logits(batch.target(), inputs.base_weight, True)
    return kl(target, cosine_logits(batch.embeddings, inputs.base_weight, True))


def paper(inputs: Inputs, options: Options) -> Loss:
    return Loss.of(
        forget_distance=picture_mean(distance(inputs, inputs.batches["forget"], options)),
        retain_distance=picture_mean(distance(inputs, inputs.batches["retain"], options)),
    )


def released(inputs: Inputs, options: Released) -> Loss:
    return Loss.of(forget_distance=picture_mean(squared_distance(inputs.batches["forget"])))


VARIANTS = {
    "paper": Variant(paper, "pairs", Options, target=Target.MIRRORED),
    "released": Variant(
        released, "forget", Released, target=Target.MIRRORED, by_caption=True, released=True
    ),
}
