"""What holds at the start of unlearning, where the student is equal to the teacher.

Also the row weights of the sequence methods away from it. The gradients are with respect to raw
logits, in float64; the expected ones are in tests/helpers/at_the_teacher.py.
Run: python -m pytest tests/methods/test_at_the_teacher.py
"""

from dataclasses import replace
from math import log

import pytest
import torch

from clear_ref.losses import IGNORE
from clear_ref.methods import method_loss
from tests.helpers.at_the_teacher import (
    LENGTHS,
    SEQUENCE,
    SUM,
    TOKEN,
    B,
    T,
    batches,
    close,
    nll_gradient,
)


def loss_and_gradients(method, given, field="logits", **options):
    leaves = {
        name: getattr(outputs, field).clone().requires_grad_() for name, outputs in given.items()
    }
    moved = {name: replace(outputs, **{field: leaves[name]}) for name, outputs in given.items()}
    loss = method_loss(method, moved, **options)
    loss.value.backward()
    return loss, {name: leaf.grad for name, leaf in leaves.items()}


def sequence_sums(outputs, which="logits"):
    """[B] sum of nll over the answer, by log_softmax and a loop."""
    logp = getattr(outputs, which).log_softmax(-1)
    labels = outputs.labels
    return torch.stack(
        [
            sum(-logp[s, t, labels[s, t + 1]] for t in range(T - 1) if labels[s, t + 1] != IGNORE)
            for s in range(B)
        ]
    )


def test_kl_starts_as_gradient_ascent():
    given = batches("kl")
    loss, gradients = loss_and_gradients("kl", given)
    _, ascent = loss_and_gradients("grad_ascent", {"forget": given["forget"]})
    assert loss.terms["retain_kl"] == 0
    assert torch.equal(gradients["forget"], ascent["forget"]) and close(gradients["retain"], 0)
    assert close(gradients["forget"], nll_gradient(given["forget"], -TOKEN))


def test_scrub_starts_as_retain_fine_tuning():
    given = batches("scrub")
    loss, gradients = loss_and_gradients("scrub", given, gamma=3)
    _, tuning = loss_and_gradients("retain_ft", {"retain": given["retain"]})
    assert loss.terms["retain_kl"] == 0 and loss.terms["forget_kl"] == 0
    assert close(gradients["retain"], 3 * tuning["retain"]) and close(gradients["forget"], 0)
    assert close(tuning["retain"], nll_gradient(given["retain"], TOKEN))


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_npo_starts_at_two_over_beta_log_two_as_ascent_on_the_mean_sequence_sum(beta):
    given = batches("npo")
    loss, gradients = loss_and_gradients("npo", given, beta=beta)
    assert loss.value.item() == pytest.approx(2 / beta * log(2), abs=1e-14)
    assert close(gradients["forget"], nll_gradient(given["forget"], -SUM))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_term_starts_at_log_two_with_weights_half_beta_over_the_number_of_pairs(beta):
    given = batches("dpo")
    loss, gradients = loss_and_gradients("dpo", given, beta=beta, lambda_idk=0)
    assert loss.terms["dpo"].item() == pytest.approx(log(2), abs=1e-14)
    assert close(gradients["forget"], nll_gradient(given["forget"], -beta / 2 * SUM))
    assert close(gradients["idk"], nll_gradient(given["idk"], beta / 2 * SUM))


def test_dpo_adds_the_likelihood_of_refusals():
    given = batches("dpo")
    _, gradients = loss_and_gradients("dpo", given)
    assert close(gradients["idk"], nll_gradient(given["idk"], TOKEN + 0.05 * SUM))


@pytest.mark.parametrize("kl", ["student_teacher", "teacher_student"])
def test_llmu_starts_with_its_two_likelihood_terms_alone(kl):
    given = batches("llmu")
    loss, gradients = loss_and_gradients("llmu", given, kl=kl)
    assert loss.terms["retain_kl"] == 0 and close(gradients["retain"], 0)
    assert close(gradients["forget"], nll_gradient(given["forget"], -TOKEN))
    assert close(gradients["idk"], nll_gradient(given["idk"], SEQUENCE))


def test_rmu_starts_without_a_retain_term():
    given = batches("rmu")
    loss, gradients = loss_and_gradients("rmu", given, field="hidden", alpha=7)
    assert (
        loss.terms["retain_distance"] == 0
        and (gradients["retain"] == 0).all()
        and (gradients["forget"] != 0).any()
    )


def test_sku_starts_as_training_on_right_and_wrong_answers():
    given = batches("sku")
    loss, gradients = loss_and_gradients("sku", given)
    assert loss.terms["retain_kl"] == 0 and close(gradients["retain"], 0)
    assert close(gradients["forget"], nll_gradient(given["forget"], 2.5 * TOKEN))
    for k in (1, 2, 3):
        assert close(gradients[f"random{k}"], nll_gradient(given[f"random{k}"], TOKEN / 3))


def test_away_from_the_teacher_npo_weighs_a_sequence_by_how_much_is_still_known():
    """The weight of sequence s is -(2/B) sigmoid(-beta u_s), u = nll - teacher's nll.

    It is d/d nll_s of (2/beta) mean softplus(-beta u).
    """
    given = batches("npo", same=False)
    _, gradients = loss_and_gradients("npo", given, beta=0.5)
    u = sequence_sums(given["forget"]) - sequence_sums(given["forget"], "teacher_logits")
    assert close(
        gradients["forget"], nll_gradient(given["forget"], -2 / B * torch.sigmoid(-0.5 * u))
    )


def test_away_from_the_teacher_dpo_weighs_a_pair_by_how_wrong_its_preference_is():
    """w_s = (beta/B) sigmoid(-beta h_s): + on the refusal's nll, - on the true answer's."""
    given = batches("dpo", same=False)
    _, gradients = loss_and_gradients("dpo", given, beta=0.5, lambda_idk=0)
    h_idk, h_forget = (
        sequence_sums(given[name], "teacher_logits") - sequence_sums(given[name])
        for name in ("idk", "forget")
    )
    w = 0.5 / B * torch.sigmoid(-0.5 * (h_idk - h_forget))
    assert close(gradients["idk"], nll_gradient(given["idk"], w))
    assert close(gradients["forget"], nll_gradient(given["forget"], -w))


def test_away_from_the_teacher_kl_rows_weigh_one_over_sequences_and_length():
    """The row gradient of kl is p (log p - log q - KL), that of scrub is p - q.

    kl has KL(student || teacher), scrub KL(teacher || student).
    """
    given = batches("scrub", same=False)
    logp, logq = (
        given["retain"].logits.log_softmax(-1),
        given["retain"].teacher_logits.log_softmax(-1),
    )
    gap = logp - logq
    rows = {
        "kl": logp.exp() * (gap - (logp.exp() * gap).sum(-1, keepdim=True)),
        "scrub": logp.exp() - logq.exp(),
    }
    weights = torch.zeros(B, T, 1, dtype=torch.float64)
    for s, n in enumerate(LENGTHS):
        weights[s, 1 : 1 + n] = SEQUENCE[s]
    for method, options in (("kl", {}), ("scrub", {"gamma": 0})):
        _, gradients = loss_and_gradients(method, given, **options)
        assert close(gradients["retain"], weights * rows[method]), method
