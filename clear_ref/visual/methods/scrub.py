"""SCRUB: keep the base's predictions on the retain set, move away from them on the forget set.

paper      L = alpha mean_r KL(base || student) - mean_f KL(base || student) + gamma mean_r a_r,
           KL of softmax(30 e_hat . W_hat) over people;  a = AM-softmax;  alpha = gamma = 1
                                                                                          [App. B.8]
released   L = mean_r KL(base || student) - mean_f KL(base || student) + mean_r a_r,
           KL of softmax(e) over the D coordinates of the embedding; W as it is in a
                                               [CLEAR cv/unlearning/scrub_orig.py:21-37 at bb14c96]
original   an epoch is a max pass over the forget set, in the first msteps epochs,
           then a min pass over the retain set:
           L_max = -T^2 mean_f KL_T(base || student)
           L_min = alpha T^2 mean_r KL_T(base || student) + gamma mean_r a_r
           KL_T of both softmax(30 e_hat . W_hat / T);  T = 2, msteps = 3, alpha = 0.5, gamma = 1
                                  [SCRUB thirdparty/repdistiller/helper/loops.py:241-244 at 98ffb11]
                                [SCRUB thirdparty/repdistiller/distiller_zoo/KD.py:13-17 at 98ffb11]

needs      forget and retain pictures, the retain classes; the base's embeddings of both, and its
           head (released: no head)
positions  mean_f, mean_r: divided by the pictures of the batch; KL: the sum over people
           (released: over the D coordinates)
resolved   R1 one joint loss, as printed. R2 the model's output is the distribution over people
              that its head gives, without the margin, which belongs to the training loss.
           R3 original: its classifier's logits are those of R2, its cross-entropy is AM-softmax;
              optimiser and batches are the recipe's, not its own.
deviations D1 the KL compares softmax of the 512 coordinates of the embedding, which are no classes.
           D2 W is not normalised. D3 forget pictures are repeated ten times, but an epoch ends with
              the retain set: this changes which pictures come, not how many (line 90).
           D4 BN uses its running statistics and does not move them (line 17).
           D5 the authors' README names scrub.py alone (SCRUBbio); that scrub_orig.py is SCRUB is
              inferred from its name.
trained    network and head
at base    both KL and their gradients are 0: the first step is gamma times that of retain_ft.
           original: the first max pass does not move the weights before the first min pass
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from torch import Tensor

from clear_ref.common.settings import setting
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import check_at_least, check_finite
from clear_ref.visual.head import cosine_logits

from .inputs import Batch, Inputs
from .terms import kl, mean_am_softmax, picture_mean
from .variant import Phase, Target, Variant

SMALL_SCALE = "SCRUB small_scale_unlearning.ipynb at 98ffb11"


@dataclass(frozen=True)
class Options:
    alpha: float = setting(1.0, "weight of the retain KL", "paper App. B.8")
    gamma: float = setting(1.0, "weight of the retain AM-softmax", "paper App. B.8")

    def __post_init__(self) -> None:
        check_finite(self, "alpha", "gamma")


@dataclass(frozen=True)
class Released:
    """The released SCRUB has no options."""


@dataclass(frozen=True)
class Original:
    alpha: float = setting(0.5, "weight of the retain KL", SMALL_SCALE)
    gamma: float = setting(1.0, "weight of the retain AM-softmax", SMALL_SCALE)
    temperature: float = setting(2.0, "both models' logits are divided by it", SMALL_SCALE)
    msteps: int = setting(3, "epochs that begin with a max pass", SMALL_SCALE)

    def __post_init__(self) -> None:
        check_finite(self, "alpha", "gamma", positive=("temperature",))
        check_at_least(self, "msteps", 0)


def people_kl(inputs: Inputs, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Scalar: mean over pictures of KL(base || student) over people."""
    base = cosine_logits(batch.target(), inputs.base_weight, True) / temperature
    student = cosine_logits(batch.embeddings, inputs.weight, True) / temperature
    return picture_mean(kl(base, student))


def paper(inputs: Inputs, options: Options) -> Loss:
    retain = inputs.batches["retain"]
    return Loss.of(
        retain_kl=options.alpha * people_kl(inputs, retain),
        forget_kl=-people_kl(inputs, inputs.batches["forget"]),
        retain_am=options.gamma * mean_am_softmax(retain, inputs.weight, True),
    )


def released(inputs: Inputs, options: Released) -> Loss:
    retain, forget = inputs.batches["retain"], inputs.batches["forget"]
    return Loss.of(
        retain_kl=picture_mean(kl(retain.target(), retain.embeddings)),
        forget_kl=-picture_mean(kl(forget.target(), forget.embeddings)),
        retain_am=mean_am_softmax(retain, inputs.weight, False),
    )


def max_step(inputs: Inputs, options: Original) -> Loss:
    """The original's max pass: away from the base on the forget set."""
    forget = people_kl(inputs, inputs.batches["forget"], options.temperature)
    return Loss.of(forget_kl=-(options.temperature**2) * forget)


def min_step(inputs: Inputs, options: Original) -> Loss:
    """The original's min pass: towards the base and the labels on the retain set."""
    retain = inputs.batches["retain"]
    distance = people_kl(inputs, retain, options.temperature)
    return Loss.of(
        retain_kl=options.alpha * options.temperature**2 * distance,
        retain_am=options.gamma * mean_am_softmax(retain, inputs.weight, True),
    )


def original(inputs: Inputs, options: Original) -> Loss:
    return Loss.of(**max_step(inputs, options).terms, **min_step(inputs, options).terms)


def phases(options: Original) -> tuple[Phase, ...]:
    """The original's two passes of an epoch."""
    return (Phase("max", max_step, "forget", options.msteps), Phase("min", min_step, "retain"))


VARIANTS = {
    "paper": Variant(paper, "pairs", Options, trains_head=True, target=Target.BASE),
    "released": Variant(
        released, "pairs", Released, trains_head=True, target=Target.BASE, released=True
    ),
    "original": Variant(
        original, "pairs", Original, trains_head=True, target=Target.BASE, phases=phases
    ),
}
