"""SatImp: gradient ascent with a weight for tokens that are neither forgotten nor certain.

paper      L = -mean_t w nll_forget + lambda_retain mean_t nll_retain,
           w = p^beta1 (1 - p)^beta2, p = p_student(y), a constant,
           beta1 = 5,  beta2 = 1,  lambda_retain = 0.1
                 [arXiv 2505.11953; SatImp dataloader/dataloader_sat.py:119-160 at 51314c0]
original   L = -gamma mean_t w nll_forget + alpha mean_t nll_retain,
           beta1 = 5,  beta2 = 1,  gamma = 0.1,  alpha = 1
                               [open-unlearning src/trainer/unlearn/satimp.py:18-50 at d3d7cf9]
                                         [open-unlearning src/trainer/utils.py:126-143 at d3d7cf9]
           retain=kl: alpha mean_rows KL(teacher || student)_retain
                                 [open-unlearning src/trainer/unlearn/grad_diff.py:26-40 at d3d7cf9]

needs      forget; retain for its term. retain=kl: its teacher, the model before unlearning
positions  answer tokens, divided by their number (token mean). mean_rows: all B x T rows, divided
           by B x T. Label mask: answer
resolved   R1 beta1 and beta2 as open-unlearning says of the paper, in the README of its method
              community/methods/SatImp at d3d7cf9; the paper's own README runs 5 and 0.1.
           R2 lambda_retain = 0.1: the same README says that forget weighs ten times as much.
           R3 1 - p is computed as -expm1(-nll), which is exact where p is near 1.
deviations D1 the weights of the two terms are exchanged: the configuration that runs has gamma 0.1
              and alpha 1; the defaults of the class and the README have gamma 1 and alpha 0.1.
           D2 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher no teacher is read. A token's weight is -w / n: 0 where p is 0 or 1, largest at
           p = beta1 / (beta1 + beta2). With beta2 = 0 the forget term is that of WGA
evidence   by hand, finite differences with w held; original: open-unlearning's code
"""

from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .retain_part import needs_with_retain, retain_terms
from .variant import Batches, Need, Variant

BETA1_MEANING = "exponent of p: a token that is nearly forgotten weighs less (saturation)"
BETA2_MEANING = "exponent of 1 - p: a token that is certain weighs less (importance)"
CONFIG = "open-unlearning configs/trainer/SatImp.yaml at d3d7cf9"
README = "open-unlearning community/methods/SatImp/README.md at d3d7cf9"


@dataclass(frozen=True)
class Options:
    beta1: float = setting(5.0, BETA1_MEANING, README)
    beta2: float = setting(1.0, BETA2_MEANING, README)
    lambda_retain: float = setting(0.1, "weight of the retain term", README)

    def __post_init__(self) -> None:
        check_finite(self, "beta1", "beta2", "lambda_retain")


@dataclass(frozen=True)
class Original:
    beta1: float = setting(5.0, BETA1_MEANING, CONFIG)
    beta2: float = setting(1.0, BETA2_MEANING, CONFIG)
    gamma: float = setting(0.1, "weight of the forget term", CONFIG)
    alpha: float = setting(1.0, "weight of the retain term; 0: none", CONFIG)
    retain: str = setting("ce", "retain term: ce | kl", CONFIG, choices=("ce", "kl"))

    def __post_init__(self) -> None:
        check_finite(self, "beta1", "beta2", "gamma", "alpha")
        check_one_of(self, "retain")


def weighted_ascent(
    batch: "losses.BatchRows", constants: "losses.BatchRows", options: Options | Original
) -> "losses.Tensor":
    """Scalar: -mean_t w nll, with the weight w from `constants`."""
    nll = constants.terms("answer").nll.detach()
    weight = (-options.beta1 * nll).exp() * (-(-nll).expm1()) ** options.beta2
    return -token_mean(batch, weight * batch.terms("answer").nll)


def paper_held(batches: Batches, constants: Batches, options: Options) -> Loss:
    """The paper's loss, its weights computed from `constants`."""
    return Loss.of(
        forget_satimp=weighted_ascent(batches["forget"], constants["forget"], options),
        retain_nll=options.lambda_retain * token_mean(batches["retain"], "nll"),
    )


def paper(batches: Batches, options: Options) -> Loss:
    return paper_held(batches, batches, options)


def original_held(batches: Batches, constants: Batches, options: Original) -> Loss:
    """Open-unlearning's loss, its weights computed from `constants`."""
    forget = weighted_ascent(batches["forget"], constants["forget"], options)
    return Loss.of(forget_satimp=options.gamma * forget, **retain_terms(batches, options))


def original(batches: Batches, options: Original) -> Loss:
    return original_held(batches, batches, options)


FORGET_AND_RETAIN = {"forget": Need(), "retain": Need()}
VARIANTS = {
    "paper": Variant(paper, FORGET_AND_RETAIN, Options, held=paper_held),
    "original": Variant(
        original, needs_with_retain(Need()), Original, by_batch=True, held=original_held
    ),
}
