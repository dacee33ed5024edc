"""SCRUB: stay with the teacher on the retain set, move away from it on the forget set.

paper      L = alpha mean_s mean_t KL(teacher || student)_retain - mean_s mean_t KL(teacher || student)_forget
               + gamma mean_t nll_retain,  alpha = gamma = 1                                   [App. B.8]
released   L = mean_rows KL(student || teacher)_retain - beta mean_rows KL(student || teacher)_forget
               + mean_t nll_retain,  beta = 1                                                  [mm/trainer.py:231-257]
original   an epoch is a max pass over the forget set, in the first msteps epochs, then a min pass over the retain set:
           L_max = -T^2 mean_t KL_T(teacher || student)_forget
           L_min = alpha T^2 mean_t KL_T(teacher || student)_retain + gamma mean_t nll_retain
           KL_T of both models' softmax at temperature T;  T = 2, msteps = 3, alpha = 0.5, gamma = 1
                              [SCRUB, helper/loops.py:241-244, distiller_zoo/KD.py:13-17, small_scale_unlearning.ipynb]

needs      forget and retain, both with teacher (the model before unlearning)
positions  answer tokens. mean_s mean_t: mean over the answer rows of each sequence, then over sequences. mean_t: divided by
           their number. mean_rows (released): all B x T rows, padding, image and prompt included, divided by B x T
resolved   R1 one joint loss, as printed; the original alternates.
           R2 d(x) is one number per sample in print: the mean over its answer rows.
           R3 the original is for classifiers: each answer token is one classification. Its loss here is L_max + L_min, of
              which training takes one at a time. R4 original: both passes are as long as the forget set.
deviations D1 the KL direction is the other one, in both terms (kl_div's arguments are swapped).
           D2 the KLs are averaged over every row of the batch: padding, image and prompt included.
           D3 label mask and mean of batches: idk.py's D3 and D4.
at teacher both KL and both their gradients are 0: the first step is gamma times retain_ft's, and the forget term grows
           from drift alone. original: the first max pass does not move at all before the first min pass has
evidence   by hand, finite differences; released: authors' code; original: SCRUB's code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_mean, token_mean

from .loss import Loss
from .option_checks import check_at_least, check_finite
from .variant import Need, Phase, Variant


@dataclass(frozen=True)
class Options:
    alpha: float = setting(1.0, "weight of the retain KL", "paper App. B.8")
    gamma: float = setting(1.0, "weight of the retain likelihood", "paper App. B.8")

    def __post_init__(self):
        check_finite(self, "alpha", "gamma")


@dataclass(frozen=True)
class Released:
    beta: float = setting(
        1.0, "weight of the forget KL", "released code (config/mm/forget.yaml, loss_beta)"
    )

    def __post_init__(self):
        check_finite(self, "beta")


@dataclass(frozen=True)
class Original:
    alpha: float = setting(
        0.5, "weight of the retain KL", "SCRUB, small_scale_unlearning.ipynb (large scale: 0.001)"
    )
    gamma: float = setting(
        1.0, "weight of the retain likelihood", "SCRUB, the same (large scale: 0.99)"
    )
    temperature: float = setting(
        2.0, "both models' logits are divided by it in the KL", "SCRUB, the same (large scale: 4)"
    )
    msteps: int = setting(
        3, "epochs that begin with a max pass", "SCRUB, the same, of 10 (large scale: 2 of 3)"
    )

    def __post_init__(self):
        check_finite(self, "alpha", "gamma", positive=("temperature",))
        check_at_least(self, "msteps", 0)


def paper(batches, options) -> Loss:
    return Loss.of(
        retain_kl=options.alpha * sequence_mean(batches["retain"], "kl_teacher_student"),
        forget_kl=-sequence_mean(batches["forget"], "kl_teacher_student"),
        retain_nll=options.gamma * token_mean(batches["retain"], "nll"),
    )


def released(batches, options) -> Loss:
    return Loss.of(
        retain_kl=token_mean(batches["retain"], "kl_student_teacher", "all"),
        forget_kl=-options.beta * token_mean(batches["forget"], "kl_student_teacher", "all"),
        retain_nll=token_mean(batches["retain"], "nll"),
    )


def max_step(batches, options) -> Loss:
    """The original's max pass: away from the teacher on the forget set."""
    warm = batches["forget"].at_temperature(options.temperature)
    return Loss.of(forget_kl=-(options.temperature**2) * token_mean(warm, "kl_teacher_student"))


def min_step(batches, options) -> Loss:
    """The original's min pass: to the teacher and to the labels on the retain set."""
    warm = batches["retain"].at_temperature(options.temperature)
    return Loss.of(
        retain_kl=options.alpha * options.temperature**2 * token_mean(warm, "kl_teacher_student"),
        retain_nll=options.gamma * token_mean(batches["retain"], "nll"),
    )


def original(batches, options) -> Loss:
    return Loss.of(**max_step(batches, options).terms, **min_step(batches, options).terms)


READS = {"forget": Need(teacher=True), "retain": Need(teacher=True)}
PHASES = lambda options: (
    Phase("max", max_step, {"forget": READS["forget"]}, options.msteps),  # noqa: E731
    Phase("min", min_step, {"retain": READS["retain"]}),
)
ALL_ROWS = {
    "forget": Need(rows=("all",), teacher=True),
    "retain": Need(rows=("answer", "all"), teacher=True),
}
VARIANTS = {
    "paper": Variant(paper, READS, Options),
    "released": Variant.released(released, ALL_ROWS, Released),
    "original": Variant(original, READS, Original, by_batch=True, phases=PHASES),
}
