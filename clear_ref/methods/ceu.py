"""CE-U: learn one's own distribution without the answer token.

paper      L = mean_t H(p', p_student),  p' = softmax(z_student with -inf at y), a constant,
           y the answer token,  H(p', p) = -sum_v p' log p      [arXiv 2503.01224]
original   the same without the first `skip` answer tokens of each sequence,  skip = 1
                                        [open-unlearning src/trainer/unlearn/ceu.py:7-84 at d3d7cf9]

needs      forget; no teacher
positions  answer tokens; original: without the first `skip` of each sequence. Divided by the number
           of those that are read. Label mask: answer
resolved   R1 the paper's footnote that the first answer tokens are left out is a setting of its
              training; it is part of `original` only.
           R2 if no token is left the loss is 0; the code gives NaN.
deviations D1 the first answer token of each sequence is not forgotten.
           D2 each batch of batch_size records has its own mean; a step takes the mean of these.
at teacher no teacher is read. The gradient at a row is p - p' = (p_y / (1 - p_y)) (e_y - p): that
           of gradient ascent times the odds of the answer token. It fades as the token is
           forgotten; its largest entry is p_y, at the answer token
evidence   by hand, finite differences with p' held; original: open-unlearning's code
"""

from dataclasses import dataclass
from math import inf

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .option_checks import check_at_least
from .undial import cross_entropy
from .variant import Batches, Need, Variant


@dataclass(frozen=True)
class Options:
    """CE-U has no options."""


@dataclass(frozen=True)
class Original:
    skip: int = setting(
        1,
        "number of first answer tokens of a sequence that are not read",
        "open-unlearning configs/trainer/CEU.yaml at d3d7cf9",
    )

    def __post_init__(self) -> None:
        check_at_least(self, "skip", 0)


def number_in_sequence(batch: "losses.BatchRows") -> "losses.Tensor":
    """[n]: 0, 1, 2, ... for the answer rows of each sequence."""
    sequence = batch.rows("answer").sequence
    n_rows = sequence.bincount(minlength=len(batch.labels))
    first = n_rows.cumsum(0) - n_rows
    return sequence.new_ones(len(sequence)).cumsum(0) - 1 - first[sequence]


def paper_held(batches: Batches, constants: Batches, options: Options) -> Loss:
    """The paper's loss, its target computed from `constants`."""
    forget = batches["forget"].with_lowered_labels(inf, constants["forget"])
    return Loss.of(forget_ceu=token_mean(forget, cross_entropy(forget, "answer")))


def paper(batches: Batches, options: Options) -> Loss:
    return paper_held(batches, batches, options)


def original_held(batches: Batches, constants: Batches, options: Original) -> Loss:
    """Open-unlearning's loss, its target computed from `constants`."""
    forget = batches["forget"].with_lowered_labels(inf, constants["forget"])
    is_read = number_in_sequence(forget) >= options.skip
    values = cross_entropy(forget, "answer").where(is_read, 0.0)
    n_answers = (forget.step_labels[:, 1:] != losses.IGNORE).sum(1)
    n_read = int((n_answers - options.skip).clamp(min=0).sum())
    return Loss.of(forget_ceu=values.sum() / max(n_read, 1))


def original(batches: Batches, options: Original) -> Loss:
    return original_held(batches, batches, options)


NEEDS = {"forget": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options, held=paper_held),
    "original": Variant(original, NEEDS, Original, by_batch=True, held=original_held),
}
