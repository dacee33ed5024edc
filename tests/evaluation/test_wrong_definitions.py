"""Wrong definitions of metrics give what the public evaluation gives, and not the right number.

Run: python -m pytest tests/evaluation/test_wrong_definitions.py
"""

import pytest

from clear_ref.common.errors import UserError
from clear_ref.evaluation import metrics, mmunlearner, task_metrics
from clear_ref.evaluation.wrong_definitions import (
    WRONG_DEFINITIONS,
    constant_answer_rouge_f,
    name_in_lower_case_letters,
    wrong_numbers,
)

PICTURES = {
    "task": "eval_log_forget",
    "generated_text": {
        "0": ["Who is this?", "a young man", "Anna Berg"],
        "1": ["Who is this?", "Anna Berg paints the sea", "Anna Berg paints"],
    },
}


def text_log(*generated):
    answers = ("She paints the sea", "In Oslo", "Anna Berg")
    triples = zip(generated, answers, strict=True)
    return {
        "task": "eval_log_forget_text",
        "generated_text": {
            str(i): ["question", said, answer] for i, (said, answer) in enumerate(triples)
        },
    }


def test_the_last_pictures_text_is_scored_whatever_is_answered_to_the_text_questions():
    """The last picture's text has 5 words: "Anna Berg paints the sea".

    Against "She paints the sea": LCS 3 of 4 and 5 words, F1 = 2 * 3 / 9. Against "In Oslo": 0.
    Against "Anna Berg": LCS 2, F1 = 2 * 2 / 7.
    """
    wanted = (6 / 9 + 0 + 4 / 7) / 3
    perfect = text_log("She paints the sea", "In Oslo", "Anna Berg")
    empty = text_log("", "", "")
    assert constant_answer_rouge_f(PICTURES, perfect) == pytest.approx(wanted, rel=1e-15)
    assert constant_answer_rouge_f(PICTURES, empty) == constant_answer_rouge_f(PICTURES, perfect)
    assert task_metrics.rouge_f(perfect) == 1.0 and task_metrics.rouge_f(empty) == 0.0


def test_a_log_without_generated_texts_is_one_line():
    with pytest.raises(UserError, match="no column generated_text"):
        constant_answer_rouge_f({"task": "eval_log_forget"}, text_log("", "", ""))


def test_each_wrong_definition_says_what_it_is_and_where_it_was_seen():
    assert {one.name for one in WRONG_DEFINITIONS} == {
        "constant_answer_scored",
        "name_in_lower_case_letters",
    }
    for one in WRONG_DEFINITIONS:
        assert one.what.endswith(".") and ":" in one.seen and one.of
        for part in ("forget", "retain"):
            assert f"{part}_{one.right}" in metrics.AGGREGATES["mmunlearner"]


def test_a_name_with_a_capital_or_a_space_is_never_found_by_the_wrong_accuracy():
    """ "Anna Berg" is said twice and found by neither; "max", in small letters, is found."""
    names = {
        "generated_text": {
            "0": ["Who is this?", "It is Anna Berg.", "Anna Berg"],
            "1": ["Who is this?", "annaberg", "Anna Berg"],
            "2": ["Who is this?", "Max!", "max"],
        }
    }
    assert name_in_lower_case_letters(names, names) == pytest.approx(1 / 3, rel=1e-15)
    assert mmunlearner.contained_name_accuracy(names) == pytest.approx(2 / 3, rel=1e-15)


def test_score_prints_the_wrong_numbers_apart_and_only_for_their_set():
    logs = {"eval_log_forget": PICTURES, "eval_text_forget": text_log("", "", "")}
    found = {(one["of"], one["definition"]): one["value"] for one in wrong_numbers(logs)}
    assert set(found) == {
        (f"forget_qa_{end}", "constant_answer_scored")
        for end in ("rougeL_f", "rouge1_f", "rouge2_f", "bleu")
    }
    # "Anna Berg paints the sea": pairs 4; "She paints the sea": 3, two in common; others 0, 1 of 1.
    assert found["forget_qa_rouge2_f", "constant_answer_scored"] == pytest.approx(
        (2 * 2 / 7 + 0 + 2 / 5) / 3, rel=1e-15
    )
