"""GD, gradient difference: ascend on the forget answers and descend on the retain answers.

paper      L = -mean_t nll_forget + lambda_retain mean_t nll_retain,  lambda_retain = 1
                                                                                   [App. B.3, Eq. 1]
           forget=entropy: -mean_t entropy_forget in place of the first term              [App. B.2]
released   L = -beta F + R,  beta = 1                       [CLEAR mm/trainer.py:187-229 at bb14c96]
           F = mean_t nll_forget | forget=kl: mean_rows KL(teacher || student)_forget
             | forget=entropy: -sum_rows entropy_forget
           R = mean_t nll_retain | retain=kl: mean_rows KL(teacher || student)_retain
original   L = -mean_t nll_forget + mean_t nll_retain        [TOFU dataloader.py:101-111 at bdc209e]
           retain=kl: mean_rows KL(teacher || student)_retain
                                 [open-unlearning src/trainer/unlearn/grad_diff.py:26-63 at d3d7cf9]

needs      forget, retain; the teacher of a batch whose term is a KL. The teacher is the model
           before unlearning: adapters off, or else a frozen copy (loop/teacher.py:Teacher)
positions  mean_t: answer tokens, divided by their number (token mean). mean_rows: all B x T rows,
           padding, image and prompt included, divided by B x T. sum_rows: the same, not divided.
           Label mask: answer; under released: released (D1) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 lambda is the weight of the retain term, as in Eq. 1; App. B.3 prints no weight, which
              is lambda = 1.
           R2 the paper averages over samples, all code over tokens: token mean. The same for the
              entropy, which App. B.2 only names.
deviations D1 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D2 each batch of batch_size records has its own mean; a step takes the mean of these.
           D3 the weight, beta, is on the forget term, not on the retain term.
           D4 forget=entropy computes sum p log p, the negative entropy, and subtracts it: the
              entropy is minimised, not maximised. It is a sum over all rows, about 1000 times as
              large as the mean of the retain term.
           D5 forget=entropy gives NaN where p underflows to 0 in p log p; here such an entry is 0.
at teacher released: a KL term and its gradient are 0; with forget=kl the first step is that of the
           retain term alone
evidence   by hand, finite differences; released: authors' code; original: TOFU's and
           open-unlearning's code
"""

from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .variant import Batches, Need, Variant


@dataclass(frozen=True)
class Options:
    lambda_retain: float = setting(
        1.0, "weight of the retain term", "paper Eq. 1; no value given, App. B.3 prints 1"
    )
    forget: str = setting(
        "ce",
        "forget term: ce | entropy (maximised)",
        "paper App. B.3; B.2 names the entropy",
        choices=("ce", "entropy"),
    )

    def __post_init__(self) -> None:
        check_finite(self, "lambda_retain")
        check_one_of(self, "forget")


@dataclass(frozen=True)
class Released:
    beta: float = setting(
        1.0, "weight of the forget term", "CLEAR config/mm/forget.yaml at bb14c96 (loss_beta)"
    )
    forget: str = setting(
        "ce",
        "forget term: ce | entropy | kl",
        "CLEAR mm/trainer.py:191-211 at bb14c96",
        choices=("ce", "entropy", "kl"),
    )
    retain: str = setting(
        "ce", "retain term: ce | kl", "CLEAR mm/trainer.py:213-227 at bb14c96", ("ce", "kl")
    )

    def __post_init__(self) -> None:
        check_finite(self, "beta")
        check_one_of(self, "forget", "retain")


@dataclass(frozen=True)
class Original:
    retain: str = setting(
        "ce", "retain term: ce | kl", "TOFU; open-unlearning's retain_loss_type", ("ce", "kl")
    )

    def __post_init__(self) -> None:
        check_one_of(self, "retain")


def ce_or_kl(batch: "losses.BatchRows", kind: str) -> "losses.Tensor":
    """The released or original term of a batch: ce or kl."""
    if kind == "kl":
        return token_mean(batch, "kl_teacher_student", "all")
    return token_mean(batch, "nll")


def paper(batches: Batches, options: Options) -> Loss:
    column = {"ce": "nll", "entropy": "entropy"}[options.forget]
    terms = {
        f"forget_{column}": -token_mean(batches["forget"], column),
        "retain_nll": options.lambda_retain * token_mean(batches["retain"], "nll"),
    }
    return Loss.of(**terms)


def released(batches: Batches, options: Released) -> Loss:
    if options.forget == "entropy":
        forget_term = -sequence_sum(batches["forget"], "entropy", "all").sum()
    else:
        forget_term = ce_or_kl(batches["forget"], options.forget)
    terms = {
        f"forget_{TERM_NAMES[options.forget]}": -options.beta * forget_term,
        f"retain_{TERM_NAMES[options.retain]}": ce_or_kl(batches["retain"], options.retain),
    }
    return Loss.of(**terms)


def original(batches: Batches, options: Original) -> Loss:
    terms = {
        "forget_nll": -token_mean(batches["forget"], "nll"),
        f"retain_{TERM_NAMES[options.retain]}": ce_or_kl(batches["retain"], options.retain),
    }
    return Loss.of(**terms)


def released_needs(options: Released) -> dict[str, Need]:
    """What the released loss reads under these options."""
    return {"forget": NEEDS[options.forget], "retain": NEEDS[options.retain]}


def original_needs(options: Original) -> dict[str, Need]:
    """What the original loss reads under these options."""
    return {"forget": Need(), "retain": NEEDS[options.retain]}


TERM_NAMES = {"ce": "nll", "kl": "kl", "entropy": "entropy"}
NEEDS = {"ce": Need(), "kl": Need(rows=("all",), teacher=True), "entropy": Need(rows=("all",))}
VARIANTS = {
    "paper": Variant(paper, {"forget": Need(), "retain": Need()}, Options),
    "released": Variant.released(released, released_needs, Released),
    "original": Variant(original, original_needs, Original, by_batch=True),
}
