"""open-unlearning's logs are scored by its own formulas, with 1e-10 in three denominators; TOFU's
and all other logs are not.

Right values: the stored scores of six real logs, hand-made ones, and the formulas written out with
numpy and scipy (skipped without scipy).
"""

import gzip
import json
import math

import numpy as np
import pytest

from clear_ref.evaluation import definitions, logs, metrics, open_unlearning
from tests.helpers.real_data import real_data

FOLDER = "open_unlearning_eval_logs"
NAMES = [
    *(f"Llama-2-7b-chat-hf_full_{split}" for split in ("forget01", "forget05", "forget10")),
    *(f"Llama-2-7b-chat-hf_{split}" for split in ("retain99", "retain95", "retain90")),
]
TRUTH_RATIOS = {
    "eval_text_forget": "forget_truth_ratio",
    "eval_text_retain": "retain_Truth_Ratio",
    "eval_real_author_wo_options": "ra_Truth_Ratio",
    "eval_real_world_wo_options": "wf_Truth_Ratio",
}
PROBABILITIES = {
    "eval_text_forget": "forget_Q_A_Prob",
    "eval_text_retain": "retain_Q_A_Prob",
    "eval_real_author_wo_options": "ra_Q_A_Prob_normalised",
    "eval_real_world_wo_options": "wf_Q_A_Prob_normalised",
}


def path(name):
    return real_data(FOLDER, f"{name}.json.gz")


def stored(name):
    return json.loads(gzip.decompress(path(name).read_bytes()))


def scored(name):
    return metrics.score(logs.read(path(name)).tasks, metrics="tofu")


def test_truth_ratio_by_hand():
    """Right 1e-10 and 2e-10, wrong 1e-10 and 4e-10 (the geometric mean of 2e-10 and 8e-10):
    R = 1/2 and 4/3, whose 1 - R is below 0."""
    log = {
        "avg_paraphrased_loss": {"0": -math.log(1e-10), "1": -math.log(2e-10)},
        "average_perturb_loss": {
            "0": [-math.log(1e-10)],
            "1": [-math.log(2e-10), -math.log(8e-10)],
        },
        "gt_prob": {"0": 1e-10, "1": 2e-10},
        "perturb_prob": {"0": [1e-10], "1": [2e-10, 8e-10]},
    }
    found = open_unlearning.truth_ratios(log)
    assert found == pytest.approx({"0": 1 / 2, "1": 4 / 3}, rel=1e-14)
    assert open_unlearning.truth_ratio_below_one(log) == pytest.approx(1 / 4, rel=1e-14)
    closer = (1 / 2 + 1 / (4 / 3 + 1e-10)) / 2
    assert open_unlearning.truth_ratio_closer_to_one(log) == pytest.approx(closer, rel=1e-14)
    shares = (1 / 3 + 2 / 13) / 2
    assert open_unlearning.probability_among_candidates(log) == pytest.approx(shares, rel=1e-14)
    assert open_unlearning.probability_of_answer(log) == pytest.approx(1.5e-10, rel=1e-14)


def test_losses_that_no_probability_holds_give_a_ratio_of_zero():
    log = {"avg_paraphrased_loss": {"0": 1e4}, "average_perturb_loss": {"0": [1e4, 2e4]}}
    assert open_unlearning.truth_ratios(log) == {"0": 0.0}
    assert open_unlearning.truth_ratio_closer_to_one(log) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_truth_ratio_is_reproduced(name):
    """To 5e-16 of itself: the mean of the losses is summed in another order. Without the constant
    1e-10 it would differ by up to 3e-5."""
    content = stored(name)
    for task, log in logs.read(path(name)).tasks.items():
        scores = content[TRUTH_RATIOS[task]]["value_by_index"]
        found = open_unlearning.truth_ratios(log)
        assert found.keys() == scores.keys()
        for index, ratio in found.items():
            assert ratio == pytest.approx(scores[index]["score"], rel=5e-16)


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_aggregate_is_reproduced(name):
    """To 1e-15: numpy sums in another order. TOFU's formulas are off by 1e-11 to 3e-8 here."""
    content, found = stored(name), scored(name)
    for part, names in (("truth_ratio", TRUTH_RATIOS), ("probability", PROBABILITIES)):
        for task, stored_name in names.items():
            value = content[stored_name]["agg_value"]
            assert found["tasks"][task][part] == pytest.approx(value, abs=1e-15)
    value = content["model_utility"]["agg_value"]
    assert found["text_model_utility"] == pytest.approx(value, abs=1e-15)
    assert found["definitions"]["truth_ratio_forget"] == "geometric_1e-10_closer_to_one"


def collapsed(name, nats, target):
    """Writes a log whose losses of the forget set are `nats` higher."""
    content = stored(name)
    for end in ("Q_A_Prob", "Q_A_PARA_Prob", "Q_A_PERT_Prob"):
        for row in content[f"forget_{end}"]["value_by_index"].values():
            losses = np.array(row["avg_loss"]) + nats
            row["avg_loss"], row["prob"] = losses.tolist(), np.exp(-losses).tolist()
    target.write_text(json.dumps(content))
    return target


def written_out(log):
    """open-unlearning's truth ratios, with numpy."""
    right = np.array(list(log["avg_paraphrased_loss"].values()))
    wrong = np.array(list(log["average_perturb_loss"].values())).mean(axis=1)
    return np.exp(-wrong) / (np.exp(-right) + 1e-10)


def test_a_collapsed_models_numbers_are_open_unlearnings(tmp_path):
    """Forget losses 25 nats higher: Forget Quality 1.06e-239, by TOFU's formula 4.3e-25 as without
    the collapse; truth ratio 0.0066, by TOFU's 0.52."""
    ks_2samp = pytest.importorskip("scipy.stats").ks_2samp
    model = logs.read(collapsed(NAMES[2], 25, tmp_path / "TOFU_EVAL.json")).tasks
    gold = logs.read(path(NAMES[5])).tasks
    found = metrics.score(model, gold, "tofu")
    ratios, gold_ratios = (written_out(each["eval_text_forget"]) for each in (model, gold))
    assert found["forget_quality"] == ks_2samp(ratios, gold_ratios).pvalue
    assert found["forget_quality"] == pytest.approx(1.06e-239, rel=5e-3)
    assert found["log10_forget_quality"] == pytest.approx(math.log10(1.06e-239), abs=3e-3)
    forget = found["tasks"]["eval_text_forget"]
    by_numpy = np.mean(np.minimum(ratios, 1 / (ratios + 1e-10)))
    assert forget["truth_ratio"] == pytest.approx(by_numpy, rel=1e-14)
    assert forget["truth_ratio"] == pytest.approx(0.0066, abs=5e-5)
    tofu = {task: {**log, "source": "TOFU"} for task, log in model.items()}
    theirs = metrics.score(tofu, gold, "tofu")
    assert theirs["forget_quality"] == pytest.approx(4.35e-25, rel=1e-2)
    assert theirs["tasks"]["eval_text_forget"]["truth_ratio"] == pytest.approx(0.52, abs=5e-3)
    assert theirs["definitions"]["forget_quality"] == "ks_p_value"


def test_the_set_of_a_model_is_chosen_by_its_own_logs():
    assert definitions.set_of("tofu", [{}, {"source": "open-unlearning"}]) == "open-unlearning"
    assert definitions.set_of("tofu", [{}]) == "tofu"
    assert definitions.set_of("paper", [{"source": "open-unlearning"}]) == "paper"
    assert metrics.AGGREGATES["open-unlearning"] == metrics.AGGREGATES["tofu"]


@pytest.mark.parametrize("mutant", ["no constant", "constant above", "losses for probabilities"])
def test_the_stored_scores_detect_each_mutant(monkeypatch, mutant):
    content, good = stored(NAMES[0]), open_unlearning.truth_ratios
    if mutant == "no constant":
        monkeypatch.setattr(open_unlearning, "CONSTANT", 0.0)
    if mutant == "constant above":
        monkeypatch.setattr(
            open_unlearning,
            "truth_ratios",
            lambda log: {index: ratio + 1e-10 for index, ratio in good(log).items()},
        )
    if mutant == "losses for probabilities":
        read = open_unlearning.log_columns.numbers
        monkeypatch.setattr(
            open_unlearning.log_columns,
            "numbers",
            lambda log, column: (
                {index: math.exp(-loss) for index, loss in read(log, "avg_gt_loss").items()}
                if column == "gt_prob"
                else read(log, column)
            ),
        )
    found = scored(NAMES[0])
    differences = [
        found["tasks"][task][part] - content[stored_name]["agg_value"]
        for part, names in (("truth_ratio", TRUTH_RATIOS), ("probability", PROBABILITIES))
        for task, stored_name in names.items()
    ]
    assert max(map(abs, differences)) > 1e-11
