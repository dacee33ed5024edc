"""Evaluation: likelihoods equal those of plain forwards, logs do not depend on how they were
computed, tasks ask the benchmark's questions."""

import json

import pytest
import torch
import torch.nn.functional as F

from clear_ref import Record, load
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation import evaluate
from clear_ref.evaluation.evaluate import EvaluationSettings, run_tasks
from clear_ref.evaluation.kept_files import read_kept, write_kept
from clear_ref.evaluation.likelihood import candidate_nll, neighbour_batches, plain_nll
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.mini.directories import BASE, WORLD

OWN = read_phrases(WORLD)


def plain_nll_by_torch(vlm, prompt, answer):
    """One full forward of prompt + answer, torch's own cross-entropy in float64."""
    batch = vlm.encode([Record(prompt.question, answer, prompt.image)])
    logits = vlm.forward(batch.input_ids, batch.attention_mask, batch.pixel_values).double()
    return float(
        F.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100, reduction="sum")
    )


def nll_of(vlm, item, answers):
    """candidate_nll of one record alone."""
    return candidate_nll(vlm, vlm.encode([item.prompt]), [list(answers)])[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_shared_prompts_give_the_likelihoods_of_plain_forwards(number, tiny):
    """float64: sharing changes only the order of sums. Alone, and with a neighbour."""
    task = tasks(10, 64)[number]
    found = items(task, WORLD, OWN, 2)
    answers = [[item.answer, item.paraphrased, *item.perturbed] for item in found]
    together = candidate_nll(tiny, tiny.encode([item.prompt for item in found]), answers)
    for item, of_one, in_company in zip(found, answers, together, strict=True):
        expected = [plain_nll_by_torch(tiny, item.prompt, answer) for answer in of_one]
        for sums in (nll_of(tiny, item, of_one), in_company, plain_nll(tiny, item.prompt, of_one)):
            assert [total for total, _ in sums] == pytest.approx(expected, rel=1e-12)
            assert [n for _, n in sums] == [
                len(tiny.tokenizer.answer(tiny.template, answer)[1]) for answer in of_one
            ]


@pytest.mark.slow
def test_fp32_likelihoods_of_the_shipped_base_are_those_of_plain_forwards():
    """nll sums of up to 40 tokens of about 1e-6 each: 1e-4."""
    vlm = load(BASE)
    for task in (tasks(10, 64)[2], tasks(10, 64)[6]):
        item = items(task, WORLD, OWN, 1)[0]
        for answer, (total, _) in zip(
            item.perturbed, nll_of(vlm, item, item.perturbed), strict=True
        ):
            assert total == pytest.approx(plain_nll_by_torch(vlm, item.prompt, answer), abs=1e-4)


def test_candidates_never_change_each_other(tiny):
    """A record's candidates alone, in company or in another order: the same nll."""
    item = items(tasks(10, 64)[2], WORLD, OWN, 1)[0]
    together = nll_of(tiny, item, item.perturbed)
    backward = nll_of(tiny, item, item.perturbed[::-1])[::-1]
    for answer, one, other in zip(item.perturbed, together, backward, strict=True):
        alone = nll_of(tiny, item, [answer])[0]
        assert one == pytest.approx(alone, rel=1e-12) and other == pytest.approx(alone, rel=1e-12)


def test_a_prompt_is_run_once_and_each_answer_token_once(tiny):
    """Inputs of the decoder: the prompts, padded to the longest, then the candidates' tokens,
    padded to the widest row."""
    found, given = items(tasks(10, 64)[2], WORLD, OWN, 2), []
    answers = [[item.answer, *item.perturbed] for item in found]
    hook = tiny.model.decoder.register_forward_pre_hook(
        lambda module, arguments: given.append(tuple(arguments[0].shape[:2]))
    )
    prompts = tiny.encode([item.prompt for item in found])
    sums = candidate_nll(tiny, prompts, answers)
    hook.remove()
    assert given == [
        (2, prompts.input_ids.shape[1]),
        (2, max(sum(n for _, n in of_one) for of_one in sums)),
    ]


def test_neighbours_are_computed_together_until_the_batch_is_full():
    """At most 10 tokens, padded to the longest: 4 and 5 fit as 2 x 5, a third would make 15; 12 is
    alone; 1, 1, 1 fit if all begin at the end of their prompt."""
    assert neighbour_batches([4, 5, 2, 12, 1, 1, 1], [0] * 7, 10) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
        slice(4, 7),
    ]
    assert neighbour_batches([1, 1, 1], [0, 1, 1], 10) == [slice(0, 1), slice(1, 3)]
    assert neighbour_batches([3], [0], 10) == [slice(0, 1)]


@pytest.mark.slow
def test_the_same_weights_give_the_same_log_whatever_the_threads():
    vlm, chosen = load(BASE), tasks(10, 16)
    logs = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        logs.append(json.dumps(run_tasks(vlm, WORLD, OWN, chosen, EvaluationSettings(3))))
    torch.set_num_threads(2)
    assert logs[0] == logs[1] == logs[2]


def close(one, other, relative):
    """Two logs: texts, counts and names equal, numbers within `relative`."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            close(one[key], other[key], relative) for key in one
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(
            close(a, b, relative) for a, b in zip(one, other, strict=True)
        )
    return (
        one == pytest.approx(other, rel=relative, abs=1e-6)
        if isinstance(one, float)
        else one == other
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        EvaluationSettings(10, 1),
        EvaluationSettings(10, 3),
        EvaluationSettings(10, 16),
        EvaluationSettings(10, 8, plain=True),
    ],
)
def test_logs_depend_on_batch_size_and_on_plain_by_rounding_only(how):
    """The shipped base: the same texts, every loss within 1e-5 of itself.

    An answer has 40 tokens, and logits are rounded at 1e-6 of their size.
    """
    vlm, chosen = load(BASE), [tasks(10, 24)[i] for i in (1, 2, 6)]
    assert close(
        run_tasks(vlm, WORLD, OWN, chosen, how),
        run_tasks(vlm, WORLD, OWN, chosen, EvaluationSettings(10)),
        1e-5,
    )


@pytest.mark.slow
def test_logs_in_float64_do_not_depend_on_the_batch_size(tiny):
    chosen = [tasks(10, 8)[i] for i in (1, 2, 6)]
    assert close(
        run_tasks(tiny, WORLD, OWN, chosen, EvaluationSettings(5, 2)),
        run_tasks(tiny, WORLD, OWN, chosen, EvaluationSettings(5)),
        1e-11,
    )


@pytest.mark.slow
def test_a_limit_is_a_prefix():
    vlm, task = load(BASE), tasks(10, 16)[4]
    short, longer = (
        run_tasks(vlm, WORLD, OWN, [task], EvaluationSettings(n))[task.name] for n in (2, 4)
    )
    assert short["avg_gt_loss"] == pytest.approx(
        {key: longer["avg_gt_loss"][key] for key in ("0", "1")}, rel=1e-5
    )
    assert short["candidates"]["1"] == longer["candidates"]["1"]


@pytest.mark.slow
def test_a_stopped_evaluation_computes_only_what_is_missing(tmp_path, monkeypatch):
    """Stopped in the third group of two records: the groups before it are read, and the logs are
    those of an evaluation that was not stopped."""
    torch.set_num_threads(1)
    vlm, chosen, how = load(BASE), [tasks(10, 8)[1]], EvaluationSettings(8, 2)
    straight = run_tasks(vlm, WORLD, OWN, chosen, how)
    computed, whole = [], evaluate.group_logs

    def stopping(vlm, records, *more):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(records[0].index)
        return whole(vlm, records, *more)

    monkeypatch.setattr(evaluate, "group_logs", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(vlm, WORLD, OWN, chosen, how, kept=tmp_path)
    monkeypatch.setattr(
        evaluate,
        "group_logs",
        lambda vlm, records, *more: computed.append(records[0].index) or whole(vlm, records, *more),
    )
    assert json.dumps(run_tasks(vlm, WORLD, OWN, chosen, how, kept=tmp_path)) == json.dumps(
        straight
    )
    assert computed == [0, 2, 4, 6]
    run_tasks(vlm, WORLD, OWN, chosen, EvaluationSettings(8, 4), kept=tmp_path)
    run_tasks(vlm, WORLD, OWN, [tasks(10, 16)[1]], how, kept=tmp_path)
    assert computed == [0, 2, 4, 6, 0, 4, 0, 2, 4, 6], (
        "groups of another size, or texts of another length, are others"
    )
    run_tasks(
        vlm, WORLD, OWN, [tasks(10, 16)[1]], EvaluationSettings(8, 2, plain=True), kept=tmp_path
    )
    assert computed[10:] == [0, 2, 4, 6], "and so are those computed another way"
    path = sorted(tmp_path.glob("*-2.json"))[0]
    content = read_kept(path, lambda found: True)
    for damaged in (content["records"][:1], [{}, {}], None):
        write_kept(path, content | {"records": damaged})
        with pytest.raises(UserError, match="has not the values that this version writes there"):
            run_tasks(
                vlm,
                WORLD,
                OWN,
                [tasks(10, 16)[1]],
                EvaluationSettings(8, 2, plain=True),
                kept=tmp_path,
            )
    torch.set_num_threads(2)


@pytest.mark.slow
def test_generated_text_depends_on_the_picture():
    """The shipped base, one question, pictures of two people: two names.

    The released evaluation drops the picture.
    """
    vlm = load(BASE)
    rows = read_rows(WORLD, "forget10")
    said = [
        vlm.generate(vlm.encode([Record(OWN.caption_questions[0], None, row.image)]))[0]
        for row in (rows[0], rows[10])
    ]
    assert rows[0].values["name"] in said[0] and rows[10].values["name"] in said[1]


@pytest.mark.slow
def test_log_columns_agree_with_each_other(tiny):
    """avg = sum / tokens, truth ratio = exp(paraphrased - mean perturbed)."""
    import math

    logs = run_tasks(tiny, WORLD, OWN, tasks(10, 8), EvaluationSettings(2))
    assert [log["task"] for log in logs.values()] == list(logs)
    for log in logs.values():
        for key, text in log["candidates"].items():
            assert log["avg_gt_loss"][key] == log["gt_loss"][key] / log["num_token_gt"][key]
            means = [
                total / n
                for total, n in zip(
                    log["perturb_loss"][key], log["num_token_perturb"][key], strict=True
                )
            ]
            assert log["average_perturb_loss"][key] == means and len(means) == len(
                text["perturbed"]
            )
            expected = math.exp(log["avg_paraphrased_loss"][key] - sum(means) / len(means))
            assert log["truth_ratio"][key] == pytest.approx(expected, rel=1e-12)
            assert log["generated_text"][key][2] == text["answer"]


def test_tasks_ask_what_the_benchmark_asks():
    """config/mm/eval.yaml:8-39 of the released code: config, question and the compared columns of
    each of the six tasks, in the benchmark's order."""
    found = [
        (t.name, t.config, t.question, t.answer, t.paraphrased, t.perturbed)
        for t in tasks(10, 64)[:6]
    ]
    assert found == [
        ("eval_real_faces_wo_options", "real_faces", "name", "answer", "answer", "options"),
        ("eval_real_world_wo_options", "real_world", "row", "answer", "answer", "options"),
        (
            "eval_log_forget",
            "forget10_perturbed",
            "caption",
            "caption",
            "paraphrased_caption",
            "perturbed_captions",
        ),
        (
            "eval_log",
            "retain_perturbed",
            "caption",
            "caption",
            "paraphrased_caption",
            "perturbed_captions",
        ),
        ("eval_forget_facerec", "forget10_perturbed", "name", "name", "name", "perturbed_names"),
        ("eval_retain_facerec", "retain_perturbed", "name", "name", "name", "perturbed_names"),
    ]
