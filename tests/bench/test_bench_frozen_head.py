"""`bench --what head`: every way computes the same gradient; the table shows what was measured.

The tensors are tiny, so the times mean nothing.
Run: python -m pytest tests/bench/test_bench_frozen_head.py
"""

import json

import pytest
import torch
import torch.nn.functional as F

from clear_ref import run
from clear_ref.bench import frozen_head
from clear_ref.bench.frozen_head_worker import CASES, WAYS, gradient, main, make_inputs
from clear_ref.data.batches import IGNORE

JOB = {"rows": 20, "width": 6, "vocabulary": 40, "dtype": "float32", "threads": 1, "rounds": 2}


@pytest.mark.parametrize("case", CASES)
def test_every_way_computes_the_same_gradient(case):
    """Expected: float64, by the definitions of softmax, cross-entropy and KL."""
    given = make_inputs(JOB | {"case": case})
    assert int((given.labels == IGNORE).sum()) == 2
    exact = given.rows(slice(None), torch.float64)
    p = (exact.hidden @ exact.weight.T).softmax(-1)
    labelled = (exact.labels != IGNORE).nonzero()[:, 0]
    w = exact.weights[labelled]
    loss = -(w * p[labelled, exact.labels[labelled]].log()).sum()
    if case != CASES[0]:
        q = (exact.teacher_hidden @ exact.weight.T).softmax(-1)
        log_ratio = (q / p).log()[labelled]
        kls = (q[labelled] * log_ratio).sum(-1), -(p[labelled] * log_ratio).sum(-1)
        loss = loss + (w.abs() * (kls[0] + kls[1] / 2)).sum()
    (wanted,) = torch.autograd.grad(loss, exact.hidden)
    for way in WAYS:
        if case == CASES[0] or way != "linear_cross_entropy":
            if way == "linear_cross_entropy" and not hasattr(F, way):
                continue
            apart = (gradient(way, given).double() - wanted).abs().max()
            assert apart < 1e-5 * wanted.abs().max(), way


def test_a_job_measures_each_way_in_every_round(monkeypatch):
    """Two rounds are kept of three; a way that torch lacks is absent with the reason."""
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    threads = torch.get_num_threads()
    found = main(json.dumps(JOB | {"case": CASES[0], "kind": "time", "ways": list(WAYS)}))
    torch.set_num_threads(threads)
    assert "linear_cross_entropy" in found.pop("linear_cross_entropy")["absent"]
    assert set(found) == {"ours", "ours, chunked", "eager"}
    for one in found.values():
        assert len(one["seconds"]) == len(one["wall"]) == 2 and 0 < one["error"] < 1e-5


def test_the_table_compares_medians_with_eager():
    def way(size, *seconds):
        return {"seconds": list(seconds), "wall": list(seconds), "error": 2e-7, "bytes": size}

    found = {
        "command": "bench",
        "hardware": {"cpu": "a CPU"},
        "kernel": {"instruction_set": None},
        "versions": {"python": "3", "torch": "2"},
        "settings": {"threads": 1, "rounds": 3, "rows": 9, "width": 2, "vocabulary": 3},
        "cases": [
            {
                "dtype": "float32",
                "loss": "nll",
                "ways": {
                    "ours": way(20_000_000, 1.0, 3.0, 2.0),
                    "eager": way(1_000_000_000, 4.0, 4.0, 5.0),
                    "linear_cross_entropy": {"absent": "not in this torch"},
                },
            }
        ],
    }
    lines = frozen_head.text(found).splitlines()
    (ours,) = [line.split() for line in lines if line.split()[:3] == ["float32", "nll", "ours"]]
    assert ours[3:] == ["2.00", "(1.00-3.00)", "0.50", "20", "2.0", "2e-07"]
    assert lines[-1] == "absent: linear_cross_entropy: not in this torch"
    assert not any("busy" in line for line in lines)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--rows 7", "rows is 7; expected 8 or more"),
        ("--width 0", "width is 0; expected 1 or more"),
        ("--dtype float64", "dtype is 'float64'; expected float32, bfloat16 or both"),
        ("--peers eager", "--peers is no setting of bench --what head"),
    ],
)
def test_bad_settings_are_one_line(words, message, capsys):
    assert run.main(["bench", "--what", "head", *words.split()]) == 2
    assert message in capsys.readouterr().err
