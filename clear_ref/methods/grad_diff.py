"""GD, gradient difference: ascend on the forget answers while descending on the retain answers.

paper      L = -mean_t nll_forget + lambda_retain mean_t nll_retain,  lambda_retain = 1                [App. B.3, Eq. 1]
           forget=entropy: -mean_t entropy_forget in place of the first term                           [App. B.2]
released   L = -beta F + R,  beta = 1                                                       [mm/trainer.py:187-229]
           F = mean_t nll_forget | forget=kl: mean_rows KL(teacher || student)_forget
             | forget=entropy: -sum_rows entropy_forget
           R = mean_t nll_retain | retain=kl: mean_rows KL(teacher || student)_retain
original   L = -mean_t nll_forget + mean_t nll_retain                                       [TOFU, dataloader.py:101-111]
           retain=kl: mean_rows KL(teacher || student)_retain    [open-unlearning, trainer/unlearn/grad_diff.py:26-40]

needs      forget, retain; the teacher of a batch whose term is a KL
positions  mean_t: answer tokens, divided by their number. mean_rows: all B x T rows, padding, image and prompt included,
           divided by B x T. sum_rows: the same rows, not divided
resolved   R1 lambda stands on the retain term, as in Eq. 1; App. B.3 prints no weight, which is lambda = 1.
           R2 samples are averaged in print, tokens in all code: token mean. So is the entropy, which App. B.2 only names.
deviations D1 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D2 each batch of batch_size records is a mean of its own, and a step the mean of its batches.
           D3 the weight, beta, is on the forget term, the opposite place.
           D4 forget=entropy computes sum p log p, the negative entropy, and subtracts it: entropy is minimised, not
              maximised; and it is a sum over all rows, about 1000 times the retain term's mean.
           D5 there p log p is NaN where p underflows to 0; here such an entry counts 0.
at teacher released: a KL term and its gradient are 0; with forget=kl the first step is retain's alone
evidence   by hand, finite differences; released: authors' code; original: TOFU's and open-unlearning's code
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    lambda_retain: float = setting(
        1.0, "weight of the retain term", "paper Eq. 1; no value given, App. B.3 prints 1"
    )
    forget: str = setting(
        "ce", "forget term: ce | entropy (maximised)", "paper App. B.3; B.2 names the entropy"
    )

    def __post_init__(self):
        check_finite(self, "lambda_retain")
        check_one_of(self, "forget", "ce", "entropy")


@dataclass(frozen=True)
class Released:
    beta: float = setting(
        1.0, "weight of the forget term", "released code (config/mm/forget.yaml, loss_beta)"
    )
    forget: str = setting(
        "ce", "forget term: ce | entropy | kl", "released code (mm/trainer.py:191-211)"
    )
    retain: str = setting("ce", "retain term: ce | kl", "released code (mm/trainer.py:213-227)")

    def __post_init__(self):
        check_finite(self, "beta")
        check_one_of(self, "forget", "ce", "entropy", "kl")
        check_one_of(self, "retain", "ce", "kl")


@dataclass(frozen=True)
class Original:
    retain: str = setting("ce", "retain term: ce | kl", "TOFU; open-unlearning's retain_loss_type")

    def __post_init__(self):
        check_one_of(self, "retain", "ce", "kl")


def paper(batches, options) -> Loss:
    column = {"ce": "nll", "entropy": "entropy"}[options.forget]
    return Loss.of(
        **{f"forget_{column}": -token_mean(batches["forget"], column)},
        retain_nll=options.lambda_retain * token_mean(batches["retain"], "nll"),
    )


def released(batches, options) -> Loss:
    forget = {
        "ce": nll,
        "kl": kl,
        "entropy": lambda batch: ("entropy", -sequence_sum(batch, "entropy", "all").sum()),
    }
    (f, forget_term), (r, retain_term) = (
        forget[options.forget](batches["forget"]),
        RETAIN[options.retain](batches["retain"]),
    )
    return Loss.of(**{f"forget_{f}": -options.beta * forget_term, f"retain_{r}": retain_term})


def original(batches, options) -> Loss:
    name, term = RETAIN[options.retain](batches["retain"])
    return Loss.of(forget_nll=-token_mean(batches["forget"], "nll"), **{f"retain_{name}": term})


nll = lambda batch: ("nll", token_mean(batch, "nll"))  # noqa: E731
kl = lambda batch: ("kl", token_mean(batch, "kl_teacher_student", "all"))  # noqa: E731
RETAIN = {"ce": nll, "kl": kl}
READS = {"ce": Need(), "kl": Need(rows=("all",), teacher=True), "entropy": Need(rows=("all",))}
VARIANTS = {
    "paper": Variant(paper, {"forget": Need(), "retain": Need()}, Options),
    "released": Variant.released(
        released, lambda o: {"forget": READS[o.forget], "retain": READS[o.retain]}, Released
    ),
    "original": Variant(
        original, lambda o: {"forget": Need(), "retain": READS[o.retain]}, Original, by_batch=True
    ),
}
