"""records.jsonl: a flat object for each record and model, whose values are those of the logs."""

import json
import math

import pytest

from clear_ref.common.files import write_jsonl
from clear_ref.evaluation.record_lines import RecordLine, record_lines

LOG = {
    "task": "eval_log_forget",
    "set": "Forget",
    "config": "forget10_perturbed",
    "avg_gt_loss": {"3": math.log(2), "11": 800.0},
    "avg_paraphrased_loss": {"3": math.log(4), "11": 900.0},
    # e^-l is 1/8 and 1/4 for the right answer's 1/2; 1 for one that is impossible
    "average_perturb_loss": {"3": [math.log(8), math.log(4)], "11": [0.0]},
    "truth_ratio": {"3": math.exp(math.log(4) - (math.log(8) + math.log(4)) / 2), "11": 1e300},
    "rouge1_recall": {"3": 0.5, "11": 0.0},
    "rougeL_recall": {"3": 0.25, "11": 0.0},
    "generated_text": {"3": ["USER: who?", "Hina é", "Hina Ameen"], "11": ["p", "g", "a"]},
    "candidates": {
        "3": {"answer": "Hina Ameen", "paraphrased": "It is Hina", "perturbed": ["A", "B"]},
        "11": {"answer": "a", "paraphrased": "b", "perturbed": ["c"]},
    },
}


def test_a_record_by_hand():
    """P = 1/2 among 1/2, 1/8, 1/4 is 4/7; R = ((1/8 + 1/4) / 2) / (1/4) = 3/4."""
    line = record_lines({"base": {"eval_log_forget": LOG}})[0]
    assert set(line) == set(RecordLine.__annotations__)
    assert {key: line[key] for key in ("model", "task", "set", "config", "index")} == {
        "model": "base",
        "task": "eval_log_forget",
        "set": "Forget",
        "config": "forget10_perturbed",
        "index": 3,
    }
    assert (line["prompt"], line["generated_text"]) == ("USER: who?", "Hina é")
    assert (line["answer"], line["paraphrased"]) == ("Hina Ameen", "It is Hina")
    assert line["perturbed"] == ["A", "B"]
    assert line["probability"] == pytest.approx(1 / 2)
    assert line["probability_among_candidates"] == pytest.approx(4 / 7)
    assert line["log_truth_ratio"] == pytest.approx(math.log(3 / 4))
    assert line["truth_ratio_score"] == pytest.approx(1 / 4)
    assert line["truth_ratio_tofu"] == pytest.approx(1 / math.sqrt(2))
    assert (line["rouge1_recall"], line["rougeL_recall"]) == (0.5, 0.25)


def test_every_line_is_json_of_finite_numbers(tmp_path):
    """Losses of 800 nats too; read by json here, and by pandas where it is installed."""
    logs = {"eval_log_forget": LOG}
    path = tmp_path / "records.jsonl"
    write_jsonl(path, record_lines({"base": logs, "gold": logs}))

    def refuse(name):
        raise AssertionError(name)

    lines = [
        json.loads(line, parse_constant=refuse)
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [(line["model"], line["index"]) for line in lines] == [
        ("base", 3),
        ("base", 11),
        ("gold", 3),
        ("gold", 11),
    ]
    assert lines[1]["truth_ratio_score"] == 0.0 and lines[1]["log_truth_ratio"] == 900.0
    assert all(
        len(set(map(type, column))) == 1 for column in zip(*map(dict.values, lines), strict=True)
    )


def test_pandas_reads_it_in_a_line(tmp_path):
    pandas = pytest.importorskip("pandas", reason="the parity extra is not installed")
    path = tmp_path / "records.jsonl"
    write_jsonl(path, record_lines({"base": {"eval_log_forget": LOG}}))
    table = pandas.read_json(path, lines=True)
    assert list(table["index"]) == [3, 11] and table["nll"][1] == 800.0
    assert list(table.columns) == list(RecordLine.__annotations__)
