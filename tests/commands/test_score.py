"""Every number that the authors of stored logs or tables give is computed again, by its definition.

Run: python -m pytest tests/commands/test_score.py. The real logs are described in
tests/real/README.md. Tests named *_peer need scipy.
"""

import json
import math
import random

import numpy as np
import pytest

from clear_ref.common.errors import UserError
from clear_ref.evaluation import (
    definitions,
    logs,
    membership,
    metrics,
    open_unlearning,
    rouge,
    task_metrics,
)
from tests.helpers.real_data import real_data

TOFU, OPEN = "tofu_eval_logs", "open_unlearning_eval_logs"
TOFU_SETS = {
    "eval_text_retain": "Retain",
    "eval_text_forget": "Forget",
    "eval_real_author_wo_options": "Real Authors",
    "eval_real_world_wo_options": "Real World",
}
TOFU_PARTS = {"rouge": "ROUGE", "probability": "Prob.", "truth_ratio": "Truth Ratio"}
OPEN_SETS = {
    "retain": "eval_text_retain",
    "forget": "eval_text_forget",
    "ra": "eval_real_author_wo_options",
    "wf": "eval_real_world_wo_options",
}
OPEN_PARTS = {
    "Q_A_ROUGE": "rouge",
    "Q_A_Prob": "probability",
    "Q_A_Prob_normalised": "probability",
    "Truth_Ratio": "truth_ratio",
    "truth_ratio": "truth_ratio",
}
RELEASED_TASKS = (
    "eval_real_faces_wo_options",
    "eval_real_world_wo_options",
    "eval_log_forget",
    "eval_log",
    "eval_forget_facerec",
    "eval_retain_facerec",
)


def expected(folder):
    return json.loads(real_data(folder, "expected.json").read_text())


def path(folder, name):
    return real_data(folder, f"{name}.json.gz")


@pytest.fixture(scope="module")
def evaluations():
    """{folder: {name: what logs.read gives}} of all twelve real logs."""
    return {
        folder: {name: logs.read(path(folder, name)) for name in expected(folder)["recomputed"]}
        for folder in (TOFU, OPEN)
    }


def tofu_differences(evaluations):
    """{(what, model, name): difference} for every aggregate of TOFU's six logs in expected.json."""
    given, found = expected(TOFU), {}
    for name, read in evaluations[TOFU].items():
        scored = metrics.score(read.tasks, metrics="tofu")
        for what, stated in (
            ("recomputed", given["recomputed"][name]),
            ("published", given["published"]["rows"].get(name, {})),
        ):
            for key, value in stated.items():
                if key == "Model Utility":
                    found[what, name, key] = scored["text_model_utility"] - value
                elif key != "Forget Quality":
                    part = next(part for part, start in TOFU_PARTS.items() if key.startswith(start))
                    task = next(
                        task
                        for task, end in TOFU_SETS.items()
                        if key == f"{TOFU_PARTS[part]} {end}"
                    )
                    found[what, name, key] = scored["tasks"][task][part] - value
    return found


def open_differences(evaluations):
    """{(model, name): difference} for the aggregates of open-unlearning's six logs."""
    given, found = expected(OPEN), {}
    gold = {pair["model"]: pair["retain_reference"] for pair in given["forget_quality"]}
    for name, read in evaluations[OPEN].items():
        scored = metrics.score(read.tasks, metrics="tofu")
        other = evaluations[OPEN][gold[name]] if name in gold else None
        scored["membership"] = membership.membership(read.scores, other and other.scores)
        stated = {
            **given["recomputed"][name],
            **{f"summary {key}": value for key, value in given["summaries"][name].items()},
        }
        for key, value in stated.items():
            plain = key.removeprefix("summary ")
            start, _, rest = plain.partition("_")
            if plain == "model_utility":
                ours = scored["text_model_utility"]
            elif plain == "forget_quality":
                ours = open_unlearning.forget_quality(
                    read.tasks["eval_text_forget"], other.tasks["eval_text_forget"]
                )
            elif plain in scored["membership"]:
                ours = scored["membership"][plain]
            else:
                ours = scored["tasks"][OPEN_SETS[start]][OPEN_PARTS[rest]]
            found[name, key] = ours - value
    return found


# ---- every listed number


@pytest.mark.slow
def test_every_aggregate_of_tofus_logs_is_reproduced(evaluations):
    """To 1e-15, as the logs' own README states.

    The stored ones were summed in another order, a few 1e-16 apart.
    """
    found = tofu_differences(evaluations)
    assert len(found) == 6 * 13 + 3 * 13 and max(map(abs, found.values())) <= 1e-15


def test_every_aggregate_of_open_unlearnings_logs_is_reproduced(evaluations):
    """The logged summaries to 4e-15, as numpy sums in another order (privleak is a percentage).

    The recomputed truth ratios and probabilities have no 1e-10 in their denominators and are not
    rounded to float32: to 2e-6, as their README states.
    """
    found = open_differences(evaluations)
    assert len(found) == 6 * 13 + 3 * 13 + 3 * 11 and max(map(abs, found.values())) <= 2e-6
    exact = [
        value
        for (_, key), value in found.items()
        if key.startswith("summary ") or "ROUGE" in key or "mia" in key
    ]
    assert len(exact) > 50 and max(map(abs, exact)) <= 4e-15


def test_counts_of_records_are_those_listed(evaluations):
    for name, rows in expected(TOFU)["rows"].items():
        found = metrics.score(evaluations[TOFU][name].tasks, metrics="tofu")["tasks"]
        named = {"eval_text_retain": "eval_log", "eval_text_forget": "eval_log_forget"}
        assert {f"{named.get(task, task)}.json": one["n"] for task, one in found.items()} == rows


def test_every_forget_quality_of_tofus_logs_is_reproduced(evaluations):
    """Pairs of the same rows to the bit, 1.834066410994743e-21 included.

    Other pairs have no forget quality, and score refuses them. Their p-values are equal to 1e-15 of
    themselves (for unequal sizes ours are rounded once, scipy's in every term).
    """
    pairs = expected(TOFU)["forget_quality"]
    assert 1.834066410994743e-21 in [pair["p_value"] for pair in pairs]
    for pair in pairs:
        model, gold = (
            evaluations[TOFU][pair[key]].tasks["eval_text_forget"]
            for key in ("model", "retain_reference")
        )
        ours, theirs = (list(metrics.geometric_truth_ratios(log).values()) for log in (model, gold))
        assert (len(ours), len(theirs)) == (pair["n_model"], pair["n_reference"])
        assert metrics.ks_statistic(ours, theirs) == pair["ks_statistic"]
        assert metrics.log10_ks_p_value(ours, theirs) == pytest.approx(
            math.log10(pair["p_value"]), rel=1e-15
        )
        if pair["same_questions"]:
            assert metrics.forget_quality_ks(model, gold) == pair["p_value"]
        else:
            assert metrics.ks_p_value(ours, theirs) == pytest.approx(pair["p_value"], rel=1e-15)
            with pytest.raises(
                UserError, match="gold is of another split or set; record 0 expects"
            ):
                metrics.score({"eval_text_forget": model}, {"eval_text_forget": gold}, "tofu")


def test_every_published_forget_quality_of_tofu_is_reproduced_but_the_one_of_another_split(
    evaluations,
):
    """The phi row's 0.003018 is of forget01, so a log of forget10 cannot give it.

    The logs' own README states this.
    """
    for name, row in expected(TOFU)["published"]["rows"].items():
        gold = evaluations[TOFU][f"{name.split('_')[0]}_retain90_wd0.01"].tasks["eval_text_forget"]
        found = metrics.forget_quality_ks(evaluations[TOFU][name].tasks["eval_text_forget"], gold)
        assert (found == row["Forget Quality"]) == (name != "phi_full_wd0.01")


def test_every_forget_quality_of_open_unlearning_is_reproduced_to_the_bit(evaluations):
    for pair in expected(OPEN)["forget_quality"]:
        model, gold = (
            evaluations[OPEN][pair[key]].tasks["eval_text_forget"]
            for key in ("model", "retain_reference")
        )
        found = open_unlearning.forget_quality(model, gold)
        assert found == pair["p_value"] == pair["logged"]
        statistic = metrics.ks_statistic(
            *(open_unlearning.truth_ratios(log).values() for log in (model, gold))
        )
        assert statistic == pair["ks_statistic"]


def test_open_unlearnings_published_table_is_reproduced_as_printed(evaluations):
    given = expected(OPEN)
    gold = {pair["model"]: pair["retain_reference"] for pair in given["forget_quality"]}
    for row, names in (("Finetuned", gold), ("Retain", gold.values())):
        for name, (split, printed) in zip(names, given["published"][row].items(), strict=True):
            other = evaluations[OPEN][gold[name]].tasks if name in gold else None
            found = metrics.score(evaluations[OPEN][name].tasks, other, "tofu")
            assert f"{found['text_model_utility']:.2f}" == printed["model_utility"], (row, split)
            assert (
                f"{found['tasks']['eval_text_forget']['truth_ratio']:.2f}"
                == printed["forget_truth_ratio"]
            ), (row, split)
            if "forget_quality" in printed:
                assert f"{found['forget_quality']:.2e}" == printed["forget_quality"]


def test_rouge_of_all_4982_generations_of_open_unlearning_is_exactly_the_stored_one(evaluations):
    n = 0
    for read in evaluations[OPEN].values():
        for log in read.tasks.values():
            for key, (_, generated, answer) in log["generated_text"].items():
                found, n = rouge.scores(answer, generated), n + 1
                stored = (
                    log["rougeL_recall"][key],
                    log["rougeL_f1"][key],
                    log["rouge1_recall"][key],
                )
                assert (found["rougeL"].recall, found["rougeL"].f, found["rouge1"].recall) == stored
    assert n == 4982


def test_rouge_without_its_columns_is_that_of_the_text(evaluations):
    log = evaluations[OPEN]["Llama-2-7b-chat-hf_retain99"].tasks["eval_text_forget"]
    bare = {column: values for column, values in log.items() if not column.startswith("rouge")}
    for function in (metrics.rouge_recall, metrics.rouge_f, metrics.rouge1_recall):
        assert function(bare) == function(log)


def test_every_printed_number_of_the_papers_text_table_is_reproduced():
    """From the parts in the authors' notebook, six digits each. Aggregates differ in parts."""
    given = json.loads(real_data("clear_reference", "text_only_components.json").read_text())[
        "rows"
    ]
    for row in given.values():
        tasks = {
            task: {part: row[f"{start} {end}"] for part, start in TOFU_PARTS.items()}
            for task, end in TOFU_SETS.items()
        }
        found = {
            metric: metrics.aggregate(of, tasks)
            for metric, of in metrics.AGGREGATES["released"].items()
        }
        assert found["text_model_utility"] == pytest.approx(row["Model Utility"], abs=1e-6)
        printed = row["printed"]
        for metric in ("real", "retain", "forget"):
            assert round(found[f"text_{metric}"], 2) == printed[f"{metric}_metric"], (
                printed["paper_method"],
                metric,
            )
        assert round(math.log(row["Forget Quality"]), 2) == printed["log_forget_quality"]
    idk = given["idk"]
    without = metrics.harmonic_mean([idk["Prob. Forget"], idk["Truth Ratio Forget"]])
    assert round(without, 2) == 0.41 != idk["printed"]["forget_metric"], (
        "the row that tells whether ROUGE is part of Forget"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ("text_real", "with rouge"),
        ("text_retain", "with rouge"),
        ("text_forget", "without rouge"),
        ("text_model_utility", "without rouge"),
        ("text_model_utility", "forget too"),
    ],
)
def test_the_papers_text_table_detects_each_wrong_set_of_parts(monkeypatch, wrong):
    metric, how = wrong
    of = metrics.AGGREGATES["released"][metric]
    changed = {
        "with rouge": of + [(task, "rouge") for task in dict.fromkeys(task for task, _ in of)],
        "without rouge": [(task, part) for task, part in of if part != "rouge"],
        "forget too": of + [("eval_text_forget", part) for part in TOFU_PARTS],
    }[how]
    monkeypatch.setitem(metrics.AGGREGATES["released"], metric, changed)
    with pytest.raises(AssertionError):
        test_every_printed_number_of_the_papers_text_table_is_reproduced()


def test_log_forget_quality_of_text_is_the_natural_logarithm_of_the_p_value(evaluations):
    model, gold = (
        evaluations[TOFU][f"llama2-7b_{name}_wd0.01"].tasks for name in ("full", "retain90")
    )
    found = metrics.score(model, gold, "released")["text_log_forget_quality"]
    assert found == pytest.approx(math.log(1.834066410994743e-21), rel=1e-15)


# ---- mutants of TOFU's and open-unlearning's formulas


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [
        "clippings swapped",
        "below one on Forget",
        "closer to one elsewhere",
        "grand mean",
        "arithmetic",
        "R inverted",
        "plain probability",
        "F for recall",
    ],
)
def test_the_real_logs_detect_each_mutant_of_the_metrics(evaluations, monkeypatch, mutant):
    forget, other = "truth_ratio_geometric_closer_to_one", "truth_ratio_geometric_below_one"
    good = {name: getattr(task_metrics, name) for name in (forget, other)}
    change = {
        "clippings swapped": {forget: good[other], other: good[forget]},
        "below one on Forget": {forget: good[other]},
        "closer to one elsewhere": {other: good[forget]},
        "arithmetic": {other: task_metrics.truth_ratio_score},
        "grand mean": {
            forget: task_metrics.truth_ratio_grand_mean_closer_to_one,
            other: task_metrics.truth_ratio_grand_mean_below_one,
        },
        "R inverted": {
            other: lambda log: task_metrics.below_one(
                {key: -r for key, r in task_metrics.geometric_truth_ratios(log).items()}
            )
        },
        "plain probability": {"probability_among_candidates": task_metrics.probability_of_answer},
        "F for recall": {"rouge_recall": task_metrics.rouge_f},
    }[mutant]
    for name, function in change.items():
        monkeypatch.setattr(task_metrics, name, function)
        monkeypatch.setitem(
            definitions.NAMES, function, definitions.NAMES.get(function, ("mutant", "mutant"))
        )
    assert max(map(abs, tofu_differences(evaluations).values())) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("missing", range(9))
def test_the_real_logs_detect_a_model_utility_without_one_of_its_nine_parts(
    evaluations, monkeypatch, missing
):
    of = metrics.AGGREGATES["tofu"]["text_model_utility"]
    monkeypatch.setitem(
        metrics.AGGREGATES["tofu"], "text_model_utility", of[:missing] + of[missing + 1 :]
    )
    assert max(map(abs, tofu_differences(evaluations).values())) > 1e-3


# ---- the released aggregates, from the released formulas written out with numpy


def log(rng, n=12, k=3):
    """A log of n records with k wrong answers each."""

    def column(draw):
        return {str(i): draw() for i in range(n)}

    def text():
        return " ".join(rng.choices(words, k=4))

    words = ["Ann", "Bell", "writes", "novels", "in", "Oslo"]
    return {
        "avg_gt_loss": column(lambda: rng.uniform(0, 3)),
        "avg_paraphrased_loss": column(lambda: rng.uniform(0, 3)),
        "average_perturb_loss": column(lambda: [rng.uniform(0, 4) for _ in range(k)]),
        "generated_text": column(lambda: ["Who?", text(), text()]),
    }


@pytest.fixture
def released():
    """Logs of the released code's six tasks, of a model and gold, with the same answers."""
    rng = random.Random(5)
    model = {task: log(rng, 12, 3 + i % 2) for i, task in enumerate(RELEASED_TASKS)}
    gold = {task: log(rng, 12, 3 + i % 2) for i, task in enumerate(RELEASED_TASKS)}
    for task in RELEASED_TASKS:
        for key, texts in model[task]["generated_text"].items():
            gold[task]["generated_text"][key][2] = texts[2]
    return model, gold


def written_out(model, gold):
    """The released numbers by the formulas of mm/calculate_metrics.py, in float64 arrays."""

    def array(found, column):
        return np.array(list(found[column].values()))

    def hmean(values):
        return len(values) / sum(1 / value for value in values)

    found = {}
    for task, own in model.items():
        truth, wrong = (
            np.exp(-array(own, "avg_gt_loss")),
            np.exp(-array(own, "average_perturb_loss")),
        )
        found[task, "probability"] = np.mean(
            truth if "eval_log" in task else truth / (truth + wrong.sum(1))
        )
        tr = np.exp(array(own, "average_perturb_loss").mean() - array(own, "avg_paraphrased_loss"))
        found[task, "truth_ratio"] = np.mean(
            np.minimum(tr, 1 / tr) if "forget" in task else np.maximum(0, 1 - 1 / tr)
        )
        found[task, "rouge"] = np.mean(
            [
                rouge.scores(answer, text)["rougeL"].recall
                for _, text, answer in own["generated_text"].values()
            ]
        )

    def four(*tasks):
        return hmean(
            [found[task, part] for task in tasks for part in ("probability", "truth_ratio")]
        )

    vectors = [
        np.exp(
            array(each["eval_log_forget"], "average_perturb_loss").mean()
            - array(each["eval_log_forget"], "avg_paraphrased_loss")
        )
        for each in (model, gold)
    ]
    p, q = (vector / vector.sum() for vector in vectors)

    def kl(a, b):
        return np.sum(a * np.log(a / b))

    return {
        **found,
        "real": four("eval_real_faces_wo_options", "eval_real_world_wo_options"),
        "retain": four("eval_log", "eval_retain_facerec"),
        "forget": four("eval_log_forget", "eval_forget_facerec"),
        "model_utility": hmean(
            [value for (task, _), value in found.items() if "forget" not in task]
        ),
        "forget_quality": 1 - math.sqrt((kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2),
        "vectors": vectors,
    }


def released_differences(model, gold):
    found, by_hand = metrics.score(model, gold, "released"), written_out(model, gold)
    return {
        key: abs((found["tasks"][key[0]][key[1]] if isinstance(key, tuple) else found[key]) - value)
        for key, value in by_hand.items()
        if key != "vectors"
    }


def test_released_numbers_are_those_of_the_released_formulas(released):
    """To 1e-14: dozens of terms of order 1, added in another order."""
    found = released_differences(*released)
    assert len(found) == 18 + 5 and max(found.values()) < 1e-14


@pytest.mark.slow
def test_released_forget_quality_and_p_value_equal_the_peer(released):
    distance, test = (
        pytest.importorskip("scipy.spatial.distance").jensenshannon,
        pytest.importorskip("scipy.stats").ks_2samp,
    )
    found, vectors = metrics.score(*released, "released"), written_out(*released)["vectors"]
    assert found["forget_quality"] == pytest.approx(1 - distance(*vectors), abs=1e-14)
    assert found["forget_quality_ks"] == pytest.approx(test(*vectors).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    "mutant",
    [
        "clippings swapped",
        "per-sample mean",
        "ROUGE kept",
        "a part missing",
        "utility with forget",
        "histogram",
    ],
)
def test_released_formulas_detect_each_mutant(released, monkeypatch, mutant):
    forget, other = "truth_ratio_grand_mean_closer_to_one", "truth_ratio_grand_mean_below_one"
    good, aggregates = (
        {name: getattr(task_metrics, name) for name in (forget, other)},
        metrics.AGGREGATES["released"],
    )
    if mutant == "clippings swapped":
        monkeypatch.setattr(task_metrics, forget, good[other])
        monkeypatch.setattr(task_metrics, other, good[forget])
    if mutant == "per-sample mean":
        monkeypatch.setattr(task_metrics, other, task_metrics.truth_ratio_geometric_below_one)
    if mutant == "ROUGE kept":
        monkeypatch.setitem(aggregates, "retain", aggregates["retain"] + [("eval_log", "rouge")])
    if mutant == "a part missing":
        monkeypatch.setitem(aggregates, "forget", aggregates["forget"][:-1])
    if mutant == "utility with forget":
        monkeypatch.setitem(
            aggregates, "model_utility", aggregates["model_utility"] + aggregates["forget"]
        )
    if mutant == "histogram":
        monkeypatch.setitem(
            definitions.QUALITIES["released"],
            "forget_quality",
            definitions.QUALITIES["paper"]["forget_quality"],
        )
    assert max(released_differences(*released).values()) > 1e-3


def test_released_forget_quality_has_the_flaws_that_it_is_said_to_have(released):
    """Wrong answers do not count, a constant cancels, another order of records is not 1."""
    model, gold = (each["eval_log_forget"] for each in released)
    before = metrics.forget_quality_aligned(model, gold)
    other = {
        **model,
        "average_perturb_loss": {key: [9.0] for key in model["average_perturb_loss"]},
        "avg_paraphrased_loss": {
            key: loss + 2 for key, loss in model["avg_paraphrased_loss"].items()
        },
    }
    assert metrics.forget_quality_aligned(other, gold) == pytest.approx(before, abs=1e-14)
    values = list(model["avg_paraphrased_loss"].values())
    turned = {
        **model,
        "avg_paraphrased_loss": dict(
            zip(model["avg_paraphrased_loss"], values[1:] + values[:1], strict=True)
        ),
    }
    assert (
        metrics.forget_quality_aligned(turned, model) < 0.95
        and metrics.forget_quality(model, model) == 1.0
    )
    assert metrics.forget_quality_ks(turned, turned) == 1.0 > 1 - math.sqrt(math.log(2))


def test_three_ratios_and_two_clippings_by_hand():
    """Right answer 1/2; wrong ones 1/4, 1/8 in the first record, 1, 1 in the second.

    R arithmetic 3/8 and 2; geometric sqrt(1/8) and 2; by grand mean: the geometric mean of the four
    wrong ones is (1/32)^(1/4), divided by 1/2 in both records.
    """
    two = {
        "avg_paraphrased_loss": {"0": math.log(2), "1": math.log(2)},
        "average_perturb_loss": {"0": [math.log(4), math.log(8)], "1": [0.0, 0.0]},
    }
    geometric, grand = math.sqrt(1 / 8), 2 * (1 / 32) ** 0.25
    for function, by_hand in (
        (metrics.truth_ratio_score, (5 / 8 + 0) / 2),
        (metrics.truth_ratio_arithmetic_closer_to_one, (3 / 8 + 1 / 2) / 2),
        (metrics.truth_ratio_geometric_below_one, (1 - geometric) / 2),
        (metrics.truth_ratio_geometric_closer_to_one, (geometric + 1 / 2) / 2),
        (metrics.truth_ratio_grand_mean_below_one, 1 - grand),
        (metrics.truth_ratio_grand_mean_closer_to_one, grand),
    ):
        assert function(two) == pytest.approx(by_hand, rel=1e-14), function.__name__


def test_every_reported_metric_has_a_definition_with_source_and_flaw():
    for name in (*metrics.SETS, definitions.OPEN_UNLEARNING):
        for metric, found in metrics.definitions(name).items():
            if metric not in metrics.AGGREGATES[name]:
                assert (
                    "formula" in found.text and "source" in found.text and "flaw" in found.text
                ), (name, metric)
        named = [
            (found.name, found.text)
            for metric, found in metrics.definitions(name).items()
            if metric not in metrics.AGGREGATES[name]
        ]
        for found in metrics.definitions(name).values():
            assert found.version >= 1 and found.source and found.direction, found.name
            assert found.label == f"{found.name} v{found.version}"
        assert len({one for one, _ in named}) == len(set(named)) == len(named), (
            "one name, one meaning"
        )
    assert metrics.definitions("paper") == metrics.DEFINITIONS
