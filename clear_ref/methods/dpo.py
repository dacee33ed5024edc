"""DPO, preference optimisation: prefer the refusal to the true answer, relative to a reference.

paper      L = lambda_idk mean_t nll_idk + lambda_dpo mean_s softplus(-beta h_s)          [App. B.6]
           h_s = (r_f - s_f) + (s_i - r_i),
           s = sum_t log p_student,  r = sum_t log p_reference of one answer;
           f the true answer (rejected), i the refusal (chosen) to the same question;
           softplus(-x) = -log sigmoid(x)
released   L = mean_s sum_t nll_idk; the idk batch holds the true forget answers
                                                            [CLEAR mm/trainer.py:364-398 at bb14c96]
released@2024-12-10  the same formula; the idk batch holds refusals
                                                            [CLEAR mm/trainer.py:373-412 at dcc7070]
released@2024-10-23  the same formula; the idk batch holds refusals for texts,
           the true captions for pictures                   [CLEAR mm/trainer.py:373-412 at 3e33dae]
released@nlp  L = mean_s sum_t nll_retain               [CLEAR nlp/dataloader.py:425-456 at bb14c96]
original   L = mean_s softplus(-beta h_s),  beta = 0.1
                                      [direct-preference-optimization trainers.py:45-115 at f8b8c0f]

needs      forget and idk with teacher, idk[s] refusing the question of forget[s]; retain if
           retain_weight is not 0. The teacher is the reference (loop/teacher.py:Teacher). paper:
           the base model after a first stage on the refusals (loop/unlearn.py:idk_reference).
           original: the base model. released: idk alone, released@nlp: retain alone, no teacher
positions  answer tokens. mean_t: divided by their number (token mean). h_s and mean_s sum_t: sum
           over the answer rows of each sequence (not a mean), then the mean over sequences.
           Label mask: answer; under released: released (D4) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 lambda_idk = lambda_dpo = 1 and beta = 0.1, as App. B.6 says.
           R2 reference: "fine-tuned on D_F^idk" (App. B.6): a first stage, or reference=base.
           R3 Sec. 3.2 mentions retained task performance, App. B.6 prints no retain term: none,
              unless retain_weight is set.
           R4 the doubled minus sign of the printed equation is one minus. R5 original: DPO's own.
deviations D1 the DPO loss is computed (CLEAR mm/trainer.py:393-394 at bb14c96), then overwritten
              twice (mm/trainer.py:395, 396): neither the reference nor beta has an effect.
           D2 the nll is summed over the tokens of an answer, not averaged.
           D3 since 2025-03-30 the idk batch holds the true forget answers: the refusal is written
              into a copy of the row, and the uncopied row is used (CLEAR mm/dataset.py:262-266 at
              bb14c96); before 2024-12-10 for pictures only. Each refusal but the file's last keeps
              its line end (mm/dataset.py:223,263). A caption question is drawn anew (245).
           D4 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D5 each batch of batch_size records has its own mean; a step takes the mean of these.
           D6 on Qwen2-VL the code stops: config has no image_token_index (mm/trainer.py:371).
           D7 released@nlp has D1, D2 and D5: the data set yields idk, forget, retain, the trainer
              unpacks forget, retain, idk (nlp/data_module.py:115, nlp/dataloader.py:145). So the
              retain answers are trained on, as Retain FT does with another divisor.
at teacher h = 0: the DPO term is log 2, its gradient that of (beta / 2) mean_s (s_f - s_i)
evidence   by hand, finite differences; released: authors' code; original: DPO's code. NPO's and
           open-unlearning's gives 2 / beta times as much, dpo_two_over_beta (oracle/mistakes)
"""

from dataclasses import dataclass

from clear_ref import losses
from clear_ref.common.errors import ShapeError
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import mean_over_sequences, sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .variant import Batches, Need, Variant

BETA_MEANING = "how fast the preference saturates"
B_6 = "paper App. B.6"
NO_RETAIN = "paper Sec. 3.2 hints at one, App. B.6 has none"


@dataclass(frozen=True)
class Options:
    beta: float = setting(0.1, BETA_MEANING, B_6)
    lambda_idk: float = setting(1.0, "weight of the likelihood of refusals", f"{B_6} (lambda_1)")
    lambda_dpo: float = setting(1.0, "weight of the DPO term", f"{B_6} (lambda_2)")
    retain_weight: float = setting(
        0.0, "weight of an added retain term; 0: no retain batch", NO_RETAIN
    )
    reference: str = setting(
        "idk", "idk: the base tuned on refusals; base: the base", B_6, ("idk", "base")
    )

    def __post_init__(self) -> None:
        check_finite(self, "lambda_idk", "lambda_dpo", "retain_weight", positive=("beta",))
        check_one_of(self, "reference")


@dataclass(frozen=True)
class Original:
    beta: float = setting(
        0.1, BETA_MEANING, "DPO trainers.py:57 at f8b8c0f; TOFU dataloader.py:169 at bdc209e"
    )

    def __post_init__(self) -> None:
        check_finite(self, positive=("beta",))


@dataclass(frozen=True)
class Released:
    """The released DPO has no options: beta has no effect on its loss."""


def paper(batches: Batches, options: Options) -> Loss:
    terms = {
        "idk_nll": options.lambda_idk * token_mean(batches["idk"], "nll"),
        "dpo": options.lambda_dpo * original(batches, options).value,
    }
    if options.retain_weight != 0:
        terms["retain_nll"] = options.retain_weight * token_mean(batches["retain"], "nll")
    return Loss.of(**terms)


def original(batches: Batches, options: Original | Options) -> Loss:
    forget = batches["forget"]
    idk = batches["idk"]
    if len(forget.labels) != len(idk.labels) or forget.n_sequences != idk.n_sequences:
        raise ShapeError(
            f"the idk batch has {len(idk.labels)} sequences (step: {idk.n_sequences}); expected "
            f"{len(forget.labels)} (step: {forget.n_sequences}), as forget: idk[s] answers "
            "the question of forget[s]"
        )
    idk_log_ratio = sequence_sum(idk, "teacher_nll") - sequence_sum(idk, "nll")
    forget_log_ratio = sequence_sum(forget, "teacher_nll") - sequence_sum(forget, "nll")
    preference = losses.log_sigmoid(options.beta * (idk_log_ratio - forget_log_ratio))
    return Loss.of(dpo=mean_over_sequences(-preference, forget))


def released(batches: Batches, options: Released) -> Loss:
    idk = batches["idk"]
    return Loss.of(idk_nll=mean_over_sequences(sequence_sum(idk, "nll"), idk))


def released_nlp(batches: Batches, options: Released) -> Loss:
    """The text-only code: the retain batch is where its trainer expects the refusals."""
    retain = batches["retain"]
    return Loss.of(retain_nll=mean_over_sequences(sequence_sum(retain, "nll"), retain))


def reference_loss(batches: Batches, options: Options) -> Loss:
    """The first stage: likelihood of refusals, L_task(D_F^idk)."""
    return Loss.of(idk_nll=token_mean(batches["idk"], "nll"))


def needs(options: Options) -> dict[str, Need]:
    return PAIR if options.retain_weight == 0 else {**PAIR, "retain": Need()}


PAIR = {"forget": Need(teacher=True), "idk": Need(teacher=True)}
VARIANTS = {
    "paper": Variant(paper, needs, Options, reference_loss=reference_loss),
    **Variant.released_by_date(released, {"idk": Need()}, Released),
    **Variant.released_nlp(released_nlp, {"retain": Need()}, Released),
    "original": Variant(original, PAIR, Original, by_batch=True),
}
