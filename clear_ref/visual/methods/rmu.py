"""RMU: move the forget embeddings to random vectors, keep the retain embeddings.

paper      L = mean_f d(e_f, c u) + alpha mean_r d(e_r, e_base),  d(a, b) = ||a - b||^2 / D;
           u = v / ||v||, v ~ U[0,1)^D, one for all pictures, fixed;  alpha = 1          [App. B.10]
released   L = mean_b d(e_b, t_b) over a mixed batch of forget and retain pictures;
           t of a forget picture: 2 u', u' ~ U(-1,1)^D, one for each picture, fixed;
           t of a retain picture: e_base; by caption text, see D1
                                                     [CLEAR cv/unlearning/rmu.py:73-114 at bb14c96]

needs      embeddings of forget and retain pictures; their targets. No class, no head
positions  mean_f, mean_r: divided by the pictures of each batch; mean_b: by those of the mixed
           batch, so that the weights of both sets are their shares of the pool; squares are
           averaged over the D coordinates
resolved   R1 the steered activation is the embedding, the network's last one.
           R2 squares are averaged over D, not summed as printed: the recipe's rate belongs to the
              mean, and a sum is D times as steep.
           R3 c = 26.1, the length of the released vectors: 2 sqrt(D / 3) for D = 512; alpha = 1.
deviations D1 targets are looked up by caption text: pictures with equal captions share the last
              one's, and a retain picture's overwrites a forget picture's (lines 107-111).
           D2 a vector of its own for each picture, of no common direction. D3 one mean over a pool
              of the forget set ten times and the retain set once (line 83).
           D4 BN uses the statistics of mixed batches and moves its running ones (line 17).
trained    network alone
at base    the retain term and its gradient are 0 but for BN: the base's embeddings are those of BN
           in eval mode, the trained ones those of BN in training mode
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import check_finite

from .inputs import Inputs
from .terms import chosen, picture_mean, squared_distance
from .variant import Target, Variant

SCRIPT = "CLEAR cv/unlearning/rmu.py:49 at bb14c96"


@dataclass(frozen=True)
class Options:
    c: float = setting(26.1, "length of the target vector", f"{SCRIPT}: 2 sqrt(512 / 3)")
    alpha: float = setting(1.0, "weight of the retain term", "paper App. B.10, in the text alone")

    def __post_init__(self) -> None:
        check_finite(self, "c", "alpha")


@dataclass(frozen=True)
class Released:
    c: float = setting(2.0, "the coordinates of a target are c times U(-1, 1)", SCRIPT)

    def __post_init__(self) -> None:
        check_finite(self, "c")


def paper(inputs: Inputs, options: Options) -> Loss:
    retain = picture_mean(squared_distance(inputs.batches["retain"]))
    return Loss.of(
        forget_distance=picture_mean(squared_distance(inputs.batches["forget"])),
        retain_distance=options.alpha * retain,
    )


def released(inputs: Inputs, options: Released) -> Loss:
    pool = inputs.batches["pool"]
    distance = squared_distance(pool)
    return Loss.of(
        forget_distance=chosen(distance, pool.forget),
        retain_distance=chosen(distance, ~pool.forget),
    )


VARIANTS = {
    "paper": Variant(paper, "pairs", Options, target=Target.DIRECTION),
    "released": Variant(
        released, "pool", Released, target=Target.PER_PICTURE, by_caption=True, released=True
    ),
}
