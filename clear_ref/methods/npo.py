"""NPO: make the forget answers less likely than the teacher does, with a weight that fades.

paper      L = (2/beta) mean_s softplus(beta (s - r)),
           s = sum_t log p_student,  r = sum_t log p_teacher of one answer
             = (2/beta) mean_s log(1 + (p_student(y|x) / p_teacher(y|x))^beta),  beta = 1
                                                                                          [App. B.7]
released   L = (2/beta) mean_{rows,V} log(1 + (p_student / (p_teacher + 1e-8))^beta),  beta = 1
                                                            [CLEAR mm/trainer.py:343-353 at bb14c96]
released@2024-12-10  L = (2/beta) mean_{rows,V} log(1 + log(p_student / p_teacher)^beta)
                                                            [CLEAR mm/trainer.py:353-362 at dcc7070]
released@nlp  as released@2024-12-10                    [CLEAR nlp/dataloader.py:384-402 at bb14c96]
original   as paper with beta = 0.1                      [NPO TOFU/dataloader.py:255-270 at 1207bbe]
           retain=ce adds mean_t nll_retain, retain=kl mean_rows KL(teacher || student)_retain
                                                         [NPO TOFU/dataloader.py:272-320 at 1207bbe]

needs      forget with teacher; original: retain for its retain term. The teacher is the model
           before unlearning: adapters off, or without adapters a frozen copy
           (loop/teacher.py:Teacher)
positions  paper, original: answer tokens, summed over each sequence (not a mean), then the mean
           over sequences; mean_t: divided by their number. mean_rows: all B x T rows, divided by
           B x T; mean_{rows,V}: every vocabulary entry of these rows, divided by B x T x V.
           Label mask: answer. released reads no label, so the mask changes nothing there
resolved   R1 App. B.7 takes its notation from DPO, whose reference is tuned on refusals; here the
              reference is the model before unlearning, as in the original and the released code.
           R2 beta = 1, "also taken equal to 1" (App. B.7), though DPO's is 0.1.
deviations D1 the whole vocabulary instead of the answer token: labels are never read.
           D2 every row counts: padding, image and prompt.
           D3 no sum over a sequence: each entry enters by itself.
           D4 before 2025-03-30: NaN as soon as one log-ratio is below -1, which stops the run; and
              the teacher was loaded only if L1 was on (CLEAR mm/trainer_utils.py:6-7 at dcc7070).
              Here the teacher is always loaded.
           D5 each batch of batch_size records has its own mean; a step takes the mean of these.
           D6 released@nlp has D1 to D5, the NaN included. With L1 off its script has no teacher and
              stops (nlp/dataloader.py:20-21).
at teacher the loss is (2/beta) log 2, its gradient that of mean_s s: plain ascent on the mean
           sequence sum. released: the same value except for the 1e-8, d/dz = (1/V - p) / rows, away
           from uniform: it makes the distribution sharper, though it should forget.
           released@2024-12-10, released@nlp: 0, and with beta = 1 d/dz = (2/V) (1 - V p) / rows:
           twice the gradient of released, in the same direction
evidence   by hand, finite differences; released: authors' code; original: NPO's and
           open-unlearning's code
"""

from collections.abc import Callable
from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import mean_over_sequences, sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .variant import Batches, Need, Variant

# (student logits [n, V], teacher logits [n, V], beta) -> [n]
RatioFunction = Callable[["losses.Tensor", "losses.Tensor", float], "losses.Tensor"]
BETA_MEANING = "how fast the gradient becomes small; towards 0 the loss becomes gradient ascent"


@dataclass(frozen=True)
class Options:
    beta: float = setting(1.0, BETA_MEANING, "paper App. B.7")

    def __post_init__(self) -> None:
        check_finite(self, positive=("beta",))


@dataclass(frozen=True)
class Original:
    beta: float = setting(0.1, BETA_MEANING, "NPO config/forget.yaml at 1207bbe")
    retain: str = setting(
        "none",
        "added retain term: none | ce | kl",
        "NPO: npo, npo_grad_diff, npo_KL",
        choices=("none", "ce", "kl"),
    )

    def __post_init__(self) -> None:
        check_finite(self, positive=("beta",))
        check_one_of(self, "retain")


def paper(batches: Batches, options: Options | Original) -> Loss:
    forget = batches["forget"]
    log_ratio = sequence_sum(forget, "teacher_nll") - sequence_sum(forget, "nll")
    # -logsigmoid(-x) is softplus(x); torch's own softplus becomes linear above 20.
    softplus = -losses.log_sigmoid(-options.beta * log_ratio)
    return Loss.of(forget_npo=2 / options.beta * mean_over_sequences(softplus, forget))


def original(batches: Batches, options: Original) -> Loss:
    terms = dict(paper(batches, options).terms)
    if options.retain == "ce":
        terms["retain_nll"] = token_mean(batches["retain"], "nll")
    if options.retain == "kl":
        terms["retain_kl"] = token_mean(batches["retain"], "kl_teacher_student", "all")
    return Loss.of(**terms)


def whole_vocabulary_loss(batches: Batches, beta: float, ratio_function: RatioFunction) -> Loss:
    """(2/beta) times the mean of ratio_function over all rows, padding included."""
    forget = batches["forget"]
    values = forget.column("all", lambda student, teacher: ratio_function(student, teacher, beta))
    return Loss.of(forget_npo=2 / beta * token_mean(forget, values, "all"))


def released(batches: Batches, options: Options) -> Loss:
    return whole_vocabulary_loss(batches, options.beta, losses.log_one_plus_ratio)


def released_before(batches: Batches, options: Options) -> Loss:
    """The released code before 2025-03-30, and the text-only code."""
    return whole_vocabulary_loss(batches, options.beta, losses.log_one_plus_log_ratio)


def needs(options: Original) -> dict[str, Need]:
    batch_needs = {"forget": Need(teacher=True)}
    if options.retain == "ce":
        batch_needs["retain"] = Need()
    if options.retain == "kl":
        batch_needs["retain"] = Need(rows=("all",), teacher=True)
    return batch_needs


ALL_ROWS = {"forget": Need(rows=("all",), teacher=True)}
VARIANTS = {
    "paper": Variant(paper, {"forget": Need(teacher=True)}, Options),
    "released": Variant.released(released, ALL_ROWS, Options),
    "released@2024-12-10": Variant.released(released_before, ALL_ROWS, Options),
    **Variant.released_nlp(released_before, ALL_ROWS, Options),
    "original": Variant(original, needs, Original, by_batch=True),
}
