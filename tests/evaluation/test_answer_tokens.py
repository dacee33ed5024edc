"""What is read from the tokens of an answer equals plain float64 softmaxes and gradients, and the
membership and memorisation scores made of it are those by hand.

Run: python -m pytest tests/evaluation/test_answer_tokens.py.
"""

import math
import random
import zlib
from pathlib import Path

import pytest
import torch

from clear_ref import Record
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation.answer_tokens import AnswerTokens, answer_tokens, gradient_norm
from clear_ref.evaluation.distances import true_positive_rate
from clear_ref.evaluation.likelihood import answer_nll
from clear_ref.evaluation.membership import definition, membership
from clear_ref.evaluation.membership_scores import (
    evaluation_record,
    exact_memorization,
    extraction_strength,
    mia_min_k_plus_plus,
    mia_zlib,
    record_scores,
    with_reference,
)
from clear_ref.mini.directories import WORLD

OWN = read_phrases(WORLD)


@pytest.fixture
def records():
    """A caption of a picture, and a question about text."""
    return [evaluation_record(read_rows(WORLD, "forget10")[3], OWN), Record("Who?", "Nobody.")]


def logits_of(vlm, record):
    """(logits [n, V] of the answer's tokens, their ids) by one plain forward."""
    batch = vlm.encode([record])
    ids = torch.tensor(vlm.tokenizer.answer(vlm.template, record.answer)[1])
    logits = vlm.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)[0]
    return logits[-len(ids) - 1 : -1], ids


def test_the_columns_of_an_answer_are_those_of_plain_softmaxes(tiny, records):
    for record in records:
        logits, ids = logits_of(tiny, record)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        found = answer_tokens(tiny, record)
        rows = range(len(ids))
        assert found.nll == pytest.approx([-float(log_p[i, ids[i]]) for i in rows], rel=1e-11)
        assert found.nll == answer_nll(tiny, record)
        assert found.is_most_likely == [int(logits[i].argmax()) == int(ids[i]) for i in rows]
        mean = (p * log_p).sum(-1)
        assert found.mean_log_p == pytest.approx(mean.tolist(), rel=1e-11)
        variance = (p * (log_p - mean[:, None]) ** 2).sum(-1)
        assert found.variance == pytest.approx(variance.tolist(), rel=1e-6)


def test_the_gradients_norm_is_autograds_and_the_model_is_left_as_it_was(tiny, records):
    """The gradient of F.cross_entropy for all tensors at once; the mean of their L2 norms."""
    before = {name: each.clone() for name, each in tiny.model.state_dict().items()}
    counts = []
    for record in records:
        found = gradient_norm(tiny, record)
        parameters = list(tiny.model.parameters())
        assert all(each.grad is None and not each.requires_grad for each in parameters)
        with torch.enable_grad():
            for each in parameters:
                each.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(*logits_of(tiny, record))
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for each in parameters:
            each.requires_grad_(False)
        norms = [float(each.norm()) for each in gradients if each is not None]
        assert found == pytest.approx(sum(norms) / len(norms), rel=1e-6)
        counts.append(len(norms))
    assert counts[1] < counts[0] < len(gradients)  # a picture's tower; its last layer is not read
    after = tiny.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_block_that_fails_leaves_no_hook_and_no_gradient(tiny):
    with pytest.raises(UserError):
        gradient_norm(tiny, Record("Who?", "Nobody.", Path("missing.jpg")))
    assert all(not each.requires_grad for each in tiny.model.parameters())
    assert not any(each._post_accumulate_grad_hooks for each in tiny.model.parameters())


# ---- scores by hand


def test_min_k_plus_plus_by_hand():
    """log p = -2, -1, -8 with means -1, -1, -3 and deviations 2, 1, 1: z = -1/2, 0, -5. The
    lowest third is -5, both lowest (-5 - 1/2) / 2. A variance of 0 counts as 1e-6: 1000 z."""
    tokens = AnswerTokens([2.0, 1.0, 8.0], [False] * 3, [-1.0, -1.0, -3.0], [4.0, 1.0, 1.0])
    assert mia_min_k_plus_plus(tokens, 0.34) == 5.0
    assert mia_min_k_plus_plus(tokens, 0.67) == 2.75
    sure = AnswerTokens([2.0], [False], [-1.0], [0.0])
    assert mia_min_k_plus_plus(sure, 0.2) == pytest.approx(1000.0, rel=1e-12)


def test_zlib_divides_by_the_bytes_of_the_compressed_answer():
    for answer in ("Oslo", "é" * 50):
        n = len(zlib.compress(answer.encode()))
        assert mia_zlib([1.0, 2.0], answer) == 1.5 / n
    assert mia_zlib([1.0], "ab" * 200) > mia_zlib([1.0], "".join(map(chr, range(33, 433))))


def test_memorisation_by_hand():
    """T T F T T T: five of six; the last three of six follow from the first three. A wrong last
    token: 0; all right: 1."""
    row = [True, True, False, True, True, True]
    assert exact_memorization(row) == 5 / 6 and extraction_strength(row) == 3 / 6
    assert extraction_strength([True, False]) == 0.0 and exact_memorization([True, False]) == 0.5
    assert extraction_strength([True] * 4) == exact_memorization([True] * 4) == 1.0


def test_extraction_strength_is_what_greedy_decoding_gives(tiny, records):
    """Fed k true tokens, greedy decoding writes the rest of the answer exactly for k = n (1 - ES)
    and more, not for fewer. The answer is what the model itself writes, with one token changed."""
    record = records[1]
    ids = tiny.tokenizer.answer(tiny.template, record.answer)[1]
    batch = tiny.encode([Record(record.question)])
    prompt = batch.input_ids[0].tolist()

    def greedy(first, n):
        row = prompt + first
        for _ in range(n):
            mask = torch.ones(1, len(row), dtype=torch.long)
            row.append(int(tiny.forward(torch.tensor([row]), mask, None)[0, -1].argmax()))
        return row[len(prompt) :]

    written = greedy(ids[:2], 5)
    for place in (None, 4):
        answer = list(written)
        if place is not None:
            answer[place] = (answer[place] + 1) % 50
        rows = torch.tensor([prompt + answer])
        logits = tiny.forward(rows, torch.ones_like(rows), None)[0, len(prompt) - 1 : -1]
        right = [int(row.argmax()) == token for row, token in zip(logits, answer, strict=True)]
        n_first = round(len(answer) * (1 - extraction_strength(right)))
        for k in range(len(answer)):
            same = greedy(answer[:k], len(answer) - k) == answer
            assert same == (k >= n_first), (place, k)


def test_the_true_positive_rate_is_the_best_of_all_thresholds():
    """Every threshold tried one by one, with ties; by hand: low 1 2 3 4, high 2.5 5: no false
    positive below 2.5: 2 of 4; one of two allowed: 4 of 4."""
    assert true_positive_rate([1, 2, 3, 4], [2.5, 5], 0.01) == 0.5
    assert true_positive_rate([1, 2, 3, 4], [2.5, 5], 0.5) == 1.0
    assert true_positive_rate([1.0], [1.0], 0.01) == 0.0 and true_positive_rate([1], [1], 1) == 1
    rng = random.Random(0)
    for _ in range(200):
        low = [rng.randint(0, 9) for _ in range(rng.randint(1, 12))]
        high = [rng.randint(0, 9) for _ in range(rng.randint(1, 30))]
        for most in (0.001, 0.01, 0.1, 0.2, 0.5):
            best = 0.0
            for t in (-1, *low, *high):
                false = sum(value <= t for value in high) / len(high)
                if false <= most:
                    best = max(best, sum(value <= t for value in low) / len(low))
            assert true_positive_rate(low, high, most) == best, (low, high, most)


def test_membership_gives_auc_and_both_rates_with_low_scores_as_members():
    """Forget 1, 3 and held out 2, 4: AUC 3/4; below 2 is one forget record of two."""
    entry = {"forget": {"0": 1.0, "1": 3.0}, "holdout": {"0": 2.0, "1": 4.0}}
    memorised = {"forget": {"0": 0.25, "1": 0.75}, "holdout": {"0": 0.0, "1": 0.0}}
    found = membership({"mia_loss": entry, "extraction_strength": memorised})
    assert found == {
        "mia_loss": 0.75,
        "mia_loss_tpr_at_1_percent": 0.5,
        "mia_loss_tpr_at_0.1_percent": 0.5,
        "extraction_strength": 0.5,
    }
    assert definition("mia_loss_tpr_at_1_percent").name == "tpr_forget_below_holdout_at_0.01"
    assert definition("mia_loss_tpr_at_0.1_percent").name == "tpr_forget_below_holdout_at_0.001"
    for name in found:
        known = definition(name)
        assert known.source and known.direction == "knows the answers" and known.words, name


def test_the_reference_attack_subtracts_golds_loss_of_the_same_record():
    def scores(*losses):
        return {"mia_loss": {"forget": dict(zip("01", losses, strict=True)), "holdout": {"0": 4.0}}}

    found = with_reference(scores(1.0, 2.0), scores(3.0, 5.0))
    assert found["mia_reference"] == {"forget": {"0": -2.0, "1": -3.0}, "holdout": {"0": 0.0}}
    assert found["mia_loss"] == scores(1.0, 2.0)["mia_loss"]


def test_a_record_has_every_score_and_the_gradients_only_when_asked(tiny, records):
    found = record_scores(tiny, records[0], 0.2, True)
    without = record_scores(tiny, records[0], 0.2, False)
    assert set(found) - set(without) == {"mia_gradnorm"} and len(found) == 7
    assert all(math.isfinite(value) for value in found.values())
