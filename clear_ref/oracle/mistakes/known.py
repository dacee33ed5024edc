"""The known mistakes as data. Each computes a wrong loss or a wrong gradient from right inputs.

A mistake breaks one rule of Sheet (broken_rules.py) or changes the batches (computations.py), so it
exists under all semantics that use the rule. Under other semantics it changes nothing (for example
a swapped KL in a method without a KL), and `loss_with_mistake` gives the right result.
"""

from dataclasses import dataclass

import numpy as np

from clear_ref.methods import SEMANTICS
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.rows import Batches

from . import broken_rules
from .computations import (
    Computation,
    forget_as_idk,
    last_line_wins,
    mean_of_two_micro_batches,
    student_as_teacher,
    with_batches,
    with_rule,
    with_sheet,
)

EVERY_METHOD = tuple(formulas.FORMULAS)
LOGIT_METHODS = tuple(method for method in EVERY_METHOD if method != "rmu")
# grad_diff, npo and the further losses have a KL only with some values of their options.
FURTHER_WITH_KL = ("simnpo", "undial", "wga", "satimp")
METHODS_WITH_KL = ("grad_diff", "kl", "npo", "scrub", "llmu", "sku", *FURTHER_WITH_KL)
METHODS_WITH_TEACHER = (*METHODS_WITH_KL, "dpo", "rmu")
TOKEN_ARRAYS = ("input_ids", "kinds")


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    what       the mistake in one sentence; seen: where it was made. Both are part of the stored
               vectors (inputs.json)
    methods    the methods in which the vectors must detect it
    compute    (method, semantics, options, batches) -> the wrong LossResult
    reads      arrays of a batch that it needs in addition to those of the loss
    semantics  the semantics under which it is a mistake; under the others it is the definition
    """

    name: str
    what: str
    seen: str
    methods: tuple[str, ...]
    compute: Computation
    reads: tuple[str, ...] = ()
    semantics: tuple[str, ...] = SEMANTICS


def loss_with_mistake(
    mistake: Mistake, method: str, semantics: str, options: Options, batches: Batches
) -> LossResult | None:
    """The LossResult of a method with the mistake in it.

    None if it is no mistake of this method and semantics, or a batch lacks an array that it reads.
    """
    if method not in mistake.methods or semantics not in mistake.semantics:
        return None
    for batch in batches.values():
        if any(name not in batch for name in mistake.reads):
            return None
    with np.errstate(all="ignore"):
        return mistake.compute(method, semantics, options, batches)


MISTAKES = (
    Mistake(
        name="padding_counted",
        what=(
            "Rows that predict padding are counted, with the padding id for a label (rmu: "
            "padded positions)."
        ),
        seen="released code, mm/trainer.py:302-326 and every KL",
        methods=EVERY_METHOD,
        compute=with_sheet(broken_rules.Padding),
        reads=TOKEN_ARRAYS,
    ),
    Mistake(
        name="prompt_counted",
        what="Prompt tokens are supervised like the answer's.",
        seen="released label mask, mm/dataset.py:315-339",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.Prompt),
        reads=TOKEN_ARRAYS,
    ),
    Mistake(
        name="image_tokens_counted",
        what="Image placeholders are supervised like the answer's tokens.",
        seen="released label mask with expanded images, mm/dataset.py:315-339",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.Images),
        reads=TOKEN_ARRAYS,
    ),
    Mistake(
        name="shift_off_by_one",
        what="The logits at t are scored against the token at t instead of t + 1.",
        seen="neither the framework nor the code that calls it shifts",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.Unshifted),
    ),
    Mistake(
        name="shifted_twice",
        what="The logits at t are scored against the token at t + 2 instead of t + 1.",
        seen="frameworks that shift inside, called by code that has shifted the labels already",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.ShiftedTwice),
    ),
    Mistake(
        name="bos_off_by_one",
        what=(
            "The prompt is counted with one token (a second BOS) too many: each answer's first "
            "token is lost."
        ),
        seen="prompt and answer tokenised apart, each with its BOS",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.FirstTokenLost),
    ),
    Mistake(
        name="kl_swapped",
        what="KL(student || teacher) for KL(teacher || student), or the reverse.",
        seen="released SCRUB and LLMU, mm/trainer.py:231-300",
        methods=METHODS_WITH_KL,
        compute=with_sheet(broken_rules.SwappedKl),
    ),
    Mistake(
        name="kl_is_cross_entropy",
        what="The first distribution's entropy is left out: a cross-entropy is reported as a KL.",
        seen="llm_unlearn, utils.py:173-205",
        methods=METHODS_WITH_KL,
        compute=with_sheet(broken_rules.KlWithoutEntropy),
    ),
    Mistake(
        name="sum_for_mean",
        what="Nothing is divided: sums over rows and sequences.",
        seen="released entropy term, mm/trainer.py:187-211; reduction='sum'",
        methods=EVERY_METHOD,
        compute=with_sheet(broken_rules.Sums),
    ),
    Mistake(
        name="batchmean_over_batch",
        what="A KL is summed over the rows and divided by the number of sequences.",
        seen="kl_div(reduction='batchmean') on [B, T, V]",
        methods=METHODS_WITH_KL,
        compute=with_sheet(broken_rules.BatchMean),
    ),
    Mistake(
        name="mean_inside_nonlinearity",
        what="The mean is taken before the softplus (rmu: before the square) instead of after it.",
        seen="released RMU, mm/trainer.py:302-326",
        methods=("dpo", "npo", "rmu", "simnpo"),
        compute=with_sheet(broken_rules.MeanInside),
    ),
    Mistake(
        name="logits_for_logp",
        what="Logits are used where log-probabilities belong.",
        seen="kl_div and nll_loss called on raw logits",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.RawLogits),
    ),
    Mistake(
        name="vocabulary_wise_ratio",
        what=(
            "The ratio of probabilities is taken entry by entry over the vocabulary; the answer"
            " is not read."
        ),
        seen="released NPO, mm/trainer.py:343-353",
        methods=("npo",),
        compute=with_sheet(broken_rules.VocabularyRatio),
        semantics=("paper", "original"),
    ),
    Mistake(
        name="reference_not_detached",
        what="The gradient also flows through the teacher, which moves with the student.",
        seen="one model called twice without no_grad",
        methods=METHODS_WITH_TEACHER,
        compute=with_sheet(broken_rules.Attached),
    ),
    Mistake(
        name="reference_is_wrong_model",
        what="The teacher is the student itself.",
        seen="adapters left on while the teacher runs; a reference that is not a copy",
        methods=METHODS_WITH_TEACHER,
        compute=with_batches(student_as_teacher),
    ),
    Mistake(
        name="idk_is_forget",
        what="The idk batch holds the true forget answers.",
        seen="released code since 2025-03-30, mm/dataset.py:262-266",
        methods=("idk", "dpo", "llmu"),
        compute=with_batches(forget_as_idk, (("idk", "forget"),)),
    ),
    Mistake(
        name="last_debug_line_wins",
        what=(
            "The loss is overwritten by a later line: the idk answers' summed nll is all that "
            "is left."
        ),
        seen="released DPO, mm/trainer.py:393-396",
        methods=("dpo",),
        compute=with_rule(last_line_wins),
        semantics=("paper", "original"),
    ),
    Mistake(
        name="broadcast_pairs",
        what="[B] meets [B, 1]: every sequence is compared with every other's teacher.",
        seen="released RMU, mm/trainer.py:302-326",
        methods=("dpo", "npo", "rmu"),
        compute=with_sheet(broken_rules.Pairs),
        semantics=("paper", "original"),
    ),
    Mistake(
        name="entropy_sign",
        what=(
            "sum p log p is taken for the entropy: it is minimised instead of maximised, or the"
            " reverse."
        ),
        seen="released grad_diff, mm/trainer.py:187-211",
        methods=("grad_diff",),
        compute=with_sheet(broken_rules.WrongEntropySign),
    ),
    Mistake(
        name="mean_of_means",
        what="Micro-batches of unequal size are averaged as if they were equal.",
        seen="gradient accumulation as transformers 4.45.1 does it",
        methods=EVERY_METHOD,
        compute=with_rule(mean_of_two_micro_batches),
        semantics=("paper",),
    ),
    Mistake(
        name="bf16_logp",
        what="Log-probabilities are rounded to bfloat16 before they are used.",
        seen="losses computed in the model's dtype",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.Bf16),
    ),
    Mistake(
        name="uniform_upstream",
        what="A backward that gives every row the same upstream gradient.",
        seen="fused cross-entropies that scale by one number",
        methods=("kl", "dpo", "npo", "scrub", "llmu", "sku", "simnpo", "wga", "satimp"),
        compute=with_sheet(broken_rules.Uniform),
    ),
    Mistake(
        name="ignore_index_used",
        what="Ignored labels are clamped to id 0 and counted.",
        seen="gather with labels.clamp(min=0) and no mask",
        methods=LOGIT_METHODS,
        compute=with_sheet(broken_rules.IgnoredCounted),
    ),
)
