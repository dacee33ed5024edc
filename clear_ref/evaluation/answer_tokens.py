"""What a model says of each token of a record's answer, given the tokens before it.

No text is generated: one forward of prompt and answer gives the likelihood, the most likely token
and the spread of log p over the vocabulary at every position; one backward the norm of a gradient.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clear_ref.data.records import Record
from clear_ref.losses.terms import token_terms
from clear_ref.model.vlm import VLM

from .exact_means import mean
from .likelihood import answer_logits


@dataclass(frozen=True)
class AnswerTokens:
    """A number for each token of an answer, its end token included. Each list has one length.

    nll           -log p of the token, in nats
    is_most_likely  whether the token is the arg-max; of equal logits the lowest id is
    mean_log_p    sum_v p_v log p_v over the vocabulary
    variance      of log p_v under p, 0 or more
    """

    nll: list[float]
    is_most_likely: list[bool]
    mean_log_p: list[float]
    variance: list[float]


@torch.no_grad()
def answer_tokens(vlm: VLM, record: Record) -> AnswerTokens:
    """The AnswerTokens of the record's answer; the same tokens as in training."""
    logits, labels = answer_logits(vlm, record)
    terms = token_terms(logits, labels, predictions=True)
    assert terms.arg_max is not None and terms.entropy is not None
    assert terms.log_p_squared is not None
    entropy = terms.entropy.double()
    variance = (terms.log_p_squared.double() - entropy.square()).clamp_min(0.0)
    return AnswerTokens(
        nll=terms.nll.double().tolist(),
        is_most_likely=(terms.arg_max == labels).tolist(),
        mean_log_p=(-entropy).tolist(),
        variance=variance.tolist(),
    )


def gradient_norm(vlm: VLM, record: Record) -> float:
    """The mean over the model's tensors of the L2 norm of the gradient of the answer's mean nll.

    Only tensors that the answer depends on count. One gradient is in memory at a time, and no
    tensor keeps one; the model is left as it was.
    source  open-unlearning's GradNorm (src/evals/metrics/mia/gradnorm.py) with p = 2; arXiv
            2402.17012
    """
    norms: list[float] = []

    def take(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        wide = torch.promote_types(parameter.grad.dtype, torch.float32)
        norms.append(float(torch.linalg.vector_norm(parameter.grad, dtype=wide)))
        parameter.grad = None

    with torch.enable_grad(), _hooked(vlm, take):
        logits, labels = answer_logits(vlm, record)
        token_terms(logits, labels, entropy=False).nll.mean().backward()
    return mean(norms) if norms else math.nan


@contextlib.contextmanager
def _hooked(vlm: VLM, take) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Every tensor of the model gets a gradient, which `take` removes, until the block ends."""
    parameters = [each for each in vlm.model.parameters() if each.is_floating_point()]
    before = [each.requires_grad for each in parameters]
    hooks = []
    try:
        for each in parameters:
            each.requires_grad_(True)
            hooks.append(each.register_post_accumulate_grad_hook(take))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for each, required in zip(parameters, before, strict=True):
            each.requires_grad_(required)
            each.grad = None
