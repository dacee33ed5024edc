"""The metric sets of MMUnlearner, Open-MMUnlearning and forgetium give numbers worked out by hand,
from logs of their own projects too.

Run: python -m pytest tests/evaluation/test_field_metrics.py. The same functions against other
libraries: test_field_metrics_parity.py.
"""

import json
import math

import pytest

from clear_ref import run
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import Row
from clear_ref.evaluation import (
    definitions,
    forgetium,
    logs,
    metrics,
    mmunlearner,
    open_mmunlearning,
)
from clear_ref.evaluation.tasks import choice_tasks, item, items
from clear_ref.mini.directories import WORLD
from tests.helpers import made_runs
from tests.helpers.open_mmunlearning import evaluated_log


def said(*pairs):
    """A log of (generated, expected) texts."""
    return {"generated_text": {str(i): ["", *pair] for i, pair in enumerate(pairs)}}


# ---- MMUnlearner


def test_the_first_letter_or_digit_of_the_text_is_the_answer():
    """ "b)" and " B. Anna" are B; "The answer is B" is T; an empty text is nothing; "2" is no B."""
    texts = ("b)", " B. Anna", "The answer is B", "", "2")
    log = said(*((text, "B") for text in texts))
    assert mmunlearner.multiple_choice_accuracy(log) == 2 / 5
    assert [mmunlearner.chosen_letter(text) for text in texts] == ["B", "B", "T", "", "2"]


def test_a_name_is_contained_whatever_its_case_and_spaces():
    log = said(
        ("it is  ANNA\nberg!", "Anna Berg"), ("Anna", "Anna Berg"), ("Annaberg", "Anna Berg")
    )
    assert mmunlearner.contained_name_accuracy(log) == pytest.approx(1 / 3, rel=1e-15)


def test_rouge_f_measures_by_hand():
    """ "a cat sat here" for "the cat sat": words cat, sat in common of 4 and 3, F = 2*2/7; pairs
    "cat sat" of 3 and 2, F = 2*1/5; LCS 2, F = 4/7."""
    log = said(("a cat sat here", "the cat sat"), ("", "the cat sat"))
    assert mmunlearner.rouge1_f(log) == pytest.approx(4 / 7 / 2, rel=1e-15)
    assert mmunlearner.rouge2_f(log) == pytest.approx(2 / 5 / 2, rel=1e-15)
    assert mmunlearner.rouge_l_f(log) == pytest.approx(4 / 7 / 2, rel=1e-15)
    # The column of a log is not read: its texts are.
    assert mmunlearner.rouge_l_f({**log, "rougeL_f1": {"0": 1.0, "1": 1.0}}) < 0.3


def test_bleu_by_hand():
    """ "a b c d x" for "a b c d e": p = 4/5, 3/4, 2/3, 1/2, no brevity: (1/5)^(1/4). "a b" for
    "a b c d": p = 1, 1, 0.1, 0.1 (no 3-gram: 0.1 / 1), brevity exp(1 - 4/2). Case counts."""
    assert mmunlearner.sentence_bleu("a b c d e", "a b c d x") == pytest.approx(
        (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, rel=1e-14
    )
    assert mmunlearner.sentence_bleu("a b c d", "a b") == pytest.approx(
        math.exp(-1) * 0.01**0.25, rel=1e-14
    )
    assert mmunlearner.sentence_bleu("A B", "a b") == mmunlearner.sentence_bleu("a", "") == 0.0
    assert mmunlearner.sentence_bleu("a b c d", "a b c d") == 1.0
    assert mmunlearner.sentence_bleu("a b", "a b") == pytest.approx(0.01**0.25, rel=1e-14)


def test_options_stand_in_a_drawn_order_that_is_the_same_for_every_model():
    """Every wrong option keeps its order, the right one stands where the letter says, and over the
    20 rows it stands at more than two places."""
    task = choice_tasks(10, 64)[0]
    asked = items(task, WORLD, read_phrases(WORLD))
    assert asked == items(task, WORLD, read_phrases(WORLD))
    rows = items(made_runs.KNOWN["eval_forget_facerec"][0], WORLD, read_phrases(WORLD))
    letters = set()
    for one, row in zip(asked, rows, strict=True):
        question, *lines, end = one.prompt.question.split("\n")
        assert question == "What is the name of the person in the image?" and end == ""
        shown = dict(line.split(". ", 1) for line in lines)
        assert shown[one.answer] == row.answer and one.prompt.image == row.prompt.image
        assert [shown[letter] for letter in one.perturbed] == list(row.perturbed)
        letters.add(one.answer)
    assert len(letters) > 2


def test_options_of_a_row_are_one_to_25_and_a_repeated_right_text_counts_once():
    task = choice_tasks(10, 64)[3]
    values = {"question": "Where?", "answer": "Oslo", "options": ["Rome"] * 26}
    row = Row(0, "x:1", values, None)
    with pytest.raises(UserError, match=r"x:1: options has 26 texts; expected 1 to 25"):
        item(task, row, None)
    doubled = item(task, Row(0, "x:1", {**values, "options": ["Oslo", "Rome"]}, None), None)
    lines = doubled.prompt.question.split("\n")
    assert lines[0] == "Where?" and lines[1 + "ABC".index(doubled.answer)][3:] == "Oslo"
    first = min(number for number in range(1, 4) if lines[number].endswith("Oslo"))
    assert doubled.answer == "ABC"[first - 1]


def test_the_sets_numbers_are_their_parts_and_a_part_that_is_missing_is_no_error():
    logs_of = made_runs.logs(made_runs.BASE, "Anna")
    found = metrics.score(logs_of, metrics="mmunlearner")
    forget = logs_of["eval_log_forget"]
    assert found["forget_vqa_bleu"] == mmunlearner.bleu(forget)
    assert found["retain_name"] == mmunlearner.contained_name_accuracy(
        logs_of["eval_retain_facerec"]
    )
    assert found["forget_choice"] is None and "multiple_choice" not in found["tasks"]["eval_log"]
    without = {column: values for column, values in forget.items() if column != "generated_text"}
    found = metrics.score({"eval_log_forget": without}, metrics="mmunlearner")
    assert found["forget_vqa_bleu"] is None


# ---- Open-MMUnlearning and forgetium


def ratios(*values):
    """A log whose wrong answers have loss 0 and whose paraphrases have -log R: 1/R is the value."""
    return {
        "avg_gt_loss": {str(i): 1.0 for i in range(len(values))},
        "avg_paraphrased_loss": {str(i): 20 - math.log(value) for i, value in enumerate(values)},
        "average_perturb_loss": {str(i): [19.0, 21.0] for i in range(len(values))},
    }


def test_js_distance_compares_record_with_record():
    """(1, 3) / 4 against (1, 1) / 2: m = (3/8, 5/8), KL sums by hand; a common factor cancels."""
    p, q, m = (1 / 4, 3 / 4), (1 / 2, 1 / 2), (3 / 8, 5 / 8)
    wanted = sum(a * math.log(a / c) for a, c in zip(p, m, strict=True))
    wanted += sum(b * math.log(b / c) for b, c in zip(q, m, strict=True))
    for factor in (1.0, 1e6):
        found = open_mmunlearning.js_distance(ratios(factor, 3 * factor), ratios(2.0, 2.0))
        assert found == pytest.approx(math.sqrt(wanted / 2), rel=1e-9)
    gold = ratios(2.0, 4.0)
    gold["avg_paraphrased_loss"] = dict(reversed(gold["avg_paraphrased_loss"].items()))
    gold["average_perturb_loss"] = dict(reversed(gold["average_perturb_loss"].items()))
    assert open_mmunlearning.js_distance(ratios(1.0, 2.0), gold) == pytest.approx(0.0, abs=1e-7)


def test_js_distance_of_unequal_numbers_is_of_fifty_bins():
    """1 and 2 are in the first and in the last bin: shares (1/2, 1/2) against (2/3, 1/3)."""
    p, q = (1 / 2, 1 / 2), (2 / 3, 1 / 3)
    wanted = 0.0
    for a, b in zip(p, q, strict=True):
        wanted += a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b))
    found = open_mmunlearning.js_distance(ratios(1.0, 2.0), ratios(1.0, 1.0, 2.0))
    assert found == pytest.approx(math.sqrt(wanted / 2), rel=1e-6)
    with pytest.raises(UserError, match=r"above exp\(700\)"):
        open_mmunlearning.js_distance(
            ratios(1.0), {**ratios(1.0, 1.0), "average_perturb_loss": {"0": [999.0], "1": [1.0]}}
        )


def test_the_ks_numbers_are_those_of_the_records_truth_ratios():
    """1, 2 against 3, 4: the distribution functions differ by 1; 2 of the 6 orders do: p = 1/3."""
    apart = ratios(1.0, 2.0), ratios(3.0, 4.0)
    assert open_mmunlearning.ks_distance(*apart) == 1.0
    assert open_mmunlearning.ks_p(*apart) == pytest.approx(1 / 3, rel=1e-15)


def test_forget_quality_of_five_by_hand_and_none_without_a_part():
    """F = 1 - (0.2 + 0.4 + 0.6) / 3 = 0.6; (0.6 + 0.5 + 0.9 + 0.7 + 0.8) / 5 = 0.7."""
    tasks = {
        "eval_forget_facerec": {"contained_name": 0.2},
        "eval_forget_choice": {"multiple_choice": 0.4},
        "eval_log_forget": {"rouge": 0.6, "truth_ratio": 0.5, "probability": 0.1},
    }
    numbers = {"ks_distance": 0.3, "js_distance": 0.2}
    assert open_mmunlearning.forget_quality(tasks, numbers) == pytest.approx(0.7, rel=1e-15)
    del tasks["eval_forget_choice"]
    assert open_mmunlearning.forget_quality(tasks, numbers) is None
    assert open_mmunlearning.forget_quality(tasks | {}, {}) is None


def test_forgetiums_number_is_of_the_answer_itself_and_at_most_300():
    """R of the answer: wrong 1.0 and 2.0 nats against 1.0; two apart: p = 1/3."""

    def log(*answers):
        n = range(len(answers))
        return ratios(*(1.0 for _ in n)) | {"avg_gt_loss": {str(i): answers[i] for i in n}}

    assert forgetium.truth_ratios(log(20.0))["0"] == pytest.approx(
        math.log((math.e + 1 / math.e) / 2), rel=1e-12
    )
    found = forgetium.forget_quality(log(1.0, 2.0), log(3.0, 4.0))
    assert found == pytest.approx(math.log10(3), rel=1e-14)
    assert forgetium.forget_quality(log(1.0, 2.0), log(1.0, 2.0)) == 0.0
    far = forgetium.forget_quality(log(*([1.0] * 600)), log(*([2.0] * 600)))
    assert far == 300.0


# ---- logs of Open-MMUnlearning


def test_an_aggregated_log_of_open_mmunlearning_is_scored_and_unknown_tasks_are_named(
    tmp_path, capsys
):
    """The authors' tasks and both text tasks are read; two tasks of other names are said unread."""
    content, gold = evaluated_log(1), evaluated_log(2)
    path, gold_path = tmp_path / "eval_log_aggregated.json", tmp_path / "gold.json"
    path.write_text(json.dumps({**content, "eval_voice.json": {}, "my_task": {"a": {}}}))
    gold_path.write_text(json.dumps(gold))
    read = logs.read(path)
    assert read.format == "Open-MMUnlearning" and read.unread == ("eval_voice.json", "my_task")
    assert list(read.tasks) == [name.removesuffix(".json") for name in content]
    for metrics_of in ("open_mmunlearning", "paper", "all"):
        given = ["score", path, "--gold", gold_path, "--metrics", metrics_of]
        assert run.main([str(one) for one in given]) == 0
        out = capsys.readouterr().out
        assert "unread, of no known task: eval_voice.json" in out and "my_task" in out
    found = metrics.score(read.tasks, logs.read(gold_path).tasks, "paper")
    assert found["tasks"]["eval_text_forget"]["truth_ratio"] is None
    assert found["text_forget"] is None and found["forget"] > 0 and found["forget_quality"] > 0
    text = {task: log for task, log in read.tasks.items() if "text" in task}
    assert metrics.score(text, text, "paper")["forget_quality"] is None


def test_a_damaged_log_of_open_mmunlearning_is_one_line(tmp_path, capsys):
    content = evaluated_log(1)
    content["eval_log.json"]["truth_ratio"]["1"] *= 1.5
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    assert run.main(["score", str(path)]) == 2
    assert "eval_log: truth_ratio of record 1 is" in capsys.readouterr().err


def test_every_definition_says_version_source_and_direction():
    """By name: one name has one version, source and direction in every set."""
    known = {}
    for name in definitions.SETS:
        for one in definitions.definitions(name).values():
            if not one.name.startswith("harmonic"):
                about = (one.version, one.source, one.direction, one.words)
                assert known.setdefault(one.name, about) == about
            assert one.label == definitions.label_of(one.name)
    assert len(known) == 27
