"""UNDIAL: distil the teacher's own distribution with the answer token's logit lowered.

paper      L = mean_t H(q', p_student),  q' = softmax(z_teacher - beta e_y),  y the answer token,
           H(q', p) = -sum_v q' log p,  beta = 10
                                    [arXiv 2402.10052, self-distillation on adjusted logits]
original   L = gamma mean_rows H(q', p_student) + alpha mean_t nll_retain,
           rows: all but the last of each sequence; a row without a label lowers entry V - 100,
           beta = 10,  gamma = 1,  alpha = 0
                               [open-unlearning src/trainer/unlearn/undial.py:13-29 at d3d7cf9]
                                          [open-unlearning src/trainer/utils.py:73-106 at d3d7cf9]
           retain=kl: alpha mean_rows KL(teacher || student)_retain
                                 [open-unlearning src/trainer/unlearn/grad_diff.py:26-40 at d3d7cf9]

needs      forget with teacher, the model before unlearning; original with alpha: retain
positions  paper: answer tokens, divided by their number. original: rows 0 to T - 2 of all
           sequences, padding, image and prompt included, divided by B x (T - 1). Label mask: answer
resolved   R1 the paper's texts are learnt from their first token on, and its code (LLM_unlearning
              utils/ft_utils.py:134-179 at 89856dc) lowers every token, padding included; here a
              question is not to be forgotten, so only answer tokens count.
           R2 beta = 10: the paper tries 3, 10 and 30.
           R3 original with V < 100: there is no entry V - 100, and the code stops with an
              IndexError; here nothing is lowered in a row without a label.
deviations D1 rows without a label are counted: there the student is held to the teacher, with entry
              V - 100 lowered, because the label -100 is used as an index. Their share depends on
              the padding and on its side.
           D2 the sum is divided by all these rows, so the answer's part is small where the prompt
              is long.
           D3 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher the gradient at an answer row is q - q': c (e_y - q) with c = q_y (1 - exp(-beta)) /
           (1 - q_y (1 - exp(-beta))), away from the answer token: the others keep their
           proportions
evidence   by hand, finite differences; original: open-unlearning's code
"""

from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .retain_part import needs_with_retain, retain_terms
from .variant import Batches, Need, Variant

BETA_MEANING = "how much the answer token's logit is lowered"
CONFIG = "open-unlearning configs/trainer/UNDIAL.yaml at d3d7cf9"


@dataclass(frozen=True)
class Options:
    beta: float = setting(10.0, BETA_MEANING, "R2: the paper tries 3, 10, 30")

    def __post_init__(self) -> None:
        check_finite(self, "beta")


@dataclass(frozen=True)
class Original:
    beta: float = setting(10.0, BETA_MEANING, CONFIG)
    gamma: float = setting(1.0, "weight of the forget term", CONFIG)
    alpha: float = setting(0.0, "weight of the retain term; 0: none", CONFIG)
    retain: str = setting("ce", "retain term: ce | kl", CONFIG, choices=("ce", "kl"))

    def __post_init__(self) -> None:
        check_finite(self, "beta", "gamma", "alpha")
        check_one_of(self, "retain")


def cross_entropy(batch: "losses.BatchRows", row_set: str) -> "losses.Tensor":
    """[n]: H(q, p) of the batch's teacher and student: KL(q || p) and the entropy of q."""
    terms = batch.terms(row_set)
    assert terms.kl_teacher_student is not None and terms.teacher_entropy is not None
    return terms.kl_teacher_student + terms.teacher_entropy


def paper(batches: Batches, options: Options) -> Loss:
    forget = batches["forget"].with_lowered_labels(options.beta)
    return Loss.of(forget_undial=token_mean(forget, cross_entropy(forget, "answer")))


def original(batches: Batches, options: Original) -> Loss:
    forget = batches["forget"].with_lowered_labels(options.beta, ignored_too=True)
    n_positions = forget.labels.shape[1]
    is_read = forget.rows("all").position < n_positions - 1
    values = cross_entropy(forget, "all").where(is_read, 0.0)
    # token_mean divides by B x T; the code divides by B x (T - 1).
    mean = token_mean(forget, values, "all") * n_positions / max(n_positions - 1, 1)
    return Loss.of(forget_undial=options.gamma * mean, **retain_terms(batches, options))


ALL_ROWS = Need(rows=("all",), teacher=True)
VARIANTS = {
    "paper": Variant(paper, {"forget": Need(teacher=True)}, Options),
    "original": Variant(original, needs_with_retain(ALL_ROWS), Original, by_batch=True),
}
