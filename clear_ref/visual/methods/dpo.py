"""DPO: prefer another person to the true one, relative to the base.

paper      L = lambda_random mean_f a_random + lambda_dpo mean_f softplus(-beta h_f)      [App. B.6]
           h, of one forget picture,
           = (log p - log p_base of the random person) - (log p - log p_base of the true one);
           p = softmax(30 e_hat . W_hat) over people;
           a_random = AM-softmax of the random person's class, W normalised;
           softplus(-x) = -log sigmoid(x);  beta = 0.1
released   L = (1/beta) mean_i softplus(-beta (g_r(i) - g_f(i))),  beta = 1;
           g = log p - log p_base of the true person of one picture;
           picture i of the retain batch and picture i of the forget batch;
           p = softmax(e . W), e and W as they are
                                                      [CLEAR cv/unlearning/dpo.py:20-38 at bb14c96]

needs      forget pictures with their classes, the base's embeddings and head; paper: a random
           class for each; released: retain pictures with the same
positions  mean_f: divided by the forget pictures of the batch; mean_i: by the pairs
resolved   R1 the refusal (chosen) is a random person of the retain set, see llmu.py, R1; the true
              person is the rejected answer. R2 lambda_random = lambda_dpo = 1, beta = 0.1.
           R3 the reference is the base: a first stage on random people would be another model for
              each draw. R4 no retain term is printed in App. B.6: none, and
              an epoch is one pass over the forget set, repeated.
           R5 p is without the margin.
deviations D1 the preferred answer belongs to another picture: the true person of a retain picture,
              paired by its position in the batch.
           D2 p is not the distribution that was trained: no scale 30, e and W not normalised.
           D3 the head is copied into the network as its last layer, trained, and thrown away
              (lines 103-105, 129). D4 the loss is divided by beta. D5 BN uses its running
              statistics (line 16). D6 forget pictures are repeated ten times (line 92): see
              scrub.py, D3.
trained    network and head; the head is not kept
at base    h = 0: the DPO term is log 2 (released: log 2 / beta); its gradient is that of
           -(beta/2) mean_f h (released: of mean_i (g_f(i) - g_r(i)) / 2)
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from clear_ref.common.errors import ShapeError
from clear_ref.common.settings import setting
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import check_finite
from clear_ref.visual.head import cosine_logits

from .inputs import Batch, Inputs
from .terms import mean_am_softmax, own_log_probability, picture_mean
from .variant import Target, Variant

B_6 = "paper App. B.6"


@dataclass(frozen=True)
class Options:
    beta: float = setting(0.1, "how fast the preference saturates", B_6)
    lambda_random: float = setting(1.0, "weight of learning the random person", B_6)
    lambda_dpo: float = setting(1.0, "weight of the DPO term", B_6)

    def __post_init__(self) -> None:
        check_finite(self, "lambda_random", "lambda_dpo", positive=("beta",))


@dataclass(frozen=True)
class Released:
    beta: float = setting(
        1.0, "how fast the preference saturates", "CLEAR cv/unlearning/dpo.py:64 at bb14c96"
    )

    def __post_init__(self) -> None:
        check_finite(self, positive=("beta",))


def paper(inputs: Inputs, options: Options) -> Loss:
    forget = inputs.batches["forget"]
    random = forget.random_labels()
    student = cosine_logits(forget.embeddings, inputs.weight, True).log_softmax(1)
    base = cosine_logits(forget.target(), inputs.base_weight, True).log_softmax(1)
    change = student - base
    preference = change.gather(1, random[:, None]) - change.gather(1, forget.labels[:, None])
    dpo = picture_mean(-functional.logsigmoid(options.beta * preference[:, 0]))
    learnt = mean_am_softmax(forget, inputs.weight, True, random)
    return Loss.of(random_am=options.lambda_random * learnt, dpo=options.lambda_dpo * dpo)


def log_ratio(inputs: Inputs, batch: Batch) -> Tensor:
    """[B]: g, the log probability of the true person less that of the base."""
    own = own_log_probability(batch.embeddings, inputs.weight, batch.labels)
    return own - own_log_probability(batch.target(), inputs.base_weight, batch.labels)


def released(inputs: Inputs, options: Released) -> Loss:
    forget, retain = inputs.batches["forget"], inputs.batches["retain"]
    if len(forget.labels) != len(retain.labels):
        raise ShapeError(
            f"the forget batch has {len(forget.labels)} pictures, the retain batch "
            f"{len(retain.labels)}; expected as many: they are pairs"
        )
    preference = options.beta * (log_ratio(inputs, retain) - log_ratio(inputs, forget))
    return Loss.of(dpo=picture_mean(-functional.logsigmoid(preference)) / options.beta)


VARIANTS = {
    "paper": Variant(paper, "forget", Options, trains_head=True, target=Target.BASE, draws=True),
    "released": Variant(
        released,
        "pairs",
        Released,
        trains_head=True,
        target=Target.BASE,
        by_position=True,
        released=True,
    ),
}
