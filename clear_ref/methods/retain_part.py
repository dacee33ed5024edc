"""The retain term that open-unlearning adds to a forget loss: gamma F + alpha R.

Its GradDiff class adds R to the further losses, as nll or as KL (open-unlearning
src/trainer/unlearn/grad_diff.py:26-40 at d3d7cf9).
"""

from collections.abc import Callable
from typing import Any

from clear_ref import losses
from clear_ref.losses.reductions import token_mean

from .variant import Batches, Need


def retain_terms(batches: Batches, options: Any) -> dict[str, "losses.Tensor"]:
    """{name: alpha times the term} that the option `retain` names; {} if alpha is 0.

    ce  mean_t nll; kl  mean_rows KL(teacher || student), over all B x T rows
    """
    if options.alpha == 0:
        return {}
    if options.retain == "ce":
        return {"retain_nll": options.alpha * token_mean(batches["retain"], "nll")}
    kl = token_mean(batches["retain"], "kl_teacher_student", "all")
    return {"retain_kl": options.alpha * kl}


def needs_with_retain(forget: Need) -> Callable[[Any], dict[str, Need]]:
    """options -> {batch name: Need} of the forget batch and of the retain term."""

    def needs(options: Any) -> dict[str, Need]:
        if options.alpha == 0:
            return {"forget": forget}
        if options.retain == "ce":
            return {"forget": forget, "retain": Need()}
        return {"forget": forget, "retain": Need(rows=("all",), teacher=True)}

    return needs
