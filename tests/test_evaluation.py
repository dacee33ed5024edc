"""Evaluation: likelihoods equal the plain way, logs do not depend on how they were computed, tasks ask what they say."""

import json

import pytest
import torch
import torch.nn.functional as F

from clear_ref import Record, load
from clear_ref.data.prompts import phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation import evaluate
from clear_ref.evaluation.evaluate import run_tasks
from clear_ref.evaluation.likelihood import candidate_nll
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.world import BASE, WORLD

OWN = phrases(WORLD)


def plain_nll(vlm, prompt, answer):
    """One full forward of prompt + answer, torch's own cross-entropy in float64."""
    batch = vlm.encode([Record(prompt.question, answer, prompt.image)])
    logits = vlm.forward(batch.input_ids, batch.attention_mask, batch.pixel_values).double()
    return float(F.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100, reduction="sum"))


@pytest.mark.parametrize("number", range(8))
def test_shared_prompts_give_the_likelihoods_of_plain_forwards(number, tiny):
    """float64: the shared cache changes the order of sums only."""
    task = tasks(10, 64)[number]
    for item in items(task, WORLD, OWN, 2):
        answers = [item.answer, item.paraphrased, *item.perturbed]
        for answer, (total, n) in zip(answers, candidate_nll(tiny, item.prompt, answers), strict=True):
            assert total == pytest.approx(plain_nll(tiny, item.prompt, answer), rel=1e-12)
            assert n == len(tiny.tokenizer.answer(tiny.template, answer)[1])


def test_fp32_likelihoods_of_the_shipped_base_are_those_of_plain_forwards():
    """nll sums of up to 40 tokens of about 1e-6 each: 1e-4."""
    vlm = load(BASE)
    for task in (tasks(10, 64)[2], tasks(10, 64)[6]):
        item = items(task, WORLD, OWN, 1)[0]
        for answer, (total, _) in zip(item.perturbed, candidate_nll(vlm, item.prompt, item.perturbed), strict=True):
            assert total == pytest.approx(plain_nll(vlm, item.prompt, answer), abs=1e-4)


def test_candidates_never_change_each_other(tiny):
    """A record's candidates alone, in company or in another order: the same nll."""
    item = items(tasks(10, 64)[2], WORLD, OWN, 1)[0]
    together = candidate_nll(tiny, item.prompt, item.perturbed)
    backward = candidate_nll(tiny, item.prompt, item.perturbed[::-1])[::-1]
    for answer, one, other in zip(item.perturbed, together, backward, strict=True):
        alone = candidate_nll(tiny, item.prompt, [answer])[0]
        assert one == pytest.approx(alone, rel=1e-12) and other == pytest.approx(alone, rel=1e-12)


def test_the_same_weights_give_the_same_log_whatever_the_threads():
    vlm, chosen = load(BASE), tasks(10, 16)
    logs = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        logs.append(json.dumps(run_tasks(vlm, WORLD, OWN, chosen, 3)))
    torch.set_num_threads(2)
    assert logs[0] == logs[1] == logs[2]


def test_text_does_not_depend_on_the_group_it_is_generated_in(monkeypatch):
    """Groups of 1, 5 and 16: the shipped base says the same, and every likelihood is the same to the bit."""
    vlm, found = load(BASE), []
    for size in (1, 5, 16):
        monkeypatch.setattr(evaluate, "GROUP", size)
        found.append(run_tasks(vlm, WORLD, OWN, [tasks(10, 24)[i] for i in (1, 2, 6)], 10))
    assert found[0] == found[1] == found[2]


def test_a_limit_is_a_prefix():
    vlm, task = load(BASE), tasks(10, 16)[4]
    short, longer = (run_tasks(vlm, WORLD, OWN, [task], n)[task.name] for n in (2, 4))
    assert short["avg_gt_loss"] == {key: longer["avg_gt_loss"][key] for key in ("0", "1")}
    assert short["candidates"]["1"] == longer["candidates"]["1"]


def test_generation_sees_the_picture():
    """The shipped base, one question, pictures of two people: two names (the released evaluation drops the picture)."""
    vlm = load(BASE)
    rows = read_rows(WORLD, "forget10")
    said = [vlm.generate(vlm.encode([Record(OWN.caption_questions[0], None, row.image)]))[0] for row in (rows[0], rows[10])]
    assert rows[0].values["name"] in said[0] and rows[10].values["name"] in said[1]


def test_log_columns_agree_with_each_other(tiny):
    """avg = sum / tokens, truth ratio = exp(paraphrased - mean perturbed), counts are those of the tokenizer."""
    import math
    logs = run_tasks(tiny, WORLD, OWN, tasks(10, 8), 2)
    assert [log["task"] for log in logs.values()] == list(logs)
    for log in logs.values():
        for key, text in log["candidates"].items():
            assert log["avg_gt_loss"][key] == log["gt_loss"][key] / log["num_token_gt"][key]
            means = [total / n for total, n in zip(log["perturb_loss"][key], log["num_token_perturb"][key], strict=True)]
            assert log["average_perturb_loss"][key] == means and len(means) == len(text["perturbed"])
            expected = math.exp(log["avg_paraphrased_loss"][key] - sum(means) / len(means))
            assert log["truth_ratio"][key] == pytest.approx(expected, rel=1e-12)
            assert log["generated_text"][key][2] == text["answer"]


def test_tasks_ask_what_the_benchmark_asks():
    """Semantics 6.1: config, question and the compared columns of each of the six tasks, in the benchmark's order."""
    found = [(t.name, t.config, t.question, t.answer, t.paraphrased, t.perturbed) for t in tasks(10, 64)[:6]]
    assert found == [
        ("eval_real_faces_wo_options", "real_faces", "name", "answer", "answer", "options"),
        ("eval_real_world_wo_options", "real_world", "row", "answer", "answer", "options"),
        ("eval_log_forget", "forget10_perturbed", "caption", "caption", "paraphrased_caption", "perturbed_captions"),
        ("eval_log", "retain_perturbed", "caption", "caption", "paraphrased_caption", "perturbed_captions"),
        ("eval_forget_facerec", "forget10_perturbed", "name", "name", "name", "perturbed_names"),
        ("eval_retain_facerec", "retain_perturbed", "name", "name", "name", "perturbed_names")]
