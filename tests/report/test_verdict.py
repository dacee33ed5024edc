"""The sentences of a run say what was forgotten and kept, and which number misleads: by hand."""

import pytest

from clear_ref.evaluation.definitions import AGGREGATES
from clear_ref.report import verdict
from clear_ref.report.thresholds import percent


def scores(n=20, fq=0.3, **numbers):
    """Scores whose parts are all 0.5, but for those of a number that is 0: its first part is 0."""
    tasks = {}
    for metric, parts in AGGREGATES["paper"].items():
        for place, (task, part) in enumerate(parts):
            own = tasks.setdefault(task, {"n": n})
            value = 0.0 if numbers.get(metric) == 0 and place == 0 else 0.5
            own[part] = min(own.get(part, 1.0), value)
    defaults = {"forget": 0.6, "retain": 0.8, "text_forget": 0.7, "text_retain": 0.9}
    return {**defaults, "forget_quality": fq, **numbers, "tasks": tasks}


def test_the_share_of_the_way_to_gold_and_of_retain():
    models = {
        "base": scores(forget=0.6, retain=0.8),
        "gold": scores(forget=0.2, retain=0.7, fq=1.0),
        "unlearned": scores(forget=0.5, retain=0.6),
    }
    # (0.6 - 0.5) / (0.6 - 0.2) = 1/4; 0.6 / 0.8 = 3/4
    expected = "forgot 25% of the way from base to gold (Forget); kept 75% of base's Retain"
    assert verdict.sentences(models) == [f"partly forgotten, Retain damaged: {expected}"]


@pytest.mark.parametrize(
    "gold, after, words, expected",
    [
        (None, 0.5, "", "Forget went from 0.600 to 0.500"),
        (0.58, 0.5, "", "Forget went from 0.600 to 0.500"),
        (0.2, 0.7, "not forgotten, ", "forgot nothing: Forget rose from 0.600 to 0.700"),
        (0.2, 0.1, "forgotten, ", "forgot 125% of the way from base to gold (Forget)"),
    ],
)
def test_without_a_gap_to_gold_there_is_no_share(gold, after, words, expected):
    models = {"base": scores(), "unlearned": scores(forget=after)}
    if gold is not None:
        models["gold"] = scores(forget=gold)
    assert verdict.sentences(models)[0] == (
        f"{words}Retain kept: {expected}; kept 100% of base's Retain"
    )


def test_a_number_that_is_printed_as_before_did_not_rise():
    base, after, gold = scores(forget=0.6), scores(forget=0.6002), scores(forget=0.2)
    found = verdict.forgotten("forget", base, after, gold)
    assert found == "forgot nothing: Forget is 0.600 as before"


def test_a_language_model_is_judged_by_its_text():
    without = {"forget": None, "retain": None}
    models = {
        "base": scores(**without),
        "gold": scores(**without, text_forget=0.2),
        "unlearned": scores(**without, text_forget=0.45, text_retain=0.45),
    }
    expected = "forgot 50% of the way from base to gold (Forget text)"
    assert verdict.sentences(models) == [
        f"partly forgotten, Retain text damaged: {expected}; kept 50% of base's Retain text"
    ]


@pytest.mark.parametrize(
    "after, retain, words",
    [
        # Of the way from 0.6 to 0.2: 0.9 is at 0.24, 0.1 at 0.56. Of Retain 0.8: 0.9 is 0.72,
        # 0.5 is 0.4.
        (0.23, 0.73, "forgotten, Retain kept"),
        (0.25, 0.71, "partly forgotten, Retain damaged"),
        (0.55, 0.41, "partly forgotten, Retain damaged"),
        (0.57, 0.39, "not forgotten, Retain collapsed"),
    ],
)
def test_the_words_change_at_nine_tenths_and_one_tenth(after, retain, words):
    base, gold = scores(), scores(forget=0.2)
    assert verdict.in_words(base, scores(forget=after, retain=retain), gold) == words


def test_retain_is_judged_by_the_lower_of_pictures_and_text_and_forget_by_what_was_forgotten():
    base, gold = scores(), scores(forget=0.2, text_forget=0.1)
    after = scores(forget=0.6, text_forget=0.1, retain=0.8, text_retain=0.6)
    assert verdict.in_words(base, after, gold) == "not forgotten, Retain text damaged"
    assert verdict.in_words(base, after, gold, "text") == "forgotten, Retain text damaged"


def test_a_sentence_gives_the_share_of_the_number_that_its_verdict_names():
    models = {
        "base": scores(forget=0.949, retain=0.986, text_retain=0.860),
        "gold": scores(forget=0.056),
        "unlearned": scores(forget=0.148, retain=0.951, text_retain=0.758),
    }
    # 0.801 / 0.893 = 0.89698; 0.951 / 0.986 = 0.9645; 0.758 / 0.860 = 0.8814
    assert verdict.sentences(models)[0] == (
        "partly forgotten, Retain text damaged: forgot 89.7% of the way from base to gold "
        "(Forget); kept 96% of base's Retain, 88% of base's Retain text"
    )


@pytest.mark.parametrize(
    "share, shown",
    [
        (0.897, "89.7%"),
        (0.89996, "89.996%"),
        (0.9, "90%"),
        (0.894, "89%"),
        (0.0996, "9.96%"),
        (-0.003, "0%"),
        (-0.07, "−7%"),
        (1.25, "125%"),
    ],
)
def test_a_printed_share_is_on_the_side_of_each_threshold_that_the_share_is_on(share, shown):
    assert percent(share) == shown


def test_a_forget_that_is_zero_by_one_part_alone_is_no_verdict():
    base, gold = scores(), scores(forget=0.2)
    assert verdict.in_words(base, scores(forget=0), gold) == "Retain kept"
    all_zero = scores(forget=0)
    for task, part in AGGREGATES["paper"]["forget"]:
        all_zero["tasks"][task][part] = 0.0
    assert verdict.in_words(base, all_zero, gold) == "forgotten, Retain kept"


def test_a_run_in_which_nothing_moved_says_so_with_its_rate():
    models = {"base": scores(), "unlearned": scores(forget=0.6004)}
    (line,) = verdict.sentences(models, rate=1e-5)
    assert line.startswith("nothing moved: ") and "at rate 1e-05" in line
    moved = {"base": scores(), "unlearned": scores(forget=0.6011)}
    assert not verdict.sentences(moved, rate=1e-5)[0].startswith("nothing moved")


def test_forget_quality_that_cannot_tell_is_named():
    few, alike = verdict.sentences({"base": scores(n=19, fq=0.9)})
    assert few == "FQ compares 19 records; with fewer than 20 it says little"
    assert alike.startswith("FQ of base is 0.900: here it does not tell")
    assert verdict.sentences({"base": scores(n=20, fq=0.89)}) == []


def test_a_gold_of_unknown_training_that_answers_like_base_is_named():
    models = {"base": scores(), "gold": scores(forget=0.54)}
    (line,) = verdict.sentences(models, gold_is_known=False)
    assert line.startswith("gold's Forget is 0.540 for base's 0.600, and its training is not known")
    assert verdict.sentences(models) == []
    models["gold"] = scores(forget=0.53)
    assert verdict.sentences(models, gold_is_known=False) == []


def test_retain_text_is_named_only_where_its_verdict_is_another_one():
    base, gold = scores(), scores(forget=0.2)
    # Retain 0.76 of 0.8 is 95 %; Retain text 0.819 of 0.9 is 91 %, 0.63 of 0.9 is 70 %
    kept = scores(forget=0.4, retain=0.76, text_retain=0.819)
    assert verdict.in_words(base, kept, gold) == "partly forgotten, Retain kept"
    damaged = scores(forget=0.4, retain=0.76, text_retain=0.63)
    assert verdict.in_words(base, damaged, gold) == "partly forgotten, Retain text damaged"
