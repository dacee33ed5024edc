"""DPO, preference optimisation: prefer the refusal to the true answer, relative to a reference.

paper      L = lambda_idk mean_t nll_idk + lambda_dpo mean_s softplus(-beta h_s)                        [App. B.6]
           h_s = (r_f - s_f) + (s_i - r_i),  s = sum_t log p_student,  r = sum_t log p_reference of one answer;
           f the true answer (rejected), i the refusal (chosen) to the same question; softplus(-x) = -log sigmoid(x)
released   L = mean_s sum_t nll_idk; the idk batch holds the true forget answers        [mm/trainer.py:364-398]
released@2024-12-10  the same formula; the idk batch holds refusals                     [the same at dcc7070]
released@2024-10-23  the same formula; the idk batch holds refusals for texts, the true captions for pictures
                                                                                        [the same at 3e33dae]
original   L = mean_s softplus(-beta h_s),  beta = 0.1           [direct-preference-optimization, trainers.py:45-115]

needs      forget and idk with teacher, idk[s] refusing the question of forget[s]; retain when retain_weight is not 0.
           The teacher is the reference: the base model after a first stage of training on the refusals (paper), or the
           base (original). released: idk alone
positions  answer tokens. mean_t: divided by their number (token mean). h_s and mean_s sum_t: sum over the answer rows of
           each sequence (not a mean), then the mean over sequences
resolved   R1 lambda_idk = lambda_dpo = 1 and beta = 0.1, as App. B.6 says.
           R2 reference: "fine-tuned on D_F^idk" (App. B.6): a first stage; reference = base gives the usual one.
           R3 Sec. 3.2 speaks of retained task performance, App. B.6 writes no retain term: none, unless retain_weight.
           R4 the doubled minus sign of the printed equation is one minus. R5 original: the official code; the NPO
              repository and open-unlearning multiply by 2 / beta.
deviations D1 the DPO loss is computed (393-394), then overwritten twice (395, 396): neither reference nor beta remains.
           D2 the nll is summed over tokens, not averaged. D3 the idk batch: idk.py's D1, D2 and D5. D4 label mask and mean of
           batches: idk.py's D3 and D4. D5 on Qwen2-VL it stops at config.image_token_index (371), which is not there.
at teacher h = 0: the DPO term is log 2, its gradient that of (beta / 2) mean_s (s_f - s_i)
evidence   by hand, finite differences; released: authors' code; original: DPO's, NPO's and open-unlearning's code
"""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from clear_ref.common.errors import ShapeError
from clear_ref.common.settings import setting
from clear_ref.losses.reductions import mean_over_sequences, sequence_sum, token_mean

from .loss import Loss
from .option_checks import check_finite, check_one_of
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    beta: float = setting(0.1, "how fast the preference saturates", "paper App. B.6")
    lambda_idk: float = setting(
        1.0, "weight of the likelihood of refusals", "paper App. B.6 (lambda_1)"
    )
    lambda_dpo: float = setting(1.0, "weight of the DPO term", "paper App. B.6 (lambda_2)")
    retain_weight: float = setting(
        0.0,
        "weight of an added retain term; 0: no retain batch",
        "paper Sec. 3.2 hints at one, App. B.6 has none",
    )
    reference: str = setting(
        "idk", "idk: the base tuned on refusals first; base: the base itself", "paper App. B.6"
    )

    def __post_init__(self):
        check_finite(self, "lambda_idk", "lambda_dpo", "retain_weight", positive=("beta",))
        check_one_of(self, "reference", "idk", "base")


@dataclass(frozen=True)
class Original:
    beta: float = setting(
        0.1,
        "how fast the preference saturates",
        "DPO, trainers.py:57 (0.1 to 0.5); TOFU, dataloader.py:169",
    )

    def __post_init__(self):
        check_finite(self, positive=("beta",))


@dataclass(frozen=True)
class Released:
    """The released DPO has no options: nothing that beta weighs is left."""


def paper(batches, options) -> Loss:
    terms = {
        "idk_nll": options.lambda_idk * token_mean(batches["idk"], "nll"),
        "dpo": options.lambda_dpo * original(batches, options).value,
    }
    if options.retain_weight != 0:
        terms["retain_nll"] = options.retain_weight * token_mean(batches["retain"], "nll")
    return Loss.of(**terms)


def original(batches, options) -> Loss:
    forget, idk = batches["forget"], batches["idk"]
    if len(forget.labels) != len(idk.labels) or forget.n_sequences != idk.n_sequences:
        raise ShapeError(
            f"the idk batch has {len(idk.labels)} sequences (step: {idk.n_sequences}); expected "
            f"{len(forget.labels)} (step: {forget.n_sequences}), as forget: idk[s] answers forget[s]"
        )
    r_s_idk, r_s_forget = (
        sequence_sum(batch, "teacher_nll") - sequence_sum(batch, "nll") for batch in (idk, forget)
    )
    return Loss.of(
        dpo=mean_over_sequences(-logsigmoid(options.beta * (r_s_idk - r_s_forget)), forget)
    )


def released(batches, options) -> Loss:
    return Loss.of(idk_nll=mean_over_sequences(sequence_sum(batches["idk"], "nll"), batches["idk"]))


def reference_loss(batches, options) -> Loss:
    """The first stage: likelihood of refusals, L_task(D_F^idk)."""
    return Loss.of(idk_nll=token_mean(batches["idk"], "nll"))


PAIR = {"forget": Need(teacher=True), "idk": Need(teacher=True)}
VARIANTS = {
    "paper": Variant(
        paper,
        lambda options: PAIR | ({"retain": Need()} if options.retain_weight != 0 else {}),
        Options,
        reference_loss=reference_loss,
    ),
    **Variant.released_by_date(released, {"idk": Need()}, Released),
    "original": Variant(original, PAIR, Original, by_batch=True),
}
