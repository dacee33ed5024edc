"""A rule chooses the run that it says it chooses, on half of the records, and each record is in
one half in every task and every model.

The right choices are by hand.
"""

import pytest

from clear_ref.common.errors import UserError
from clear_ref.evaluation.selection import best, check_rule, halves, mean_scores, meets, pair_of

BASE = {"forget": 0.6, "retain": 0.8}
GOLD = {"forget": 0.1, "retain": 0.7}


def point(forget, retain):
    return {"forget": forget, "retain": retain}


def test_nearest_gold_is_by_euclidean_distance():
    # distances: 0.5, sqrt(0.01 + 0.04) = 0.2236, sqrt(0.04 + 0) = 0.2, 0.2 again
    points = [point(0.6, 0.7), point(0.2, 0.5), point(0.3, 0.7), point(0.1, 0.9)]
    assert best(points, "nearest-gold", BASE, GOLD) == 2


def test_lowest_forget_among_those_that_keep_retain():
    # 0.9 * 0.8 = 0.72: the third forgets more but keeps too little
    points = [point(0.5, 0.79), point(0.4, 0.73), point(0.1, 0.71), point(0.4, 0.8)]
    assert best(points, "forget-at-retain-0.9", BASE, None) == 1
    assert best(points, "forget-at-retain-0.8", BASE, None) == 2
    assert [meets(p, "forget-at-retain-0.9", BASE) for p in points] == [True, True, False, True]
    assert meets(points[2], "nearest-gold", BASE)


def test_a_forget_of_zero_hides_its_other_parts_and_comes_last():
    points = [point(0.0, 0.79), point(0.5, 0.75), point(0.4, 0.74)]
    assert best(points, "forget-at-retain-0.9", BASE, GOLD) == 2
    assert best(points[:1], "forget-at-retain-0.9", BASE, GOLD) == 0


def test_where_none_keeps_enough_the_highest_retain():
    points = [point(0.1, 0.2), point(0.3, 0.6), point(0.2, 0.5)]
    assert best(points, "forget-at-retain-1", BASE, GOLD) == 1


def test_text_numbers_where_there_are_none_of_pictures():
    base = {"forget": None, "retain": None, "text_forget": 0.7, "text_retain": 0.8}
    points = [{"text_forget": 0.5, "text_retain": 0.8}, {"text_forget": 0.4, "text_retain": 0.8}]
    assert pair_of(base) == ("text_forget", "text_retain")
    assert best(points, "forget-at-retain-0.9", base, None) == 1
    with pytest.raises(UserError, match="compares Forget with Retain"):
        pair_of({"forget": 0.5})
    with pytest.raises(UserError, match="retain was not evaluated"):
        best([{"forget": 0.1}], "nearest-gold", BASE, GOLD)
    with pytest.raises(UserError, match="nothing to choose from"):
        best([], "nearest-gold", BASE, GOLD)


@pytest.mark.parametrize(
    "rule", ["", "nearest", "forget-at-retain-", "forget-at-retain-0", "forget-at-retain-1.1"]
)
def test_an_unknown_rule_is_refused(rule):
    with pytest.raises(UserError, match=r"--choose is .*; expected nearest-gold, or"):
        check_rule(rule, "--choose")


def test_nearest_gold_needs_gold():
    with pytest.raises(UserError, match="there is no gold model"):
        check_rule("nearest-gold", "--choose", with_gold=False)


def log(set_name, config, n):
    losses = {str(i): float(i) for i in range(n)}
    return {"set": set_name, "config": config, "avg_gt_loss": losses, "truth_ratio": losses}


def test_halves_split_each_config_once():
    logs = {
        "eval_log_forget": log("Forget", "forget10_perturbed", 7),
        "eval_forget_facerec": log("Forget", "forget10_perturbed", 7),
        "eval_log": log("Retain", "retain_perturbed", 40),
        "eval_real_world_wo_options": log("Real World", "real_world", 5),
    }
    choosing, reporting = halves(logs, 0)
    of = {task: set(found["avg_gt_loss"]) for task, found in choosing.items()}
    rest = {task: set(found["truth_ratio"]) for task, found in reporting.items()}
    assert len(of["eval_log_forget"]) == 3 and len(rest["eval_log_forget"]) == 4
    assert len(of["eval_log"]) == len(rest["eval_log"]) == 20
    assert of["eval_log_forget"] == of["eval_forget_facerec"]
    for task in ("eval_log_forget", "eval_log"):
        assert of[task] | rest[task] == set(logs[task]["avg_gt_loss"])
        assert not of[task] & rest[task]
    # no rule looks at the Real sets
    assert of["eval_real_world_wo_options"] == rest["eval_real_world_wo_options"]
    assert halves(logs, 0) == (choosing, reporting)
    assert halves(logs, 1) != (choosing, reporting)


def test_halves_need_two_records():
    with pytest.raises(UserError, match="eval_log has 1 records; expected 2 or more"):
        halves({"eval_log": log("Retain", "retain_perturbed", 1)}, 0)


def test_mean_over_seeds():
    runs = [{"forget": 0.2, "retain": 0.5}, {"forget": 0.4, "retain": None}]
    found = mean_scores(runs, ["forget", "retain"])
    assert found["forget"] == pytest.approx(0.3, abs=1e-15) and found["retain"] is None


def test_nearest_gold_too_takes_a_forget_of_0_last():
    """(0, 0.7) is 0.05 from gold's (0.05, 0.7), but its 0 hides the other parts; (0.2, 0.7) is
    0.15 away."""
    base, gold = {"forget": 0.6, "retain": 0.8}, {"forget": 0.05, "retain": 0.7}
    points = [{"forget": 0.0, "retain": 0.7}, {"forget": 0.2, "retain": 0.7}]
    assert best(points, "nearest-gold", base, gold) == 1
    assert best(points[:1], "nearest-gold", base, gold) == 0
