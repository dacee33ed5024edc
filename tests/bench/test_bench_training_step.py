"""`bench --what step`: both ways compute the same, the report is complete, bad settings refused.

The shape is tiny, so the times mean nothing. Ours must equal the released way (transformers, PEFT),
which is another program.
Run: python -m pytest tests/bench/test_bench_training_step.py
"""

import json
import sys
from dataclasses import replace

import pytest
import torch

from clear_ref import run
from clear_ref.bench import generation_parts, training_step, training_step_text
from clear_ref.bench import training_step_inputs as step_inputs
from clear_ref.bench import training_step_worker as worker
from clear_ref.bench.settings import STEP_TASKS, BenchStepSettings
from clear_ref.bench.training_step_ways import Ours
from clear_ref.common.errors import UserError
from clear_ref.data.batches import IGNORE

TINY = BenchStepSettings(shape="tiny", tasks="grad_diff", rounds=1)
NEEDS_PARITY = ("transformers", "peft")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    made = tmp_path_factory.mktemp("step")
    step_inputs.write(made, "tiny")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("task", STEP_TASKS)
def test_both_ways_compute_the_same(task, directory):
    """fp32 sums of about ten thousand terms in another order.

    So losses and nll differ by at most 1e-6, all gradients together by at most 1e-5.
    """
    for name in NEEDS_PARITY:
        pytest.importorskip(name, reason="the parity extra is not installed")
    job = {"directory": directory, "shape": "tiny", "tasks": [task], "threads": 1, "rounds": 1}
    found = worker.time_job(job)["tasks"][task]["difference"]
    if task == "generate":
        assert found == {"ids": True}
    elif task == "likelihood":
        assert found["nll"] < 1e-6
    else:
        assert found["loss"] < 1e-6 and found["gradient"] < 1e-5


@pytest.mark.slow
def test_the_products_of_generation_are_those_counted_by_hand(directory):
    """A product of [m, k] with [k, n] has 2 m k n operations.

    3 prompts, 4 new tokens. Output layer: 4 times [3, 24] with [24, 32064]. New tokens: 3 times a
    decoder of 2 layers, each with 4 products [3, 24] with [24, 24] and 3 of 24 with 40.
    """
    prompts = step_inputs.make_inputs("tiny", "generate")["prompts"]
    parts = Ours(directory).generation_parts(prompts, 4)
    assert list(parts) == list(generation_parts.PARTS)
    assert parts["output layer"]["gflop"] == pytest.approx(4 * 2 * 3 * 24 * 32064 / 1e9)
    of_layer = 2 * 3 * (4 * 24 * 24 + 3 * 24 * 40)
    assert parts["decoder, new tokens"]["gflop"] == pytest.approx(3 * 2 * of_layer / 1e9)
    assert parts["rest"]["gflop"] == 0 and all(part["cpu_seconds"] > 0 for part in parts.values())
    line = training_step_text.parts_text(parts)[1]
    assert line.count("%") == 5 and "output layer" in line


def test_a_difference_is_found():
    """By hand: losses 1 and 1.1, the terms 3 and -2; gradients (3, 4) and (3, 4.5).

    The norm of the difference is 0.5, the released norm sqrt(29.25).
    """
    values = {"ours": {"loss": 1.0, "terms": {"a": 3.0, "b": -2.0}}, "released": {"loss": 1.1}}
    grads = {
        "ours": {"x": torch.tensor([3.0]), "y": torch.tensor([4.0])},
        "released": {"x": torch.tensor([3.0]), "y": torch.tensor([4.5])},
    }
    found = worker.compared("kl", values, grads)
    assert found["loss"] == pytest.approx(0.1 / 5) and found["gradient"] == pytest.approx(
        0.5 / 29.25**0.5
    )
    assert worker.compared("kl", values, {**grads, "ours": {"x": grads["ours"]["x"]}})[
        "gradient"
    ] == float("inf")
    assert worker.compared("generate", {"ours": [[1, 2]], "released": [[1, 3]]}, {}) == {
        "ids": False
    }
    assert worker.compared("likelihood", {"ours": [1.0, 2.0], "released": [1.0, 2.5]}, {}) == {
        "nll": pytest.approx(0.2)
    }


def test_inputs_are_what_the_report_says():
    """640 tokens, 40 of them answer, 576 of the picture; one record is 16 shorter.

    In the tasks that count padding, no record is shorter.
    """
    made = step_inputs.make_inputs("small", "llmu")
    for name in ("forget", "retain", "idk"):
        batch = made[name]
        assert batch.input_ids.shape == (2, 640) and batch.attention_mask.sum(1).tolist() == [
            640,
            624,
        ]
        assert (batch.input_ids == step_inputs.IMAGE).sum(1).tolist() == [576, 576]
        assert (batch.labels != IGNORE).sum(1).tolist() == [
            40,
            40,
        ] and batch.pixel_values.shape == (2, 3, 336, 336)
        assert torch.equal(batch.labels[:, -40:], batch.input_ids[:, -40:])
    assert torch.equal(made["forget"].input_ids[:, :-40], made["idk"].input_ids[:, :-40])
    assert not torch.equal(made["forget"].input_ids, made["idk"].input_ids)
    assert bool(step_inputs.make_inputs("small", "llmu all rows")["retain"].attention_mask.all())
    assert [len(ids) for _, ids in step_inputs.make_inputs("small", "likelihood")["questions"]] == [
        6,
        6,
    ]


@pytest.mark.slow
def test_report_has_the_documented_keys():
    found = json.loads(json.dumps(training_step.run(TINY)))
    assert {
        "command",
        "inputs",
        "settings",
        "hardware",
        "kernel",
        "versions",
        "absent",
        "tasks",
    } <= set(found)
    assert (
        found["command"]
        == "python -m clear_ref.run bench --what step --shape tiny --tasks grad_diff --rounds 1"
    )
    ours = found["tasks"]["grad_diff"]["ours"]
    assert 0 < ours["seconds"]["least"] <= ours["seconds"]["median"] <= ours["seconds"]["most"]
    assert (
        ours["peak"]["bytes"] >= 0 and ours["peak"]["weights_bytes"] > 4e6
    )  # 2 x 32064 x 24 numbers of 4 bytes and more
    table = training_step_text.text(found)
    assert "grad_diff" in table and "share" in table and max(map(len, table.splitlines())) < 200


@pytest.mark.slow
def test_a_missing_package_is_named_and_ours_is_measured(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    found = worker.time_job(
        {"directory": directory, "shape": "tiny", "tasks": ["kl"], "threads": 1, "rounds": 1}
    )
    # Where transformers is not installed, it is named as missing first.
    reason = found["absent"]["released"]["absent"]
    assert list(found["tasks"]["kl"]) == ["ours"] and ("peft" in reason or "transformers" in reason)
    measured = found["tasks"]["kl"]
    measured["ours"]["peak"] = {"bytes": 10**6, "weights_bytes": 2 * 10**6}
    assert training_step_text.cells("kl", training_step.summary(measured))[2:5] == ("-", "-", "-")


def test_shares_and_ratios_by_hand():
    """2 s beside 6 s; 10 MB beside 40 MB, with weights 10 + 20 beside 40 + 35."""

    def way(seconds, peak, weights):
        return {
            "seconds": [seconds],
            "cpu_seconds": [seconds / 2],
            "peak": {"bytes": peak, "weights_bytes": weights},
            "value": 0,
        }

    found = training_step.summary(
        {"ours": way(2.0, 10, 20), "released": way(6.0, 40, 35), "difference": {}}
    )
    assert found["faster"] == found["cpu_faster"] == pytest.approx(3)
    assert found["memory_share"] == 0.25 and found["share_with_weights"] == 0.4


@pytest.mark.parametrize(
    "given, message",
    [
        ({"shape": "huge"}, "shape is 'huge'; expected one of small, tiny"),
        ({"tasks": "kl,adam"}, "tasks names 'adam'; expected default, all, or some of: grad_diff"),
        ({"tasks": "kl,kl"}, "tasks names 'kl' twice"),
        ({"rounds": 0}, "rounds is 0; expected 1 or more"),
        ({"threads": 0}, "threads is 0; expected 1 or more"),
    ],
)
def test_bad_settings_are_refused_in_one_line(given, message):
    with pytest.raises(UserError) as error:
        training_step.run(replace(TINY, **given))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--what step --vocabulary 9", "--vocabulary is no setting of bench --what step"),
        ("--shape tiny", "--shape is no setting of bench --what kernel"),
    ],
)
def test_a_setting_of_the_other_benchmark_is_refused(words, message, capsys):
    assert run.main(["bench", *words.split()]) == 2
    assert message in capsys.readouterr().err
