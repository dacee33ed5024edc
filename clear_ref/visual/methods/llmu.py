"""LLMU: ascend on the forget people, learn random other people instead, keep the retain set.

paper      L = -mean_f a_f + mean_f a_random + mean_r KL(student || base),
           a = AM-softmax, W normalised; a_random: of a random retain person's class;
           KL of softmax(30 e_hat . W_hat) over people                                    [App. B.9]
released   L = -0.02 mean_f a_f + mean_r KL(base || student) + 0.01 mean_f a_random,
           W as it is; KL of softmax(e) over the D coordinates of the embedding
                                                     [CLEAR cv/unlearning/llmu.py:21-39 at bb14c96]

needs      forget pictures, their classes and a random class for each; retain pictures and the
           base's embeddings of them; paper: the base's head
positions  mean_f, mean_r: divided by the pictures of the batch; KL: the sum over people
           (released: over the D coordinates)
resolved   R1 there is no refusal among faces: a random person of the retain set stands for it, as
              in the code and in LLMU's own random answers. It is never the picture's own.
           R2 all three weights are 1. R3 App. B.9 prints KL(student || base), Sec. 3.2 the other
              direction: the formula of B.9 is the default, kl = base_student is the other.
           R4 the distribution over people is without the margin.
deviations D1 the KL compares softmax of the 512 coordinates, and its direction is the other one.
           D2 W is not normalised. D3 the weights 0.02 and 0.01. D4 BN uses its running statistics
              (line 17). D5 forget pictures are repeated ten times (line 92): see scrub.py, D3.
trained    network and head
at base    the KL and its gradient are 0: the first step is that of the two AM-softmax terms
evidence   by hand, finite differences; released: authors' code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.methods.loss import Loss
from clear_ref.methods.option_checks import check_finite, check_one_of
from clear_ref.visual.head import cosine_logits

from .inputs import Inputs
from .terms import kl, mean_am_softmax, picture_mean
from .variant import Target, Variant

SCRIPT = "CLEAR cv/unlearning/llmu.py:39 at bb14c96"


@dataclass(frozen=True)
class Options:
    w_forget: float = setting(1.0, "weight of the forget ascent", "paper App. B.9")
    w_random: float = setting(1.0, "weight of the random people", "paper App. B.9")
    w_retain: float = setting(1.0, "weight of the retain KL", "paper App. B.9")
    kl: str = setting(
        "student_base",
        "direction of the KL: student_base (App. B.9) or base_student (Sec. 3.2)",
        "paper App. B.9",
        ("student_base", "base_student"),
    )

    def __post_init__(self) -> None:
        check_finite(self, "w_forget", "w_random", "w_retain")
        check_one_of(self, "kl")


@dataclass(frozen=True)
class Released:
    w_forget: float = setting(0.02, "weight of the forget ascent", SCRIPT)
    w_random: float = setting(0.01, "weight of the random people", SCRIPT)

    def __post_init__(self) -> None:
        check_finite(self, "w_forget", "w_random")


def paper(inputs: Inputs, options: Options) -> Loss:
    forget, retain = inputs.batches["forget"], inputs.batches["retain"]
    base = cosine_logits(retain.target(), inputs.base_weight, True)
    student = cosine_logits(retain.embeddings, inputs.weight, True)
    pair = (student, base) if options.kl == "student_base" else (base, student)
    random = mean_am_softmax(forget, inputs.weight, True, forget.random_labels())
    return Loss.of(
        forget_am=-options.w_forget * mean_am_softmax(forget, inputs.weight, True),
        random_am=options.w_random * random,
        retain_kl=options.w_retain * picture_mean(kl(*pair)),
    )


def released(inputs: Inputs, options: Released) -> Loss:
    forget, retain = inputs.batches["forget"], inputs.batches["retain"]
    random = mean_am_softmax(forget, inputs.weight, False, forget.random_labels())
    return Loss.of(
        forget_am=-options.w_forget * mean_am_softmax(forget, inputs.weight, False),
        random_am=options.w_random * random,
        retain_kl=picture_mean(kl(retain.target(), retain.embeddings)),
    )


VARIANTS = {
    "paper": Variant(paper, "pairs", Options, trains_head=True, target=Target.BASE, draws=True),
    "released": Variant(
        released,
        "pairs",
        Released,
        trains_head=True,
        target=Target.BASE,
        draws=True,
        released=True,
    ),
}
