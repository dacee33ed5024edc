"""WGA, weighted gradient ascent: ascend on the forget answers, less where a token is unlikely.

paper      L = -mean_t w nll_forget,  w = p_student(y)^beta, a constant,  beta = 1
                                                                              [arXiv 2502.19301]
           retain=kl adds mean_rows KL(teacher || student)_retain
                                                      [G-effect dataloader.py:321-371 at ef368ee]
original   L = -gamma mean_t w nll_forget + alpha mean_t nll_retain,
           beta = 1,  gamma = 1,  alpha = 1
                                  [open-unlearning src/trainer/unlearn/wga.py:15-47 at d3d7cf9]
                                         [open-unlearning src/trainer/utils.py:109-123 at d3d7cf9]
           retain=kl: alpha mean_rows KL(teacher || student)_retain
                                 [open-unlearning src/trainer/unlearn/grad_diff.py:26-40 at d3d7cf9]

needs      forget; original: retain. retain=kl: the teacher of retain, the model before unlearning
positions  answer tokens, divided by their number (token mean). mean_rows: all B x T rows, divided
           by B x T. Label mask: answer
resolved   R1 the paper sums over the tokens of a sample, its code takes the token mean: token mean.
           R2 beta = 1, as open-unlearning says of the paper (community/methods/WGA/README.md at
              d3d7cf9); without a value the paper's code takes 5.
deviations D1 a retain term is added by default.
           D2 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher no teacher is read. A token's weight is -p^beta / n: that of gradient ascent where p
           is 1, and towards 0 for a token that is forgotten. With beta = 0 it is gradient
           ascent. The value -p^beta nll is 0 at p = 1 and at p = 0: it does not fall with training
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

BETA_MEANING = "exponent of the weight p^beta; 0 is gradient ascent"
CONFIG = "open-unlearning configs/trainer/WGA.yaml at d3d7cf9"


@dataclass(frozen=True)
class Options:
    beta: float = setting(1.0, BETA_MEANING, "R2: open-unlearning of the paper")
    retain: str = setting(
        "none",
        "added retain term: none | kl",
        "G-effect dataloader.py at ef368ee: wga, wga_kl",
        choices=("none", "kl"),
    )

    def __post_init__(self) -> None:
        check_finite(self, "beta")
        check_one_of(self, "retain")


@dataclass(frozen=True)
class Original:
    beta: float = setting(1.0, BETA_MEANING, CONFIG)
    gamma: float = setting(1.0, "weight of the forget term", CONFIG)
    alpha: float = setting(1.0, "weight of the retain term; 0: none", CONFIG)
    retain: str = setting("ce", "retain term: ce | kl", CONFIG, choices=("ce", "kl"))

    def __post_init__(self) -> None:
        check_finite(self, "beta", "gamma", "alpha")
        check_one_of(self, "retain")


def weighted_ascent(
    batch: "losses.BatchRows", constants: "losses.BatchRows", beta: float
) -> "losses.Tensor":
    """Scalar: -mean_t p^beta nll, with the weight p^beta from `constants`."""
    weight = (-beta * constants.terms("answer").nll.detach()).exp()
    return -token_mean(batch, weight * batch.terms("answer").nll)


def paper_held(batches: Batches, constants: Batches, options: Options) -> Loss:
    """The paper's loss, its weights computed from `constants`."""
    terms = {
        "forget_wga": weighted_ascent(batches["forget"], constants["forget"], options.beta),
    }
    if options.retain == "kl":
        terms["retain_kl"] = token_mean(batches["retain"], "kl_teacher_student", "all")
    return Loss.of(**terms)


def paper(batches: Batches, options: Options) -> Loss:
    return paper_held(batches, batches, options)


def original_held(batches: Batches, constants: Batches, options: Original) -> Loss:
    """Open-unlearning's loss, its weights computed from `constants`."""
    forget = weighted_ascent(batches["forget"], constants["forget"], options.beta)
    return Loss.of(forget_wga=options.gamma * forget, **retain_terms(batches, options))


def original(batches: Batches, options: Original) -> Loss:
    return original_held(batches, batches, options)


def needs(options: Options) -> dict[str, Need]:
    batch_needs = {"forget": Need()}
    if options.retain == "kl":
        batch_needs["retain"] = Need(rows=("all",), teacher=True)
    return batch_needs


VARIANTS = {
    "paper": Variant(paper, needs, Options, held=paper_held),
    "original": Variant(
        original, needs_with_retain(Need()), Original, by_batch=True, held=original_held
    ),
}
