"""NPO: lower the forget answer's probability relative to the teacher, with a weight that fades as it succeeds.

paper      L = (2/beta) mean_s softplus(beta (s - r)),  s = sum_t log p_student,  r = sum_t log p_teacher of one answer
             = (2/beta) mean_s log(1 + (p_student(y|x) / p_teacher(y|x))^beta),  beta = 1              [App. B.7]
released   L = (2/beta) mean_{rows,V} log(1 + (p_student / (p_teacher + 1e-8))^beta),  beta = 1    [mm/trainer.py:343-353]
released@2024-12-10  L = (2/beta) mean_{rows,V} log(1 + log(p_student / p_teacher)^beta)  [mm/trainer.py:353-362 at dcc7070]
original   as paper with beta = 0.1                                        [NPO, TOFU/dataloader.py:255-270]
           retain=ce adds mean_t nll_retain, retain=kl mean_rows KL(teacher || student)_retain         [the same, 272-320]

needs      forget with teacher (the model before unlearning); original: retain for its retain term
positions  paper, original: answer tokens, summed over each sequence (not a mean), then the mean over sequences; mean_t: divided
           by their number. mean_rows: all B x T rows, divided by B x T; mean_{rows,V}: every vocabulary entry of them
resolved   R1 App. B.7 takes its notation from DPO, whose reference is tuned on refusals; here the reference is the
              model before unlearning, as in the original and the released code.
           R2 beta = 1, "also taken equal to 1" (App. B.7), though DPO's is 0.1.
deviations D1 the whole vocabulary instead of the answer token: labels are never read.
           D2 every row counts: padding, image and prompt. D3 no sequence: each entry stands alone.
           D4 before 2025-03-30: NaN as soon as one log-ratio is below -1, which stops the run; and the teacher was not loaded
              unless L1 was on (mm/trainer_utils.py:6-7 at dcc7070). Here it is always there.
           D5 each batch of batch_size records is a mean of its own, and a step the mean of its batches.
at teacher the loss is (2/beta) log 2, its gradient that of mean_s s: plain ascent on the mean sequence sum.
           released: the same value but for the 1e-8, d/dz = (1/V - p) / rows, away from uniform: it sharpens what it should
           forget. released@2024-12-10: 0, and with beta = 1 d/dz = (2/V) (1 - V p) / rows: twice the head's, the same way
evidence   by hand, finite differences; released, released@2024-12-10: authors' code; original: NPO's and open-unlearning's code
"""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from clear_ref.common.settings import setting
from clear_ref.losses import whole_vocabulary
from clear_ref.losses.reductions import mean_over_sequences, sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    beta: float = setting(
        1.0, "how fast the push fades; towards 0 the loss becomes gradient ascent", "paper App. B.7"
    )

    def __post_init__(self):
        check_finite(self, positive=("beta",))


@dataclass(frozen=True)
class Original:
    beta: float = setting(
        0.1,
        "how fast the push fades; towards 0 the loss becomes gradient ascent",
        "NPO (config/forget.yaml)",
    )
    retain: str = setting(
        "none", "added retain term: none | ce | kl", "NPO: npo, npo_grad_diff, npo_KL"
    )

    def __post_init__(self):
        check_finite(self, positive=("beta",))
        check_one_of(self, "retain", "none", "ce", "kl")


def paper(batches, options) -> Loss:
    forget = batches["forget"]
    log_ratio = sequence_sum(forget, "teacher_nll") - sequence_sum(forget, "nll")
    softplus = -logsigmoid(-options.beta * log_ratio)  # torch's own softplus is cut off at 20
    return Loss.of(forget_npo=2 / options.beta * mean_over_sequences(softplus, forget))


def original(batches, options) -> Loss:
    terms = dict(paper(batches, options).terms)
    if options.retain == "ce":
        terms["retain_nll"] = token_mean(batches["retain"], "nll")
    if options.retain == "kl":
        terms["retain_kl"] = token_mean(batches["retain"], "kl_teacher_student", "all")
    return Loss.of(**terms)


def released(batches, options, row=whole_vocabulary.log_one_plus_ratio) -> Loss:
    values = batches["forget"].column(
        "all", lambda student, teacher: row(student, teacher, options.beta)
    )
    return Loss.of(forget_npo=2 / options.beta * token_mean(batches["forget"], values, "all"))


def released_before(batches, options) -> Loss:
    """The released code before 2025-03-30."""
    return released(batches, options, whole_vocabulary.log_one_plus_log_ratio)


def needs(options):
    retain = {
        "none": {},
        "ce": {"retain": Need()},
        "kl": {"retain": Need(rows=("all",), teacher=True)},
    }
    return {"forget": Need(teacher=True), **retain[options.retain]}


ALL_ROWS = {"forget": Need(rows=("all",), teacher=True)}
VARIANTS = {
    "paper": Variant(paper, {"forget": Need(teacher=True)}, Options),
    "released": Variant.released(released, ALL_ROWS, Options),
    "released@2024-12-10": Variant.released(released_before, ALL_ROWS, Options),
    "original": Variant(original, needs, Original, by_batch=True),
}
