"""SimNPO: NPO without a teacher, on the mean nll of each answer instead of its sum.

paper      L = (2/beta) mean_s softplus(margin - beta a_s) + lambda_retain mean_t nll_retain,
           a_s = mean_t nll of one answer,  beta = 2.5,  margin = 0,  lambda_retain = 1
                                                    [arXiv 2410.07163, the definition of SimNPO]
original   L = gamma (2/beta) mean_s softplus(-beta (a_s - delta)) + alpha mean_t nll_retain,
           beta = 4.5,  delta = 0,  gamma = 0.125,  alpha = 1
                           [open-unlearning src/trainer/unlearn/simnpo.py:13-32 at d3d7cf9]
           retain=kl: alpha mean_rows KL(teacher || student)_retain
                                 [open-unlearning src/trainer/unlearn/grad_diff.py:26-40 at d3d7cf9]

needs      forget; retain for its term. No teacher, except that of retain=kl: the model before
           unlearning
positions  answer tokens: their mean in each sequence, then the mean over sequences. mean_t: divided
           by their number. mean_rows: all B x T rows, divided by B x T. Label mask: answer
resolved   R1 the paper writes -(2/beta) log sigmoid(-(beta/|y|) log p(y|x) - gamma); here gamma is
              called margin, and softplus(x) = -log sigmoid(-x).
           R2 lambda_retain is the weight of the retain loss in the paper's objective, which has no
              value there; its code for TOFU weighs forget by 0.1375 and retain by 1.
           R3 a sequence without a label counts with a_s = 0.
deviations D1 the margin is multiplied by beta: margin = beta delta (so in Unlearn-Simple, too:
              TOFU/dataloader.py:269-276 at f1a355d).
           D2 a sequence without a label makes the loss NaN: 0 / 0.
           D3 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher no teacher is read. A sequence has weight 2 sigmoid(margin - beta a_s): 1 without margin
           for an answer of probability 1 (a_s = 0), and less the less likely the answer is. With
           beta towards 0 the gradient is that of -mean_s a_s: ascent on the sequence mean
evidence   by hand, finite differences; original: open-unlearning's code
"""

from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import mean_over_sequences, sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .retain_part import needs_with_retain, retain_terms
from .variant import Batches, Need, Variant

BETA_MEANING = "how fast the gradient becomes small; towards 0 the loss becomes gradient ascent"
CONFIG = "open-unlearning configs/trainer/SimNPO.yaml at d3d7cf9"


@dataclass(frozen=True)
class Options:
    beta: float = setting(2.5, BETA_MEANING, "Unlearn-Simple TOFU/config/forget.yaml:22 at f1a355d")
    margin: float = setting(
        0.0,
        "reward margin: a larger one makes an unlikely answer count longer",
        "Unlearn-Simple TOFU/config/forget.yaml:23 at f1a355d (gamma)",
    )
    lambda_retain: float = setting(1.0, "weight of the retain term", "R2: the paper has no value")

    def __post_init__(self) -> None:
        check_finite(self, "margin", "lambda_retain", positive=("beta",))


@dataclass(frozen=True)
class Original:
    beta: float = setting(4.5, BETA_MEANING, CONFIG)
    delta: float = setting(0.0, "the margin, to be multiplied by beta", CONFIG)
    gamma: float = setting(0.125, "weight of the forget term", CONFIG)
    alpha: float = setting(1.0, "weight of the retain term; 0: none", CONFIG)
    retain: str = setting("ce", "retain term: ce | kl", CONFIG, choices=("ce", "kl"))

    def __post_init__(self) -> None:
        check_finite(self, "delta", "gamma", "alpha", positive=("beta",))
        check_one_of(self, "retain")


def mean_nlls(batch: "losses.BatchRows") -> "losses.Tensor":
    """[B]: a_s, the mean nll of each answer."""
    n_rows = batch.rows("answer").sequence.bincount(minlength=len(batch.labels))
    return sequence_sum(batch, "nll") / n_rows.clamp(min=1)


def simnpo(batch: "losses.BatchRows", beta: float, margin: float) -> "losses.Tensor":
    """Scalar: (2/beta) mean_s softplus(margin - beta a_s)."""
    # -logsigmoid(-x) is softplus(x); torch's own softplus becomes linear above 20.
    softplus = -losses.log_sigmoid(beta * mean_nlls(batch) - margin)
    return 2 / beta * mean_over_sequences(softplus, batch)


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(
        forget_simnpo=simnpo(batches["forget"], options.beta, options.margin),
        retain_nll=options.lambda_retain * token_mean(batches["retain"], "nll"),
    )


def original(batches: Batches, options: Original) -> Loss:
    forget = simnpo(batches["forget"], options.beta, options.beta * options.delta)
    return Loss.of(forget_simnpo=options.gamma * forget, **retain_terms(batches, options))


VARIANTS = {
    "paper": Variant(paper, {"forget": Need(), "retain": Need()}, Options),
    "original": Variant(original, needs_with_retain(Need()), Original, by_batch=True),
}
