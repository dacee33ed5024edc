"""Every reported number has a bootstrap interval over the records, equal to that of logs which hold
the drawn records one by one; the draws depend on the records alone.

Run: python -m pytest tests/evaluation/test_bootstrap.py.
"""

import math
import random

import numpy as np
import pytest

from clear_ref.data import draws
from clear_ref.evaluation import (
    bootstrap,
    intervals,
    membership,
    metrics,
    open_mmunlearning,
    quality,
)
from clear_ref.evaluation.definitions import AGGREGATES, COMBINED, QUALITIES, SETS
from tests.helpers.open_mmunlearning import evaluated_log

CHOICES = ("eval_forget_choice", "eval_retain_choice")


def model_logs(seed, n=9, source=None):
    """Logs of all tasks of pictures, two text tasks with paraphrases, two of options."""
    found = {}
    content = evaluated_log(seed, n)
    for name, log in content.items():
        task = name.removesuffix(".json")
        if "text" in task:
            log = {**content["eval_log.json"], **log}
        own = {column: values for column, values in log.items() if "mia" not in column}
        own["generated_text"] = {i: texts[:3] for i, texts in own["generated_text"].items()}
        found[task] = own
    for task in CHOICES:
        rng = random.Random(f"{seed} {task}")
        texts = {i: ["", rng.choice("AB"), "A"] for i in found["eval_log"]["avg_gt_loss"]}
        found[task] = {**found["eval_log"], "generated_text": texts}
    if source:
        for log in found.values():
            probabilities = {i: math.exp(-loss) for i, loss in log["avg_gt_loss"].items()}
            wrong = {
                i: [math.exp(-loss) for loss in losses]
                for i, losses in log["average_perturb_loss"].items()
            }
            log |= {"source": source, "gt_prob": probabilities, "perturb_prob": wrong}
    return found


def one_by_one(logs, number, seed=0):
    """Logs of the records of draw `number`: a record drawn twice is there twice."""
    sample = bootstrap.Sample(seed)
    found = {}
    for task, log in logs.items():
        records = sorted(log["avg_gt_loss"])
        counts = sample.counts(task, records)[number]
        taken = [
            (index, f"{index}.{k}")
            for index, n in zip(records, counts, strict=True)
            for k in range(n)
        ]
        found[task] = {
            column: {new: values[old] for old, new in taken} if isinstance(values, dict) else values
            for column, values in log.items()
        }
    return found


@pytest.mark.parametrize("name", [*SETS, "open-unlearning"])
def test_a_draw_is_the_number_of_a_log_that_holds_the_drawn_records(name):
    source = "open-unlearning" if name == "open-unlearning" else None
    own, gold = model_logs(1, source=source), model_logs(2, source=source)
    asked = "tofu" if source else name
    scores = metrics.score(own, gold, asked)
    drawn = bootstrap.drawn_numbers(own, gold, asked, scores)
    expected = {*AGGREGATES[name], *QUALITIES[name], *COMBINED.get(name, {})}
    expected = {number for number in expected if scores[number] is not None}
    assert expected == {number for number in drawn if " " not in number}
    for number in range(0, 40, 5):
        scored = metrics.score(one_by_one(own, number), one_by_one(gold, number), asked)
        for metric, values in drawn.items():
            task, _, part = metric.partition(" ")
            value = scored["tasks"][task][part] if part else scored[metric]
            assert values[number] == pytest.approx(value, rel=1e-9, abs=1e-9), metric


@pytest.mark.parametrize("compare", [quality.forget_quality_aligned, open_mmunlearning.js_distance])
def test_a_draw_without_the_one_record_of_weight_is_computed_all_the_same(compare):
    """Record 0 weighs e^3000 times the others: of the draws without it every weight was 0, and the
    interval NaN, which JSON cannot hold."""
    own, gold = model_logs(1, n=4)["eval_log_forget"], model_logs(2, n=4)["eval_log_forget"]
    first = sorted(own["avg_gt_loss"])[0]
    own["avg_paraphrased_loss"] = {
        index: loss + (0.0 if index == first else 3000.0)
        for index, loss in own["avg_paraphrased_loss"].items()
    }
    values = bootstrap.Sample().of_quality("eval_log_forget", own, gold, compare)
    assert np.isfinite(values).all()
    counts = bootstrap.Sample().counts("eval_log_forget", sorted(own["avg_gt_loss"]))
    without = np.flatnonzero(counts[:, 0] == 0)
    assert len(without) > 100
    for number in without[:8]:
        drawn = [one_by_one({"eval_log_forget": log}, number) for log in (own, gold)]
        expected = compare(*(each["eval_log_forget"] for each in drawn))
        assert values[number] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_draws_are_keyed_by_the_records_and_nothing_else():
    """Another task of the same config has the same draws, a task more or less changes none, a
    record more changes them; the interval is of their quantiles."""
    first, second = bootstrap.Sample(), bootstrap.Sample()
    second.counts("other", ["1"])
    counts = first.counts("retain_perturbed", ["0", "1", "2"])
    assert (counts == second.counts("retain_perturbed", ["0", "1", "2"])).all()
    assert (counts.sum(1) == 3).all() and counts.shape == (intervals.N_DRAWS, 3)
    assert not (counts == draws.resampled(1, "x", 3, intervals.N_DRAWS)).all()
    own, gold = model_logs(1), model_logs(2)
    scores = metrics.score(own, gold, "paper")
    whole = bootstrap.intervals(own, gold, "paper", scores)
    alone = {"eval_log_forget": own["eval_log_forget"]}
    part = bootstrap.intervals(alone, gold, "paper", metrics.score(alone, gold, "paper"))
    assert part == {name: whole[name] for name in part} and "forget_quality" in part
    for name, (low, high) in whole.items():
        assert low <= high, name


def test_the_interval_of_a_share_is_the_binomials():
    """Of 20 records half are right: Binomial(20, 1/2) has its 2.5 % and 97.5 % quantiles at 6 and
    14 of 20."""
    log = {
        "avg_gt_loss": {str(i): 1.0 for i in range(20)},
        "generated_text": {str(i): ["", "A" if i % 2 else "B", "A"] for i in range(20)},
    }
    from clear_ref.evaluation.mmunlearner import multiple_choice_accuracy

    values = bootstrap.Sample().of_part("eval_forget_choice", log, multiple_choice_accuracy)
    assert intervals.over_draws(values) == pytest.approx((0.3, 0.7), abs=0.051)
    assert values.std() == pytest.approx(math.sqrt(1 / 80), rel=0.1)


def test_gold_of_other_records_gives_no_interval_but_no_error():
    own, gold = model_logs(1), model_logs(2, n=5)
    sample = bootstrap.Sample()
    for compare, _ in QUALITIES["open_mmunlearning"].values():
        assert (
            sample.of_quality(
                "eval_log_forget", own["eval_log_forget"], gold["eval_log_forget"], compare
            )
            is None
        )


# ---- membership


def test_a_draw_of_membership_is_the_number_of_the_drawn_scores():
    """AUC, rates, privleak and memorisation of each draw, its scores written out one by one."""
    rng = random.Random(0)

    def scores(n_forget, n_holdout):
        def part(n):
            return {str(i): float(rng.randint(0, 9)) for i in range(n)}

        return {
            name: {"forget": part(n_forget), "holdout": part(n_holdout)}
            for name in ("mia_min_k", "mia_loss", "extraction_strength")
        }

    own, gold = scores(7, 12), scores(7, 12)
    found = membership.membership_intervals(own, gold)
    sample = bootstrap.Sample()

    def drawn(entry, number):
        return {
            part: {
                f"{i}.{k}": value
                for (i, value), n in zip(
                    values.items(), sample.counts(part, values)[number], strict=True
                )
                for k in range(n)
            }
            for part, values in entry.items()
        }

    rows = []
    for number in range(intervals.N_DRAWS):
        both = [{name: drawn(each[name], number) for name in each} for each in (own, gold)]
        rows.append(membership.membership(*both))
    assert set(rows[0]) == set(found)
    for name in found:
        expected = intervals.over_draws(np.array([row[name] for row in rows]))
        assert found[name] == pytest.approx(expected, rel=1e-9, abs=1e-9), name
