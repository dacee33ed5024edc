"""Closed forms, worked out on paper: what each method is where the student is the teacher, at the ends of its options, and where
it is another method in disguise. p, q: softmax of the student's and the teacher's logits; z the student's; e the label's one-hot.

A claim is a generator of (method, meaning, error); its docstring is the claim as the table prints it. Errors are relative to the
terms' size; an own bound comes fourth and fifth, with its reason.
"""

from dataclasses import replace

import torch

from clear_ref.losses.rows import select_rows

from . import claims_sequence, claims_weights, random_trials
from .closed_forms import apart, at_teacher, lengths, nll_gradient, off, sums, token_weights
from .laws import ROUNDING, WHY, difference, larger


def measure() -> list[tuple]:
    """Rows (claim, method, meaning, n, error, bound, reason), the measurements of a claim by method and meaning."""
    rows = {}
    for claim in CLAIMS:
        for method, semantics, error, *own in claim():
            bound, why = own or (ROUNDING, WHY)
            before = rows.get((claim, method, semantics), (0, 0.0, bound))
            rows[claim, method, semantics] = (
                before[0] + 1,
                larger(before[1], error),
                max(bound, before[2]),
                why,
            )
    return [
        (" ".join(claim.__doc__.split()), method, semantics, *found)
        for (claim, method, semantics), found in rows.items()
    ]


def kl_is_ascent():
    """At the teacher KL minimisation is gradient ascent: its KL is 0 without a gradient"""
    for semantics in ("paper", "original", "released"):
        outputs, found = at_teacher("kl", semantics)
        yield (
            "kl",
            semantics,
            larger(
                abs(found.terms["retain_kl"]),
                off(
                    found,
                    {
                        "forget": nll_gradient(
                            outputs["forget"], token_weights(outputs["forget"], -1.0)
                        )
                    },
                ),
            ),
        )


def scrub_is_retain_ft():
    """At the teacher SCRUB is gamma times retain fine-tuning: both KL are 0 without a gradient"""
    for semantics, gamma in (("paper", 3.0), ("original", 3.0), ("released", 1.0)):
        outputs, found = at_teacher(
            "scrub", semantics, {} if semantics == "released" else {"gamma": gamma}
        )
        yield (
            "scrub",
            semantics,
            larger(
                abs(found.terms["retain_kl"]),
                abs(found.terms["forget_kl"]),
                off(
                    found,
                    {
                        "retain": nll_gradient(
                            outputs["retain"], token_weights(outputs["retain"], gamma)
                        )
                    },
                ),
            )
            / gamma,
        )


def llmu_cancels():
    """Where idk is the forget batch, as on the released code's texts, LLMU's nll terms cancel: at the teacher 0 is left"""
    _, found = at_teacher(
        "llmu", "released", {}, lambda outputs: outputs | {"idk": outputs["forget"]}
    )
    both = found.gradients["forget"] + found.gradients["idk"]  # one model sees the same batch twice
    yield (
        "llmu",
        "released",
        larger(
            abs(found.loss), float(both.abs().max()), float(found.gradients["retain"].abs().max())
        ),
    )


def llmu_starts_with_its_nll():
    """At the teacher LLMU's retain term has no gradient, in either direction of the KL and as a cross-entropy"""
    for semantics, given in (
        ("paper", {}),
        ("paper", {"kl": "teacher_student"}),
        ("released", {}),
        ("released@2024-12-10", {}),
        ("released@2024-10-23", {}),
        ("original", {"n_random": 2}),
    ):
        _, found = at_teacher("llmu", semantics, given)
        yield "llmu", semantics, float(found.gradients["retain"].abs().max())


def llmu_original_is_entropy():
    """At the teacher the original LLMU's retain term is the teacher's mean entropy over all rows"""
    outputs, found = at_teacher("llmu", "original", {"n_random": 2})
    logp = outputs["retain"].logits.log_softmax(-1)
    yield (
        "llmu",
        "original",
        abs(found.terms["retain_cross_entropy"] + float((logp.exp() * logp).sum(-1).mean()))
        / found.scale,
    )


def likelihoods():
    """Retain fine-tuning is the retain batch's token mean of nll, gradient ascent its negative on forget; IDK adds two of them"""
    for semantics in ("paper", "original", "released"):
        outputs, found = apart("retain_ft", semantics)
        wanted = {"retain": nll_gradient(outputs["retain"], token_weights(outputs["retain"]))}
        yield "retain_ft", semantics, off(found, wanted)
        outputs, found = apart("grad_ascent", semantics)
        yield (
            "grad_ascent",
            semantics,
            off(
                found,
                {"forget": nll_gradient(outputs["forget"], token_weights(outputs["forget"], -1.0))},
            ),
        )
    for semantics in ("paper", "released", "released@2024-12-10", "released@2024-10-23"):
        outputs, found = apart("idk", semantics)
        yield (
            "idk",
            semantics,
            off(
                found,
                {name: nll_gradient(one, token_weights(one)) for name, one in outputs.items()},
            ),
        )


def idk_original_is_one_mean():
    """The original IDK is one token mean over both batches: each weighs as many tokens as it has"""
    outputs, found = apart("idk", "original")
    n = sum(float(lengths(one).sum()) for one in outputs.values())
    wanted = {
        name: nll_gradient(one, torch.full_like(lengths(one), 1 / n))
        for name, one in outputs.items()
    }
    value = sum(float(sums(one).sum()) for one in outputs.values()) / n
    yield "idk", "original", larger(off(found, wanted), abs(found.loss - value))


def grad_diff_is_its_parts():
    """Gradient difference is gradient ascent plus lambda times retain fine-tuning"""
    for semantics, given, factor in (
        ("paper", {"lambda_retain": 0.7}, 0.7),
        ("original", {}, 1.0),
        ("released", {}, 1.0),
    ):
        outputs, found = apart("grad_diff", semantics, given)
        ascent = random_trials.loss("grad_ascent", "paper", {}, {"forget": outputs["forget"]})
        tuning = random_trials.loss("retain_ft", "paper", {}, {"retain": outputs["retain"]})
        yield (
            "grad_diff",
            semantics,
            larger(
                abs(found.loss - ascent.loss - factor * tuning.loss) / found.scale,
                off(
                    found,
                    {
                        "forget": ascent.gradients["forget"],
                        "retain": factor * tuning.gradients["retain"],
                    },
                ),
            ),
        )


def grad_diff_is_kl():
    """Gradient difference with retain=kl is KL minimisation"""
    for semantics in ("released", "original"):
        outputs, found = apart("kl", semantics)
        yield (
            "grad_diff",
            semantics,
            difference(
                found, random_trials.loss("grad_diff", semantics, {"retain": "kl"}, outputs)
            ),
        )


def entropy_bug():
    """The released forget=entropy adds the entropy of all rows, undivided, so descent sharpens: gradient -p (log p + H)"""
    outputs, found = apart("grad_diff", "released", {"forget": "entropy"})
    logp = outputs["forget"].logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1, keepdim=True)
    yield (
        "grad_diff",
        "released",
        larger(
            abs(found.terms["forget_entropy"] - float(entropy.sum())),
            float((found.gradients["forget"] + logp.exp() * (logp + entropy)).abs().max()),
        )
        / found.scale,
    )
    outputs, found = apart("grad_diff", "paper", {"forget": "entropy"})
    rows = select_rows(outputs["forget"].labels, outputs["forget"].attention_mask, "answer")
    logp = outputs["forget"].logits[rows.sequence, rows.position].log_softmax(-1)
    yield (
        "grad_diff",
        "paper",
        abs(found.terms["forget_entropy"] - float((logp.exp() * logp).sum(-1).mean()))
        / found.scale,
    )


def fisher():
    """Near the teacher both KL are half the variance of the step under p: step^2 / 2 (E d^2 - (E d)^2), to third order"""
    for method, semantics, term, row_set in (
        ("kl", "paper", "retain_kl", "sequence"),
        ("kl", "released", "retain_kl", "all"),
        ("kl", "original", "retain_kl", "all"),
        ("scrub", "released", "retain_kl", "all"),
    ):
        outputs = random_trials.batches(method, semantics, {}, same=True)
        one, step = outputs["retain"], 1e-4
        d = 3 * random_trials.direction("fisher", one.logits.shape)
        found = random_trials.loss(
            method, semantics, {}, outputs | {"retain": replace(one, logits=one.logits + step * d)}
        )
        p = one.logits.softmax(-1)
        variance = (p * d**2).sum(-1) - (p * d).sum(-1) ** 2
        if row_set == "sequence":
            rows, own = (
                select_rows(one.labels, one.attention_mask, "answer"),
                torch.zeros(len(one.labels), dtype=torch.float64),
            )
            own.index_add_(0, rows.sequence, variance[rows.sequence, rows.position])
            variance = own / lengths(one)
        yield (
            method,
            semantics,
            abs(found.terms[term] / step**2 - float(variance.mean()) / 2),
            1e-3,
            "third order: step |d|^3, and 10 roundings of 1 / step^2",
        )


def temperature():
    """The original SCRUB at temperature T is T^2 times the KL of logits T times smaller; it tends to half the variance, over the
    vocabulary, of the difference of the two logits"""
    given = {"alpha": 1.0, "gamma": 0.0}
    outputs = random_trials.batches("scrub", "original", given)

    def at(T, scale):
        scaled = {
            name: replace(one, logits=scale * one.logits, teacher_logits=scale * one.teacher_logits)
            for name, one in outputs.items()
        }
        return random_trials.loss("scrub", "original", given | {"temperature": T}, scaled)

    hot, plain = at(4.0, 4.0), at(1.0, 1.0)
    yield "scrub", "original", abs(hot.loss - 16 * plain.loss) / hot.scale
    one = outputs["retain"]
    rows = select_rows(one.labels, one.attention_mask, "answer")
    gap = (one.logits - one.teacher_logits)[rows.sequence, rows.position]
    limit = float(gap.var(-1, unbiased=False).mean()) / 2
    yield (
        "scrub",
        "original",
        abs(at(1e4, 1.0).terms["retain_kl"] - limit),
        1e-2,
        "next order in 1 / T: |z|^3 / T",
    )


def dated_formulas():
    """A dated meaning of IDK, LLMU and DPO differs from the head in what its idk batch holds, not in its formula"""
    for method in ("idk", "llmu", "dpo"):
        outputs, found = apart(method, "released")
        for semantics in ("released@2024-12-10", "released@2024-10-23"):
            yield (
                method,
                semantics,
                difference(found, random_trials.loss(method, semantics, {}, outputs)),
                0.0,
                "the same function",
            )


CLAIMS = (
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
    llmu_original_is_entropy,
    dated_formulas,
    *claims_sequence.CLAIMS,
    *claims_weights.CLAIMS,
)
