"""SCRUB: keep the teacher's predictions on the retain set, move away from them on the forget set.

paper      L = alpha mean_s mean_t KL(teacher || student)_retain
             - mean_s mean_t KL(teacher || student)_forget
             + gamma mean_t nll_retain,  alpha = gamma = 1                                [App. B.8]
released   L = mean_rows KL(student || teacher)_retain
             - beta mean_rows KL(student || teacher)_forget
               + mean_t nll_retain,  beta = 1               [CLEAR mm/trainer.py:231-257 at bb14c96]
original   an epoch is a max pass over the forget set, in the first msteps epochs,
           then a min pass over the retain set:
           L_max = -T^2 mean_t KL_T(teacher || student)_forget
           L_min = alpha T^2 mean_t KL_T(teacher || student)_retain + gamma mean_t nll_retain
           KL_T of both models' softmax at temperature T;  T = 2, msteps = 3, alpha = 0.5, gamma = 1
                                  [SCRUB thirdparty/repdistiller/helper/loops.py:241-244 at 98ffb11]
                                [SCRUB thirdparty/repdistiller/distiller_zoo/KD.py:13-17 at 98ffb11]
                                                     [SCRUB small_scale_unlearning.ipynb at 98ffb11]

needs      forget and retain, both with teacher. The teacher is the model before unlearning:
           adapters off, or without adapters a frozen copy (loop/teacher.py:Teacher)
positions  answer tokens. mean_s mean_t: mean over the answer rows of each sequence, then over
           sequences. mean_t: divided by their number. mean_rows (released): all B x T rows,
           padding, image and prompt included, divided by B x T.
           Label mask: answer; under released: released (D3) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 one joint loss, as printed; the original alternates.
           R2 d(x) is one number per sample in the paper: the mean over its answer rows.
           R3 the original is for classifiers: each answer token is one classification. Its loss
              here is L_max + L_min; training takes one of them at a time.
           R4 original: both passes have as many records as the forget set.
deviations D1 the KL direction is the other one, in both terms (the arguments of kl_div are
              swapped).
           D2 the KLs are averaged over every row of the batch: padding, image and prompt included.
           D3 the labels of retain_nll may cover image and prompt tokens besides the answer; this
              depends on the version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D4 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher both KL and both their gradients are 0: the first step is gamma times that of retain_ft,
           and the forget term grows from drift alone. original: the first max pass does not move
           the weights before the first min pass
evidence   by hand, finite differences; released: authors' code; original: SCRUB's code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_mean, token_mean

from .loss import Loss
from .option_checks import check_at_least, check_finite
from .variant import Batches, Need, Phase, Variant

SMALL_SCALE = "SCRUB small_scale_unlearning.ipynb at 98ffb11"


@dataclass(frozen=True)
class Options:
    alpha: float = setting(1.0, "weight of the retain KL", "paper App. B.8")
    gamma: float = setting(1.0, "weight of the retain likelihood", "paper App. B.8")

    def __post_init__(self) -> None:
        check_finite(self, "alpha", "gamma")


@dataclass(frozen=True)
class Released:
    beta: float = setting(
        1.0, "weight of the forget KL", "CLEAR config/mm/forget.yaml at bb14c96 (loss_beta)"
    )

    def __post_init__(self) -> None:
        check_finite(self, "beta")


@dataclass(frozen=True)
class Original:
    alpha: float = setting(0.5, "weight of the retain KL", f"{SMALL_SCALE} (large scale: 0.001)")
    gamma: float = setting(
        1.0, "weight of the retain likelihood", f"{SMALL_SCALE} (large scale: 0.99)"
    )
    temperature: float = setting(
        2.0, "both models' logits are divided by it in the KL", f"{SMALL_SCALE} (large scale: 4)"
    )
    msteps: int = setting(
        3, "epochs that begin with a max pass", f"{SMALL_SCALE}, of 10 (large scale: 2 of 3)"
    )

    def __post_init__(self) -> None:
        check_finite(self, "alpha", "gamma", positive=("temperature",))
        check_at_least(self, "msteps", 0)


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(
        retain_kl=options.alpha * sequence_mean(batches["retain"], "kl_teacher_student"),
        forget_kl=-sequence_mean(batches["forget"], "kl_teacher_student"),
        retain_nll=options.gamma * token_mean(batches["retain"], "nll"),
    )


def released(batches: Batches, options: Released) -> Loss:
    return Loss.of(
        retain_kl=token_mean(batches["retain"], "kl_student_teacher", "all"),
        forget_kl=-options.beta * token_mean(batches["forget"], "kl_student_teacher", "all"),
        retain_nll=token_mean(batches["retain"], "nll"),
    )


def max_step(batches: Batches, options: Original) -> Loss:
    """The original's max pass: away from the teacher on the forget set."""
    forget = batches["forget"].at_temperature(options.temperature)
    return Loss.of(forget_kl=-(options.temperature**2) * token_mean(forget, "kl_teacher_student"))


def min_step(batches: Batches, options: Original) -> Loss:
    """The original's min pass: towards the teacher and the labels on the retain set."""
    retain = batches["retain"].at_temperature(options.temperature)
    return Loss.of(
        retain_kl=options.alpha * options.temperature**2 * token_mean(retain, "kl_teacher_student"),
        retain_nll=options.gamma * token_mean(batches["retain"], "nll"),
    )


def original(batches: Batches, options: Original) -> Loss:
    return Loss.of(**max_step(batches, options).terms, **min_step(batches, options).terms)


def phases(options: Original) -> tuple[Phase, ...]:
    """The original's two passes of an epoch."""
    max_pass = Phase("max", max_step, {"forget": Need(teacher=True)}, epochs=options.msteps)
    min_pass = Phase("min", min_step, {"retain": Need(teacher=True)})
    return (max_pass, min_pass)


ANSWER_ROWS = {"forget": Need(teacher=True), "retain": Need(teacher=True)}
ALL_ROWS = {
    "forget": Need(rows=("all",), teacher=True),
    "retain": Need(rows=("answer", "all"), teacher=True),
}
VARIANTS = {
    "paper": Variant(paper, ANSWER_ROWS, Options),
    "released": Variant.released(released, ALL_ROWS, Released),
    "original": Variant(original, ANSWER_ROWS, Original, by_batch=True, phases=phases),
}
