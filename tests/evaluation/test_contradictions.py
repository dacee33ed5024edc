"""score refuses a log whose values contradict its own records: ours, TOFU's, open-unlearning's.

Every real log of tests/real passes. Each edit of one value is one line on stderr and exit status 2.
"""

import gzip
import json
import math

import pytest

from clear_ref import run
from clear_ref.common.errors import UserError
from clear_ref.evaluation import contradictions, logs, metrics
from tests.helpers.real_data import real_data

TOFU = "tofu_eval_logs/llama2-7b_retain99_wd0.01"
OPEN = "open_unlearning_eval_logs/Llama-2-7b-chat-hf_full_forget01"
REAL = (
    *(f"tofu_eval_logs/llama2-7b_{name}_wd0.01" for name in ("full", "retain90", "retain95")),
    *(f"tofu_eval_logs/phi_{name}_wd0.01" for name in ("full", "retain90")),
    *(
        f"open_unlearning_eval_logs/Llama-2-7b-chat-hf_{name}"
        for name in ("full_forget05", "full_forget10", "retain90", "retain95", "retain99")
    ),
)


def our_log(task):
    """Two records by hand. Record 0 says the answer: ROUGE 1. Record 1 says 2 of its 4 words.

    Losses are 2 of 4 tokens and 3 of 2 tokens; truth ratio exp(paraphrased - mean perturbed):
    exp(1 - 2.5) and exp(3 - 1).
    """
    return {
        "format": logs.LOG_FORMAT,
        "task": task,
        "config": "forget10_perturbed",
        "gt_loss": {"0": 2.0, "1": 3.0},
        "num_token_gt": {"0": 4, "1": 2},
        "avg_gt_loss": {"0": 0.5, "1": 1.5},
        "paraphrased_loss": {"0": 5.0, "1": 9.0},
        "num_token_paraphrased": {"0": 5, "1": 3},
        "avg_paraphrased_loss": {"0": 1.0, "1": 3.0},
        "perturb_loss": {"0": [8.0, 6.0], "1": [2.0, 2.0]},
        "num_token_perturb": {"0": [4, 2], "1": [2, 2]},
        "average_perturb_loss": {"0": [2.0, 3.0], "1": [1.0, 1.0]},
        "truth_ratio": {"0": math.exp(-1.5), "1": math.exp(2.0)},
        "rouge1_recall": {"0": 1.0, "1": 0.5},
        "rougeL_recall": {"0": 1.0, "1": 0.5},
        "generated_text": {
            "0": ["Who?", "Ann Bell", "Ann Bell"],
            "1": ["Who?", "Ann Smith in Rome", "Ann Bell in Oslo"],
        },
        "candidates": {
            "0": {"answer": "Ann Bell", "paraphrased": "It is Ann", "perturbed": ["Eve", "Tom"]},
            "1": {"answer": "Ann Bell in Oslo", "paraphrased": "Ann", "perturbed": ["Eve", "Eve"]},
        },
    }


def write_run(path, edit=lambda found: None, stated=lambda models: None):
    """A METHOD run directory of these logs.

    edit     changes the log eval_log_forget; stated: changes the models of metrics.json
    """
    tasks = {task: our_log(task) for task in ("eval_log_forget", "eval_forget_facerec", "eval_log")}
    models = {"unlearned": metrics.score(tasks)}
    edit(tasks["eval_log_forget"])
    stated(models)
    (path / "logs").mkdir(parents=True)
    for task, log in tasks.items():
        (path / f"logs/{task}.json").write_text(json.dumps(log))
    (path / "metrics.json").write_text(json.dumps({"models": models}))
    settings = {"settings": {"metrics": {"value": "paper", "source": "this test"}}}
    (path / "settings.json").write_text(json.dumps(settings))
    return path


def refusal(capsys, path):
    """The line that score prints about a path; "" if it accepts it."""
    status = run.main(["score", str(path), "--quiet"])
    stdout, stderr = capsys.readouterr()
    assert (status, stderr.count("\n")) in ((0, 0), (2, 1)), stderr
    assert (stdout == "") == (status == 2)
    return stderr


def setting(column, index, value):
    return lambda log: log[column].update({index: value})


def test_a_log_that_agrees_with_itself_is_scored(tmp_path, capsys):
    path = write_run(tmp_path / "a")
    assert refusal(capsys, path) == refusal(capsys, path / "logs/eval_log_forget.json") == ""


@pytest.mark.parametrize(
    "edit, message",
    [
        (
            setting("rougeL_recall", "1", 3),
            "rougeL_recall of record 1 is 3.0, but its texts give 0.5",
        ),
        (setting("rougeL_recall", "0", 0.0), "rougeL_recall of record 0 is 0.0, but its texts"),
        (setting("rouge1_recall", "1", 0.75), "rouge1_recall of record 1 is 0.75, but"),
        (setting("avg_gt_loss", "0", 0.4), "avg_gt_loss of record 0 is 0.4, but gt_loss 2 of 4"),
        (setting("gt_loss", "1", 4.0), "avg_gt_loss of record 1 is 1.5, but gt_loss 4 of 2"),
        (setting("num_token_gt", "1", 0), "num_token_gt of record 1 is 0.0, but an answer has"),
        (setting("avg_paraphrased_loss", "0", 1.1), "avg_paraphrased_loss of record 0 is 1.1"),
        (
            setting("average_perturb_loss", "0", [2.0, 3.1]),
            "average_perturb_loss of record 0 is 3.1, but perturb_loss 6 of 2 tokens gives 3",
        ),
        (setting("average_perturb_loss", "0", [2.0]), "record 0 has 1 average_perturb_loss and 2"),
        (setting("truth_ratio", "1", 1.0), "truth_ratio of record 1 is 1.0, but its losses give"),
        (setting("truth_ratio", "1", "high"), "truth_ratio of record 1 is 'high'"),
        (setting("truth_ratio", "1", None), "truth_ratio of record 1 is None"),
        (
            setting("generated_text", "0", ["Who?", "Ann Bell", "Bell Ann"]),
            "rougeL_recall of record 0 is 1.0, but its texts give 0.5",
        ),
        (
            lambda log: log["candidates"]["0"].update(answer="Bell"),
            "the answer of record 0 among its candidates is 'Bell', but generated_text expects",
        ),
        (
            lambda log: log["candidates"]["1"].update(perturbed=["Eve", "Ann"]),
            "the same answer 'Ann' has 3.0 there too",
        ),
    ],
)
def test_a_value_of_our_log_that_its_record_contradicts_is_refused(tmp_path, capsys, edit, message):
    found = refusal(capsys, write_run(tmp_path / "a", edit))
    assert f"eval_log_forget: {message}" in found or message in found
    assert "evaluate again" in found or "expected equally many" in found


@pytest.mark.parametrize("number", ["forget", "tasks eval_log rouge"])
def test_an_edited_aggregate_of_a_run_is_refused(tmp_path, capsys, number):
    def edit(models):
        *path, last = number.split()
        entry = models["unlearned"]
        for name in path:
            entry = entry[name]
        entry[last] = 0.125

    found = refusal(capsys, write_run(tmp_path / "a", stated=edit))
    assert f"metrics.json: {number} of unlearned is 0.125, but its logs give" in found


def test_rounding_in_the_last_digits_is_no_contradiction_and_more_is():
    """1e-12 is of another machine's exp; 1e-6 no float64 computation gives."""
    for change, is_refused in ((1e-12, False), (1e-6, True)):
        log = our_log("eval_log_forget")
        log["truth_ratio"]["1"] *= 1 + change
        found = logs.Evaluation((), "clear_ref", {"eval_log_forget": log}, {})
        try:
            contradictions.check(found)
            refused = False
        except UserError:
            refused = True
        assert refused == is_refused


def edited(tmp_path, name, edit):
    """A real log with an edit, as a file."""
    content = json.loads(gzip.decompress(real_data(f"{name}.json.gz").read_bytes()))
    edit(content)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    return path


def in_tofu(column, index, value):
    return lambda content: content["eval_log_forget.json"][column].update({index: value})


def in_open(metric, index, field, value):
    return lambda content: content[metric]["value_by_index"][index].update({field: value})


def aggregate(metric, value):
    return lambda content: content[metric].update(agg_value=value)


@pytest.mark.parametrize(
    "name, edit, message",
    [
        (TOFU, in_tofu("rougeL_recall", "5", 3.0), "rougeL_recall of record 5 is 3.0"),
        (TOFU, in_tofu("avg_gt_loss", "5", 0.001), "avg_gt_loss of record 5 is 0.001"),
        (TOFU, in_tofu("truth_ratio", "5", 0.001), "truth_ratio of record 5 is 0.001"),
        (OPEN, in_open("forget_Q_A_ROUGE", "0", "rougeL_recall", 0.0), "record 0 is 0.0"),
        (OPEN, in_open("forget_Q_A_Prob", "0", "prob", 0.5), "gt_prob of record 0 is 0.5"),
        (OPEN, in_open("forget_truth_ratio", "0", "score", 0.5), "record 0 is 0.5, but its losses"),
        (OPEN, aggregate("retain_Q_A_ROUGE", 0.5), "retain_Q_A_ROUGE: agg_value is 0.5, but"),
        (OPEN, aggregate("forget_truth_ratio", 0.5), "forget_truth_ratio: agg_value is 0.5, but"),
        (OPEN, aggregate("model_utility", 0.5), "model_utility: agg_value is 0.5, but"),
    ],
)
def test_a_value_of_a_real_log_that_its_record_contradicts_is_refused(
    tmp_path, capsys, name, edit, message
):
    assert message in refusal(capsys, edited(tmp_path, name, edit))


@pytest.mark.parametrize("name", [TOFU, OPEN])
def test_a_real_log_agrees_with_itself(name):
    contradictions.check(logs.read(real_data(f"{name}.json.gz")))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_other_real_log_agrees_with_itself(name):
    contradictions.check(logs.read(real_data(f"{name}.json.gz")))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda log: log["gt_loss"].pop("0"), "record 0 is in only one of avg_gt_loss"),
        (lambda log: log["gt_loss"].clear(), "column gt_loss is empty"),
        (lambda log: log.update(gt_loss=[1]), "no column gt_loss"),
        (lambda log: log["truth_ratio"].pop("1"), "record 1 is in only one of avg_gt_loss"),
        (lambda log: log["candidates"].update({"0": None}), "candidates of record 0 is 'None'"),
        (lambda log: log["candidates"]["0"].pop("perturbed"), "candidates of record 0 is"),
        (lambda log: log["candidates"]["0"].update(perturbed=3), "candidates of record 0 is"),
        (lambda log: log["candidates"]["0"].update(perturbed=[["x"]]), "candidates of record 0 is"),
    ],
)
def test_a_part_of_our_log_that_is_missing_or_no_text_is_one_line(tmp_path, edit, message):
    """An edited value could pass where the column that contradicts it was taken out for it."""
    write_run(tmp_path, edit)
    with pytest.raises(UserError, match=message):
        contradictions.check(logs.read(tmp_path))


@pytest.mark.parametrize("broken", [{"models": []}, {"models": {"unlearned": 3}}])
def test_a_metrics_file_of_another_shape_is_no_traceback(tmp_path, broken):
    write_run(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(broken))
    contradictions.check(logs.read(tmp_path))
    (tmp_path / "settings.json").write_text('{"settings": {"metrics": 3}}')
    contradictions.check(logs.read(tmp_path))
