"""Closed forms of the methods, worked out on paper.

They say what a method is where the student is the teacher, at the limits of its options, and where
it equals another method. p and q are the softmax of the student's and the teacher's logits, z the
student's logits, e the label's one-hot vector.
A claim is a generator of Trials; its docstring is the claim as the table prints it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from clear_ref.losses.outputs import Outputs

from . import claims_further, claims_sequence, claims_weights, random_trials
from .closed_forms import (
    answer_nll,
    answer_rows,
    apart,
    at_teacher,
    gradient_error,
    lengths,
    logits_of,
    nll_gradient,
    teacher_logits_of,
    token_mean_gradient,
)
from .laws import difference
from .measured import Measured, Trial, claim_of, largest
from .random_trials import Result

Claim = Callable[[], Iterator[Trial]]


def measure() -> list[Measured]:
    """Every claim; its Trials with the same method and semantics are one Measured."""
    measured = []
    for claim in CLAIMS:
        trials: dict[tuple[str, str], list[Trial]] = {}
        for trial in claim():
            trials.setdefault((trial.method, trial.semantics), []).append(trial)
        for (method, semantics), own in trials.items():
            measured.append(
                Measured(
                    claim_of(claim),
                    method,
                    semantics,
                    len(own),
                    largest(0.0, *(trial.error for trial in own)),
                    max(trial.bound for trial in own),
                    own[-1].reason,
                )
            )
    return measured


def kl_is_ascent() -> Iterator[Trial]:
    """At the teacher KL minimisation is gradient ascent: its KL is 0 without a gradient"""
    for semantics in ("paper", "original", "released"):
        outputs, found = at_teacher("kl", semantics)
        wanted = {"forget": token_mean_gradient(outputs["forget"], -1.0)}
        error = largest(abs(found.terms["retain_kl"]), gradient_error(found, wanted))
        yield Trial("kl", semantics, error)


def scrub_is_retain_ft() -> Iterator[Trial]:
    """At the teacher SCRUB is gamma times retain fine-tuning: both KL are 0 without a gradient"""
    for semantics, gamma in (("paper", 3.0), ("original", 3.0), ("released", 1.0)):
        given = {} if semantics == "released" else {"gamma": gamma}
        outputs, found = at_teacher("scrub", semantics, given)
        wanted = {"retain": token_mean_gradient(outputs["retain"], gamma)}
        error = largest(
            abs(found.terms["retain_kl"]),
            abs(found.terms["forget_kl"]),
            gradient_error(found, wanted),
        )
        yield Trial("scrub", semantics, error / gamma)


def llmu_cancels() -> Iterator[Trial]:
    """Where idk is the forget batch, as on the released code's texts, LLMU's nll terms cancel: at
    the teacher 0 is left"""
    _, found = at_teacher(
        "llmu", "released", {}, lambda outputs: outputs | {"idk": outputs["forget"]}
    )
    # One model sees the same batch twice, so its gradients add up.
    both = found.gradients["forget"] + found.gradients["idk"]
    error = largest(
        abs(found.loss), float(both.abs().max()), float(found.gradients["retain"].abs().max())
    )
    yield Trial("llmu", "released", error)


def llmu_starts_with_its_nll() -> Iterator[Trial]:
    """At the teacher LLMU's retain term has no gradient, in either direction of the KL and as a
    cross-entropy"""
    for semantics, given in (
        ("paper", {}),
        ("paper", {"kl": "teacher_student"}),
        ("released", {}),
        ("released@2024-12-10", {}),
        ("released@2024-10-23", {}),
        ("original", {"n_random": 2}),
    ):
        _, found = at_teacher("llmu", semantics, given)
        yield Trial("llmu", semantics, float(found.gradients["retain"].abs().max()))


def llmu_text_only_ascends_on_refusals() -> Iterator[Trial]:
    """At the teacher the text-only LLMU is ascent on refusals plus retain fine-tuning: its KL, on
    the forget answers, is 0 without a gradient"""
    outputs, found = at_teacher("llmu", "released@nlp")
    wanted = {
        "idk": token_mean_gradient(outputs["idk"], -1.0),
        "retain": token_mean_gradient(outputs["retain"]),
    }
    error = largest(abs(found.terms["forget_kl"]), gradient_error(found, wanted))
    yield Trial("llmu", "released@nlp", error)


def llmu_original_is_entropy() -> Iterator[Trial]:
    """At the teacher the original LLMU's retain term is the teacher's mean entropy over all rows"""
    outputs, found = at_teacher("llmu", "original", {"n_random": 2})
    logp = logits_of(outputs["retain"]).log_softmax(-1)
    negative_entropy = float((logp.exp() * logp).sum(-1).mean())
    error = abs(found.terms["retain_cross_entropy"] + negative_entropy) / found.scale
    yield Trial("llmu", "original", error)


def likelihoods() -> Iterator[Trial]:
    """Retain fine-tuning is the retain batch's token mean of nll, gradient ascent its negative on
    forget; IDK adds two of them"""
    for semantics in ("paper", "original", "released"):
        outputs, found = apart("retain_ft", semantics)
        wanted = {"retain": token_mean_gradient(outputs["retain"])}
        yield Trial("retain_ft", semantics, gradient_error(found, wanted))
        outputs, found = apart("grad_ascent", semantics)
        wanted = {"forget": token_mean_gradient(outputs["forget"], -1.0)}
        yield Trial("grad_ascent", semantics, gradient_error(found, wanted))
    for semantics in ("paper", "released", "released@2024-12-10", "released@2024-10-23"):
        outputs, found = apart("idk", semantics)
        wanted = {name: token_mean_gradient(batch) for name, batch in outputs.items()}
        yield Trial("idk", semantics, gradient_error(found, wanted))


def idk_original_is_one_mean() -> Iterator[Trial]:
    """The original IDK is one token mean over both batches: each weighs as many tokens as it has"""
    for semantics in ("original", "released@nlp"):
        outputs, found = apart("idk", semantics)
        n_tokens = sum(float(lengths(batch).sum()) for batch in outputs.values())
        wanted = {
            name: nll_gradient(batch, torch.full_like(lengths(batch), 1 / n_tokens))
            for name, batch in outputs.items()
        }
        value = sum(float(answer_nll(batch).sum()) for batch in outputs.values()) / n_tokens
        error = largest(gradient_error(found, wanted), abs(found.loss - value))
        yield Trial("idk", semantics, error)


def grad_diff_is_its_parts() -> Iterator[Trial]:
    """Gradient difference is gradient ascent plus lambda times retain fine-tuning"""
    for semantics, given, factor in (
        ("paper", {"lambda_retain": 0.7}, 0.7),
        ("original", {}, 1.0),
        ("released", {}, 1.0),
    ):
        outputs, found = apart("grad_diff", semantics, given)
        ascent = random_trials.loss("grad_ascent", "paper", {}, {"forget": outputs["forget"]})
        tuning = random_trials.loss("retain_ft", "paper", {}, {"retain": outputs["retain"]})
        wanted = {
            "forget": ascent.gradients["forget"],
            "retain": factor * tuning.gradients["retain"],
        }
        loss_error = abs(found.loss - ascent.loss - factor * tuning.loss) / found.scale
        yield Trial("grad_diff", semantics, largest(loss_error, gradient_error(found, wanted)))


def grad_diff_is_kl() -> Iterator[Trial]:
    """Gradient difference with retain=kl is KL minimisation"""
    for semantics in ("released", "original"):
        outputs, found = apart("kl", semantics)
        other = random_trials.loss("grad_diff", semantics, {"retain": "kl"}, outputs)
        yield Trial("grad_diff", semantics, difference(found, other))


def entropy_bug() -> Iterator[Trial]:
    """The released forget=entropy adds the entropy of all rows, undivided, so descent makes the
    distribution sharper: gradient -p (log p + H)"""
    outputs, found = apart("grad_diff", "released", {"forget": "entropy"})
    logp = logits_of(outputs["forget"]).log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1, keepdim=True)
    gradient = -logp.exp() * (logp + entropy)
    error = largest(
        abs(found.terms["forget_entropy"] - float(entropy.sum())),
        float((found.gradients["forget"] - gradient).abs().max()),
    )
    yield Trial("grad_diff", "released", error / found.scale)
    outputs, found = apart("grad_diff", "paper", {"forget": "entropy"})
    rows = answer_rows(outputs["forget"])
    logp = logits_of(outputs["forget"])[rows.sequence, rows.position].log_softmax(-1)
    negative_entropy = float((logp.exp() * logp).sum(-1).mean())
    error = abs(found.terms["forget_entropy"] - negative_entropy) / found.scale
    yield Trial("grad_diff", "paper", error)


def fisher() -> Iterator[Trial]:
    """Near the teacher both KL are half the variance of the step under p: step^2 / 2 (E d^2 -
    (E d)^2), to third order"""
    step = 1e-4
    for method, semantics, term, row_set in (
        ("kl", "paper", "retain_kl", "sequence"),
        ("kl", "released", "retain_kl", "all"),
        ("kl", "original", "retain_kl", "all"),
        ("scrub", "released", "retain_kl", "all"),
    ):
        outputs = random_trials.batches(method, semantics, {}, same=True)
        batch = outputs["retain"]
        logits = logits_of(batch)
        d = 3 * random_trials.direction("fisher", logits.shape)
        moved = outputs | {"retain": replace(batch, logits=logits + step * d)}
        found = random_trials.loss(method, semantics, {}, moved)
        p = logits.softmax(-1)
        variance = (p * d**2).sum(-1) - (p * d).sum(-1) ** 2
        if row_set == "sequence":
            rows = answer_rows(batch)
            sums = torch.zeros(len(batch.labels), dtype=torch.float64)
            sums.index_add_(0, rows.sequence, variance[rows.sequence, rows.position])
            variance = sums / lengths(batch)
        yield Trial(
            method,
            semantics,
            abs(found.terms[term] / step**2 - float(variance.mean()) / 2),
            1e-3,
            "third order: step |d|^3, and 10 roundings of 1 / step^2",
        )


def temperature() -> Iterator[Trial]:
    """The original SCRUB at temperature T is T^2 times the KL of logits T times smaller; it tends
    to half the variance, over the vocabulary, of the difference of the two logits"""
    given = {"alpha": 1.0, "gamma": 0.0}
    outputs = random_trials.batches("scrub", "original", given)
    hot = scrub_at_temperature(outputs, 4.0, scale=4.0)
    plain = scrub_at_temperature(outputs, 1.0, scale=1.0)
    yield Trial("scrub", "original", abs(hot.loss - 16 * plain.loss) / hot.scale)
    batch = outputs["retain"]
    rows = answer_rows(batch)
    gap = (logits_of(batch) - teacher_logits_of(batch))[rows.sequence, rows.position]
    limit = float(gap.var(-1, unbiased=False).mean()) / 2
    at_limit = scrub_at_temperature(outputs, 1e4, scale=1.0)
    yield Trial(
        "scrub",
        "original",
        abs(at_limit.terms["retain_kl"] - limit),
        1e-2,
        "next order in 1 / T: |z|^3 / T",
    )


def scrub_at_temperature(outputs: dict[str, Outputs], temperature: float, scale: float) -> Result:
    """The original SCRUB with alpha = 1 and gamma = 0 on logits that are multiplied by `scale`."""
    scaled = {
        name: replace(
            batch,
            logits=scale * logits_of(batch),
            teacher_logits=scale * teacher_logits_of(batch),
        )
        for name, batch in outputs.items()
    }
    given = {"alpha": 1.0, "gamma": 0.0, "temperature": temperature}
    return random_trials.loss("scrub", "original", given, scaled)


def dated_formulas() -> Iterator[Trial]:
    """A dated semantics of IDK, LLMU and DPO differs from the head in what its idk batch holds, not
    in its formula"""
    for method in ("idk", "llmu", "dpo"):
        outputs, found = apart(method, "released")
        for semantics in ("released@2024-12-10", "released@2024-10-23"):
            error = difference(found, random_trials.loss(method, semantics, {}, outputs))
            yield Trial(method, semantics, error, 0.0, "the same function")


CLAIMS: tuple[Claim, ...] = (
    likelihoods,
    idk_original_is_one_mean,
    grad_diff_is_its_parts,
    grad_diff_is_kl,
    kl_is_ascent,
    scrub_is_retain_ft,
    temperature,
    fisher,
    entropy_bug,
    llmu_cancels,
    llmu_starts_with_its_nll,
    llmu_text_only_ascends_on_refusals,
    llmu_original_is_entropy,
    dated_formulas,
    *claims_sequence.CLAIMS,
    *claims_weights.CLAIMS,
    *claims_further.CLAIMS,
)
