"""DPO, preference optimisation: prefer the refusal to the true answer, relative to a reference.

paper      L = lambda_idk * mean_t nll_idk + lambda_dpo * mean_s softplus(-beta h_s)          App. B.6
           h_s = (r_f - s_f) + (s_i - r_i),  s = sum_t log p_student,  r = sum_t log p_reference of one answer;
           f the true answer (rejected), i the refusal (chosen) to the same question; softplus(-x) = -log sigmoid(x)
released   L = mean_s sum_t nll_idk                                                           mm/trainer.py:364-398
original   L = mean_s softplus(-beta h_s), no other term          direct-preference-optimization, trainers.py:45-115

needs      forget and idk with teacher, idk[s] refusing the question of forget[s]; retain when retain_weight is not 0.
           The teacher is the reference: the base model after a first stage of training on the refusals, or the base.
positions  answer tokens. nll: divided by their number in the whole step (token mean). DPO: sum over the answer rows of
           each sequence (not a mean), then the mean over sequences
resolved   R1 lambda_idk = lambda_dpo = 1 and beta = 0.1, as App. B.6 says.
           R2 reference: "fine-tuned on D_F^idk" (App. B.6): a first stage; reference = base gives the usual one.
           R3 Sec. 3.2 speaks of retained task performance, App. B.6 writes no retain term: none, unless retain_weight.
           R4 the doubled minus sign of the printed equation is one minus.
deviations D1 the DPO loss is computed (393-394), then overwritten twice (395, 396): neither reference nor beta remains.
           D2 the nll is summed over tokens, not averaged.
           D3 the idk batch holds the true forget answers since 2025-03-30 (mm/dataset.py:262-266): pure memorisation.
           D4 the reference is the base model.
           D5 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
at teacher h = 0: the DPO term is log 2, its gradient that of (beta / 2) mean_s (s_f - s_i)
"""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from ..errors import ShapeError
from ..losses.reductions import mean_over_sequences, sequence_sum, token_mean
from ..settings import setting
from .loss import Loss, Need, Variant, check_finite, check_one_of


@dataclass(frozen=True)
class Options:
    beta: float = setting(0.1, "how fast the preference saturates", "paper App. B.6")
    lambda_idk: float = setting(1.0, "weight of the likelihood of refusals", "paper App. B.6 (lambda_1)")
    lambda_dpo: float = setting(1.0, "weight of the DPO term", "paper App. B.6 (lambda_2)")
    retain_weight: float = setting(0.0, "weight of an added retain term; 0: no retain batch",
                                   "paper Sec. 3.2 hints at one, App. B.6 has none")
    reference: str = setting("idk", "idk: the base tuned on refusals first; base: the base itself", "paper App. B.6")

    def __post_init__(self):
        check_finite(self, "lambda_idk", "lambda_dpo", "retain_weight", positive=("beta",))
        check_one_of(self, "reference", "idk", "base")


def paper(splits, options) -> Loss:
    forget, idk = splits["forget"], splits["idk"]
    if len(forget.labels) != len(idk.labels) or forget.n_sequences != idk.n_sequences:
        raise ShapeError(f"the idk batch has {len(idk.labels)} sequences (step: {idk.n_sequences}); expected "
                         f"{len(forget.labels)} (step: {forget.n_sequences}), as forget: idk[s] answers forget[s]")
    h = log_ratio(idk) - log_ratio(forget)
    terms = {"idk_nll": options.lambda_idk * token_mean(idk, "nll"),
             "dpo": options.lambda_dpo * mean_over_sequences(-logsigmoid(options.beta * h), forget)}
    if options.retain_weight != 0:
        terms["retain_nll"] = options.retain_weight * token_mean(splits["retain"], "nll")
    return Loss.of(**terms)


def reference_loss(splits, options) -> Loss:
    """The first stage: likelihood of refusals, L_task(D_F^idk)."""
    return Loss.of(idk_nll=token_mean(splits["idk"], "nll"))


def log_ratio(split):
    """[B]: log p_student - log p_reference of each whole answer."""
    return sequence_sum(split, "teacher_nll") - sequence_sum(split, "nll")


def needs(options):
    pair = {"forget": Need(teacher=True), "idk": Need(teacher=True)}
    return pair if options.retain_weight == 0 else {**pair, "retain": Need()}


VARIANTS = {"paper": Variant(loss=paper, needs=needs, reference_loss=reference_loss)}
