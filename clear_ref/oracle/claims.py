"""Closed forms, worked out on paper: what each method is where the student is the teacher, at the ends of its options, and where
it is another method in disguise. p and q are softmax of the student's and teacher's logits, z the student's, e the label's one-hot.

A claim is a generator of (method, meaning, error); its docstring is the claim as the table prints it. Errors are relative to the
terms' size; an own bound comes fourth and fifth, with its reason.
"""

from dataclasses import replace
from math import log

import torch

from .. import methods
from ..losses.hidden import control_vectors
from ..losses.rows import select_rows
from ..methods import sku
from . import trial
from .laws import ROUNDING, WHY, difference, larger

EPS = 1e-8  # the released NPO's


def measure() -> list[tuple]:
    """Rows (claim, method, meaning, n, error, bound, reason), the measurements of a claim by method and meaning."""
    rows = {}
    for claim in CLAIMS:
        for method, semantics, error, *own in claim():
            bound, why = own or (ROUNDING, WHY)
            before = rows.get((claim, method, semantics), (0, 0.0, bound))
            rows[claim, method, semantics] = (before[0] + 1, larger(before[1], error), max(bound, before[2]), why)
    return [(" ".join(claim.__doc__.split()), method, semantics, *found) for (claim, method, semantics), found in rows.items()]


def at_teacher(method, semantics, given=None, change=None):
    """(batches, Result) with a teacher that is the student; change: batches -> batches, before the loss."""
    given = given or {}
    outputs = trial.batches(method, semantics, given, trial.shape_for(method, semantics), same=True)
    outputs = outputs if change is None else change(outputs)
    return outputs, trial.loss(method, semantics, given, outputs)


def apart(method, semantics, given=None, change=None):
    """(batches, Result) with a teacher of its own."""
    given = given or {}
    outputs = trial.batches(method, semantics, given, trial.shape_for(method, semantics))
    outputs = outputs if change is None else change(outputs)
    return outputs, trial.loss(method, semantics, given, outputs)


def nll_gradient(one, weights):
    """[B, T, V]: weights[s] (p - e) at the answer rows of sequence s."""
    rows = select_rows(one.labels, one.attention_mask, "answer")
    gradient = torch.zeros_like(one.logits)
    part = one.logits[rows.sequence, rows.position].softmax(-1)
    part[torch.arange(len(part)), rows.labels] -= 1
    gradient[rows.sequence, rows.position] = weights[rows.sequence, None] * part
    return gradient


def lengths(one):
    """[B] answer tokens of each sequence."""
    return torch.bincount(select_rows(one.labels, one.attention_mask, "answer").sequence, minlength=len(one.labels)).double()


def token_weights(one, factor=1.0):
    """[B]: the weights of a token mean."""
    return torch.full((len(one.labels),), factor / float(lengths(one).sum()), dtype=torch.float64)


def sum_weights(one, factor=1.0):
    """[B]: those of a mean over sequences of sums."""
    return torch.full((len(one.labels),), factor / len(one.labels), dtype=torch.float64)


def sums(one, teacher=False):
    """[B]: nll of each whole answer."""
    rows = select_rows(one.labels, one.attention_mask, "answer")
    logits = (one.teacher_logits if teacher else one.logits)[rows.sequence, rows.position]
    nll = logits.logsumexp(-1) - logits.gather(1, rows.labels[:, None])[:, 0]
    return torch.zeros(len(one.labels), dtype=torch.float64).index_add_(0, rows.sequence, nll)


def off(found, wanted) -> float:
    """The largest difference of two gradients by batch."""
    return larger(*(float((found.gradients[name] - wanted.get(name, torch.zeros(()))).abs().max()) for name in found.gradients))


def kl_is_ascent():
    """At the teacher KL minimisation is gradient ascent: its KL is 0 without a gradient"""
    for semantics in ("paper", "original", "released"):
        outputs, found = at_teacher("kl", semantics)
        yield "kl", semantics, larger(abs(found.terms["retain_kl"]), off(found, {
            "forget": nll_gradient(outputs["forget"], token_weights(outputs["forget"], -1.0))}))


def scrub_is_retain_ft():
    """At the teacher SCRUB is gamma times retain fine-tuning: both KL are 0 without a gradient"""
    for semantics, gamma in (("paper", 3.0), ("original", 3.0), ("released", 1.0)):
        outputs, found = at_teacher("scrub", semantics, {} if semantics == "released" else {"gamma": gamma})
        yield "scrub", semantics, larger(abs(found.terms["retain_kl"]), abs(found.terms["forget_kl"]), off(found, {
            "retain": nll_gradient(outputs["retain"], token_weights(outputs["retain"], gamma))})) / gamma


def npo_starts_at_log_two():
    """At the teacher NPO is (2 / beta) log 2, with the gradient of ascent on the mean sequence sum"""
    for semantics in ("paper", "original"):
        for beta in (0.1, 1.0, 5.0):
            outputs, found = at_teacher("npo", semantics, {"beta": beta})
            yield "npo", semantics, larger(abs(found.loss - 2 / beta * log(2)) / found.scale, off(found, {
                "forget": nll_gradient(outputs["forget"], sum_weights(outputs["forget"], -1.0))}))


def npo_fades():
    """Anywhere NPO weighs a sequence by -(2 / B) sigmoid(-beta u), u = nll - teacher's nll"""
    for semantics in ("paper", "original"):
        outputs, found = apart("npo", semantics, {"beta": 0.5})
        one = outputs["forget"]
        fading = torch.sigmoid(-0.5 * (sums(one) - sums(one, True)))
        yield "npo", semantics, off(found, {"forget": nll_gradient(one, sum_weights(one, -2.0) * fading)})


def npo_becomes_ascent():
    """As beta goes to 0, NPO less (2 / beta) log 2 becomes ascent on u = nll - teacher's nll"""
    for semantics in ("paper", "original"):
        for beta in (1e-2, 1e-4):
            outputs, found = apart("npo", semantics, {"beta": beta})
            one = outputs["forget"]
            u = sums(one) - sums(one, True)
            yield ("npo", semantics, abs(found.loss - 2 / beta * log(2) + float(u.mean())), float((u ** 2).mean()) * 1e-2 / 4,
                   "Taylor: beta mean u^2 / 4, at the larger beta")


def npo_becomes_hinge():
    """As beta goes to infinity, NPO becomes twice the mean of max(0, -u)"""
    for semantics in ("paper", "original"):
        outputs, found = apart("npo", semantics, {"beta": 1e3})
        u = sums(outputs["forget"]) - sums(outputs["forget"], True)
        yield "npo", semantics, abs(found.loss - 2 * float((-u).clamp(min=0).mean())), 2e-3 * log(2), "softplus: 2 log 2 / beta"


def npo_released_sharpens():
    """At the teacher the released NPO's gradient is (1 / V - p) / rows: away from uniform, whatever the label"""
    outputs, found = at_teacher("npo", "released")
    z = outputs["forget"].logits
    p, rows = z.softmax(-1), z.shape[0] * z.shape[1]
    bound = 2 * EPS / float(p.min())
    yield ("npo", "released", larger(abs(found.loss - 2 * log(2)), rows * off(found, {"forget": (1 / z.shape[2] - p) / rows})),
           bound, "the 1e-8 beside q: 2e-8 / the smallest q")
    outputs, found = at_teacher("npo", "released@2024-12-10")
    z = outputs["forget"].logits
    wanted = 2 / z.shape[2] * (1 - z.shape[2] * z.softmax(-1)) / (z.shape[0] * z.shape[1])
    yield "npo", "released@2024-12-10", larger(abs(found.loss), off(found, {"forget": wanted}))


def dpo_starts_at_log_two():
    """At the teacher the DPO term is log 2, with weight beta / (2 B) on the refusal's nll and its negative on the answer's"""
    for semantics in ("paper", "original"):
        for beta in (0.1, 1.0):
            given = {"beta": beta} | ({"lambda_idk": 0.0} if semantics == "paper" else {})
            outputs, found = at_teacher("dpo", semantics, given)
            wanted = {name: nll_gradient(outputs[name], sum_weights(outputs[name], sign * beta / 2))
                      for name, sign in (("idk", 1), ("forget", -1))}
            yield "dpo", semantics, larger(abs(found.terms["dpo"] - log(2)), off(found, wanted))


def dpo_weights():
    """Anywhere DPO weighs a pair by (beta / B) sigmoid(-beta h), + on the refusal's nll, - on the answer's"""
    for semantics in ("paper", "original"):
        outputs, found = apart("dpo", semantics, {"beta": 0.3} | ({"lambda_idk": 0.0} if semantics == "paper" else {}))
        h_idk, h_forget = (sums(outputs[name], True) - sums(outputs[name]) for name in ("idk", "forget"))
        w = 0.3 / len(h_idk) * torch.sigmoid(-0.3 * (h_idk - h_forget))
        yield "dpo", semantics, off(found, {"idk": nll_gradient(outputs["idk"], w), "forget": nll_gradient(outputs["forget"], -w)})


def dpo_swapped():
    """DPO with its two answers exchanged differs by beta times the mean log-ratio: softplus(x) - softplus(-x) = x"""
    for semantics in ("paper", "original"):
        given = {"beta": 0.3} | ({"lambda_idk": 0.0} if semantics == "paper" else {})
        outputs, found = apart("dpo", semantics, given)
        h_idk, h_forget = (sums(outputs[name], True) - sums(outputs[name]) for name in ("idk", "forget"))
        other = trial.loss("dpo", semantics, given, {"forget": outputs["idk"], "idk": outputs["forget"]})
        yield "dpo", semantics, abs(other.loss - found.loss - 0.3 * float((h_idk - h_forget).mean()))


def dpo_released_memorises():
    """The released DPO is the mean summed nll of its idk batch: no reference, no forget batch, no beta"""
    for semantics in ("released", "released@2024-12-10", "released@2024-10-23"):
        outputs, found = apart("dpo", semantics)
        one = outputs["idk"]
        yield "dpo", semantics, larger(abs(found.loss - float(sums(one).mean())) / found.scale, off(
            found, {"idk": nll_gradient(one, sum_weights(one))}))


def llmu_cancels():
    """Where the idk batch is the forget batch, as on the released code's texts, LLMU's nll terms cancel: at the teacher 0 is left"""
    _, found = at_teacher("llmu", "released", {}, lambda outputs: outputs | {"idk": outputs["forget"]})
    both = found.gradients["forget"] + found.gradients["idk"]  # one model sees the same batch twice
    yield "llmu", "released", larger(abs(found.loss), float(both.abs().max()), float(found.gradients["retain"].abs().max()))


def llmu_starts_with_its_nll():
    """At the teacher LLMU's retain term has no gradient, in either direction of the KL and as a cross-entropy"""
    for semantics, given in (("paper", {}), ("paper", {"kl": "teacher_student"}), ("released", {}), ("released@2024-12-10", {}),
                             ("released@2024-10-23", {}), ("original", {"n_random": 2})):
        _, found = at_teacher("llmu", semantics, given)
        yield "llmu", semantics, float(found.gradients["retain"].abs().max())


def llmu_original_is_entropy():
    """At the teacher the original LLMU's retain term is the teacher's mean entropy over all rows"""
    outputs, found = at_teacher("llmu", "original", {"n_random": 2})
    logp = outputs["retain"].logits.log_softmax(-1)
    yield "llmu", "original", abs(found.terms["retain_cross_entropy"] + float((logp.exp() * logp).sum(-1).mean())) / found.scale


def sku_trains_on_everything():
    """At the teacher SKU is fine-tuning on right and on random answers; its KL is 0 without a gradient"""
    for semantics, per_sequence, divisor in (("paper", False, 2), ("released", False, 1), ("original", True, 2)):
        outputs, found = at_teacher("sku", semantics, {"n_random": 2, "w_forget": 2.5, "w_random": 1.5})
        weigh = (lambda one, factor: factor / (len(one.labels) * lengths(one))) if per_sequence else token_weights
        wanted = {"forget": nll_gradient(outputs["forget"], weigh(outputs["forget"], 2.5)),
                  **{name: nll_gradient(outputs[name], weigh(outputs[name], 1.5 / divisor)) for name in ("random1", "random2")}}
        yield "sku", semantics, larger(abs(found.terms["retain_kl"]), off(found, wanted)) / found.scale


def sku_steps_back():
    """SKU's second stage is 2 theta_0 - theta_1: done twice it gives theta_1 again, and no training leaves theta_0"""
    before, after = ({"w": trial.direction(key, (5, 3))} for key in ("theta_0", "theta_1"))
    there = sku.negate_delta(before, after)
    back = sku.negate_delta(before, there)
    error = larger(float((there["w"] + after["w"] - 2 * before["w"]).abs().max()), float((back["w"] - after["w"]).abs().max()),
                   float((sku.negate_delta(before, before)["w"] - before["w"]).abs().max()))
    for semantics in ("paper", "original"):
        yield "sku", semantics, error + 0 * len(methods.finish("sku", semantics))


def rmu_starts_on_forget_alone():
    """At the teacher RMU's retain term is 0 without a gradient"""
    for semantics in ("paper", "original", "released", "released@2024-12-10"):
        _, found = at_teacher("rmu", semantics)
        yield "rmu", semantics, larger(abs(found.terms["retain_distance"]), float(found.gradients["retain"].abs().max()))


def rmu_arrives():
    """RMU's forget term is 0 without a gradient where every state is its target, and c^2 |u|^2 (over D where squares are averaged)
    where every state is 0"""
    for semantics in ("paper", "original"):
        outputs = trial.batches("rmu", semantics, {"c": 7.0}, same=True)
        h = outputs["forget"].hidden
        target = 7.0 * control_vectors(0, 1, h.shape[2])[0].expand_as(h)
        there, zero = (trial.loss("rmu", semantics, {"c": 7.0}, outputs | {"forget": replace(outputs["forget"], hidden=tensor)})
                       for tensor in (target, torch.zeros_like(h)))
        wanted = 49.0 if semantics == "paper" else 49.0 / h.shape[2]
        yield "rmu", semantics, larger(abs(there.loss), off(there, {}), abs(zero.loss - wanted) / wanted)


def rmu_released_pulls_means():
    """The released RMU pulls each sequence's mean state to the mean of all vectors: 2 / (B D T) (mean h - mean v) at every position"""
    outputs, found = at_teacher("rmu", "released", {"c": 7.0})
    h = outputs["forget"].hidden
    v = 7.0 * control_vectors(0, len(h), h.shape[2])
    pull = 2 / h.numel() * (h.mean(1) - v.mean(0))
    yield "rmu", "released", off(found, {"forget": pull[:, None].expand_as(h)})


def likelihoods():
    """Retain fine-tuning is the retain batch's token mean of nll, gradient ascent its negative on forget; IDK adds two of them"""
    for semantics in ("paper", "original", "released"):
        outputs, found = apart("retain_ft", semantics)
        wanted = {"retain": nll_gradient(outputs["retain"], token_weights(outputs["retain"]))}
        yield "retain_ft", semantics, off(found, wanted)
        outputs, found = apart("grad_ascent", semantics)
        yield "grad_ascent", semantics, off(found, {"forget": nll_gradient(
            outputs["forget"], token_weights(outputs["forget"], -1.0))})
    for semantics in ("paper", "released", "released@2024-12-10", "released@2024-10-23"):
        outputs, found = apart("idk", semantics)
        yield "idk", semantics, off(found, {name: nll_gradient(one, token_weights(one)) for name, one in outputs.items()})


def idk_original_is_one_mean():
    """The original IDK is one token mean over both batches: each weighs as many tokens as it has"""
    outputs, found = apart("idk", "original")
    n = sum(float(lengths(one).sum()) for one in outputs.values())
    wanted = {name: nll_gradient(one, torch.full((len(one.labels),), 1 / n, dtype=torch.float64)) for name, one in outputs.items()}
    yield "idk", "original", larger(off(found, wanted), abs(found.loss - sum(float(sums(one).sum()) for one in outputs.values()) / n))


def grad_diff_is_its_parts():
    """Gradient difference is gradient ascent plus lambda times retain fine-tuning"""
    for semantics, given, factor in (("paper", {"lambda_retain": 0.7}, 0.7), ("original", {}, 1.0), ("released", {}, 1.0)):
        outputs, found = apart("grad_diff", semantics, given)
        ascent = trial.loss("grad_ascent", "paper", {}, {"forget": outputs["forget"]})
        tuning = trial.loss("retain_ft", "paper", {}, {"retain": outputs["retain"]})
        yield "grad_diff", semantics, larger(abs(found.loss - ascent.loss - factor * tuning.loss) / found.scale, off(
            found, {"forget": ascent.gradients["forget"], "retain": factor * tuning.gradients["retain"]}))


def grad_diff_is_kl():
    """Gradient difference with retain=kl is KL minimisation"""
    for semantics in ("released", "original"):
        outputs, found = apart("kl", semantics)
        yield "grad_diff", semantics, difference(found, trial.loss("grad_diff", semantics, {"retain": "kl"}, outputs))


def entropy_bug():
    """The released forget=entropy adds the entropy of all rows, undivided, so descent sharpens: gradient -p (log p + H)"""
    outputs, found = apart("grad_diff", "released", {"forget": "entropy"})
    logp = outputs["forget"].logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1, keepdim=True)
    yield "grad_diff", "released", larger(abs(found.terms["forget_entropy"] - float(entropy.sum())), float(
        (found.gradients["forget"] + logp.exp() * (logp + entropy)).abs().max())) / found.scale
    outputs, found = apart("grad_diff", "paper", {"forget": "entropy"})
    rows = select_rows(outputs["forget"].labels, outputs["forget"].attention_mask, "answer")
    logp = outputs["forget"].logits[rows.sequence, rows.position].log_softmax(-1)
    yield "grad_diff", "paper", abs(found.terms["forget_entropy"] - float((logp.exp() * logp).sum(-1).mean())) / found.scale


def fisher():
    """Near the teacher both KL are half the variance of the step under p: step^2 / 2 (E d^2 - (E d)^2), to third order"""
    for method, semantics, term, row_set in (("kl", "paper", "retain_kl", "sequence"), ("kl", "released", "retain_kl", "all"),
                                             ("kl", "original", "retain_kl", "all"), ("scrub", "released", "retain_kl", "all")):
        outputs = trial.batches(method, semantics, {}, same=True)
        one, step = outputs["retain"], 1e-4
        d = 3 * trial.direction("fisher", one.logits.shape)
        found = trial.loss(method, semantics, {}, outputs | {"retain": replace(one, logits=one.logits + step * d)})
        p = one.logits.softmax(-1)
        variance = (p * d ** 2).sum(-1) - (p * d).sum(-1) ** 2
        if row_set == "sequence":
            rows, own = select_rows(one.labels, one.attention_mask, "answer"), torch.zeros(len(one.labels), dtype=torch.float64)
            own.index_add_(0, rows.sequence, variance[rows.sequence, rows.position])
            variance = own / lengths(one)
        yield (method, semantics, abs(found.terms[term] / step ** 2 - float(variance.mean()) / 2), 1e-3,
               "third order: step |d|^3, and 10 roundings of 1 / step^2")


def temperature():
    """The original SCRUB at temperature T is T^2 times the KL of logits T times smaller, and tends to the variance of z - t over the
    vocabulary, halved"""
    given = {"alpha": 1.0, "gamma": 0.0}
    outputs = trial.batches("scrub", "original", given)
    at = lambda T, scale: trial.loss("scrub", "original", given | {"temperature": T}, {  # noqa: E731
        name: replace(one, logits=scale * one.logits, teacher_logits=scale * one.teacher_logits) for name, one in outputs.items()})
    hot, plain = at(4.0, 4.0), at(1.0, 1.0)
    yield "scrub", "original", abs(hot.loss - 16 * plain.loss) / hot.scale
    one = outputs["retain"]
    rows = select_rows(one.labels, one.attention_mask, "answer")
    gap = (one.logits - one.teacher_logits)[rows.sequence, rows.position]
    limit = float(gap.var(-1, unbiased=False).mean()) / 2
    yield "scrub", "original", abs(at(1e4, 1.0).terms["retain_kl"] - limit), 1e-2, "next order in 1 / T: |z|^3 / T"


def dated_formulas():
    """A dated meaning of IDK, LLMU and DPO differs from the head in what its idk batch holds, not in its formula"""
    for method in ("idk", "llmu", "dpo"):
        outputs, found = apart(method, "released")
        for semantics in ("released@2024-12-10", "released@2024-10-23"):
            yield method, semantics, difference(found, trial.loss(method, semantics, {}, outputs)), 0.0, "the same function"


CLAIMS = (kl_is_ascent, scrub_is_retain_ft, npo_starts_at_log_two, npo_fades, npo_becomes_ascent, npo_becomes_hinge,
          npo_released_sharpens, dpo_starts_at_log_two, dpo_weights, dpo_swapped, dpo_released_memorises, llmu_cancels,
          llmu_starts_with_its_nll, llmu_original_is_entropy, sku_trains_on_everything, sku_steps_back, rmu_starts_on_forget_alone,
          rmu_arrives, rmu_released_pulls_means, likelihoods, idk_original_is_one_mean, grad_diff_is_its_parts, grad_diff_is_kl,
          entropy_bug, fisher, temperature, dated_formulas)
