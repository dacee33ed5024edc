"""SCRUBbio: turn the forget embeddings away from the base's, keep the retain embeddings.

paper      L = mean_f cos(e_f, e_base) + mean_r (1 - cos(e_r, e_base))                   [App. B.12]
released   L = mean_b l_b over a mixed batch of forget and retain pictures;
           l = max(0, cos(e, e_base)) of a forget picture, 1 - cos(e, e_base) of a retain one;
           by caption text, see D1       [CLEAR cv/unlearning/scrub.py:72-76, 114-121 at bb14c96]

needs      embeddings of forget and retain pictures; the base's of both. No class, no head
positions  mean_f, mean_r: divided by the pictures of each batch; mean_b: by those of the mixed
           batch, so that the weights of both sets are their shares of the pool
resolved   R1 App. B.12 writes 1 - d_cos and d_cos with the cosine distance d_cos = 1 - cos.
deviations D1 base embedding and set are looked up by caption text: pictures with equal captions
              share the last one's, and a retain picture's overwrites a forget picture's, which
              then is kept (lines 114-118). D2 below a cosine of 0 a forget picture has no gradient.
           D3 one mean over a pool of the forget set five times and the retain set once (line 83).
           D4 BN uses the statistics of mixed batches and moves its running ones (line 17).
trained    network alone
at base    every cosine is 1, where its gradient is 0: as long as the embeddings equal the base's
           nothing moves but by weight decay. BN in training mode makes them differ
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from clear_ref.methods.loss import Loss

from .inputs import Inputs
from .terms import chosen, cosine, picture_mean
from .variant import Target, Variant


@dataclass(frozen=True)
class Options:
    """SCRUBbio has no options."""


def paper(inputs: Inputs, options: Options) -> Loss:
    return Loss.of(
        forget_cosine=picture_mean(cosine(inputs.batches["forget"])),
        retain_cosine=picture_mean(1 - cosine(inputs.batches["retain"])),
    )


def released(inputs: Inputs, options: Options) -> Loss:
    pool = inputs.batches["pool"]
    cosines = cosine(pool)
    return Loss.of(
        forget_cosine=chosen(cosines.clamp(min=0), pool.forget),
        retain_cosine=chosen(1 - cosines, ~pool.forget),
    )


VARIANTS = {
    "paper": Variant(paper, "pairs", Options, target=Target.BASE),
    "released": Variant(
        released, "pool", Options, target=Target.BASE, by_caption=True, released=True
    ),
}
