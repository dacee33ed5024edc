"""`bench`: what it reports, that every peer computes the same loss, and what it refuses.

The logits are tiny, so the times mean nothing. Expected losses are the float64 definitions of
token_terms_inputs.reference, which test_reference_is_the_definition computes a second time.
Run: python -m pytest tests/bench/test_bench_token_terms.py
"""

import json
from dataclasses import replace

import pytest
import torch

from clear_ref.bench import token_terms, token_terms_text
from clear_ref.bench.settings import PEER_NAMES, BenchSettings
from clear_ref.bench.token_terms_inputs import make_inputs, reference
from clear_ref.bench.token_terms_peers import PEERS
from clear_ref.bench.token_terms_worker import ready
from clear_ref.common.errors import UserError
from clear_ref.losses import native

OURS = "ours native" if native.built() else "ours torch"
TINY = BenchSettings(rows=8, vocabulary=64, rounds=2, dtype="float32", peers=f"{OURS},eager")
CPU = torch.device("cpu")
JOB = {"rows": 8, "vocabulary": 64, "dtype": "float32", "peers": []}
UNCOMPILED = [
    name for name, peer in PEERS.items() if not peer.needs_gpu and not name.startswith("compile")
]


def test_help_names_the_peers_that_there_are():
    assert tuple(PEERS) == PEER_NAMES


@pytest.fixture(scope="module")
def found():
    """What `bench` measures: five processes."""
    return json.loads(json.dumps(token_terms.run(TINY)))


@pytest.mark.slow
def test_report_has_the_documented_keys(found):
    assert {
        "command",
        "task",
        "inputs",
        "settings",
        "hardware",
        "versions",
        "kernel",
        "measurements",
        "memory",
        "scaling",
    } <= set(found)
    assert found["hardware"]["cpu"] and found["versions"]["torch"]
    assert [one["allocator"] for one in found["measurements"]] == ["default", "heap kept"]
    assert {one["dtype"] for one in found["measurements"]} == {"float32"}
    for one in found["measurements"]:
        assert (
            one["bandwidth"]["copy"] > 1e8
            and one["bandwidth"]["read"] > 1e8
            and one["floor_ms"] > 0
        )
        assert len(one["inputs_sha256"]) == 64 and list(one["peers"]) == [OURS, "eager"]
        for peer in one["peers"].values():
            assert peer["loss_error"] < 1e-5  # fp32 sums of 8 rows of 64
            for key in ("forward_ms", "backward_ms", "both_ms", "cpu_ms"):
                assert 0 <= peer[key]["p20"] <= peer[key]["median"] <= peer[key]["p80"]
        eager, ours = (one["peers"][name] for name in ("eager", OURS))
        if native.built():
            assert ours["slower"] == 1 and eager["slower"] == pytest.approx(
                eager["both_ms"]["median"] / ours["both_ms"]["median"]
            )
        else:
            assert ours["slower"] is eager["slower"] is None
    assert all(
        peak["bytes"] >= 0 and peak["tensors"] is None
        for peak in found["memory"]["float32"].values()
    )
    assert found["command"] == (
        "python -m clear_ref.run bench --rows 8 --vocabulary 64 --dtype float32 --rounds 2 "
        f"--peers '{OURS},eager'"
    )
    table = token_terms_text.text(found)
    assert OURS in table
    assert "to native" in table
    assert max(map(len, table.splitlines())) < 200


@pytest.mark.slow
@pytest.mark.parametrize("dtype, within", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_every_peer_computes_the_task(dtype, within):
    """And the same gradient as eager in float64: a faster peer computes all of it."""
    inputs = make_inputs(JOB | {"dtype": dtype}, CPU)
    wanted = reference("all", inputs["all"])
    names = [name for name in UNCOMPILED if native.built() or name != "ours native"]
    losses, values, absent = ready(names, inputs, CPU)
    assert not absent
    student, labels, teacher = inputs["all"]
    wide = student.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(PEERS["eager"].make()(wide, labels, teacher.double()), wide)
    for name, loss in losses.items():
        assert abs(values[name] - wanted) < within * abs(wanted), name
        (gradient,) = torch.autograd.grad(loss(*inputs["all"]), student)
        assert (gradient.double() - exact).abs().max() < within * exact.abs().max(), name


def test_reference_is_the_definition():
    student, labels, teacher = make_inputs(JOB, CPU)["all"]
    p, q = student.detach().double().softmax(-1), teacher.double().softmax(-1)
    kept = [i for i in range(8) if int(labels[i]) != -100]
    assert len(kept) == 7
    wanted = sum(-float(p[i, labels[i]].log()) for i in kept) / 7 + float(
        (q * (q / p).log()).sum() + (p * (p / q).log()).sum()
    )
    assert abs(reference("all", (student, labels, teacher)) - wanted) < 1e-12 * wanted


def test_peers_of_a_gpu_are_absent_with_the_reason():
    losses, _, absent = ready(["liger", "cut cross-entropy"], {}, CPU)
    assert (
        not losses
        and set(absent) == {"liger", "cut cross-entropy"}
        and absent["liger"] == {"absent": "needs a GPU"}
    )


def test_a_peer_that_is_faster_is_called_so():
    """20 ms beside 25 ms of the native kernel: 0.8 as long, 1.25 times as fast."""

    def shown(slower):
        times = dict.fromkeys(("median", "p20", "p80"), 20.0)
        columns = dict.fromkeys(("forward_ms", "backward_ms", "both_ms", "cpu_ms"), times)
        peer = {**columns, "slower": slower, "forward_over_floor": 1.0, "loss_error": 0.0}
        cells = token_terms_text.cells("ours one pass", peer, {"tensors": 1.0})
        return next(cell for cell in cells if " x " in cell)

    assert shown(0.8) == "1.2 x faster" and shown(1.26) == "1.3 x slower"


def test_ratio_and_floor():
    """Made-up times: 3 ms beside 2 ms; 2 tensors of 1 MB at 1 GB/s take 2 ms."""

    def peer(ms):
        return {"task": "all", "forward_ms": {"median": ms}, "both_ms": {"median": ms}}

    found = token_terms.compared(
        {"ours native": peer(2.0), "eager": peer(3.0), "liger": {"absent": "x", "task": "all"}},
        {"copy": 1.0, "read": 1e9},
        10**6,
        on_gpu=False,
    )
    assert found["floor_ms"] == pytest.approx(2) and found["peers"]["eager"]["slower"] == 1.5
    assert (
        found["peers"]["ours native"]["forward_over_floor"] == pytest.approx(1)
        and "slower" not in found["peers"]["liger"]
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not native.built(), reason="clear_ref was installed without the compiled kernel"
)
def test_threads_are_compared_in_turns_and_shown(found):
    times = found["scaling"]["float32"]
    for key in ("median", "min"):
        assert times["speedup"][key] == pytest.approx(times["1"][key] / times["2"][key])
    for threads in "12":
        assert 0 < times[threads]["min"] <= times[threads]["median"] and times[threads]["cpu"] > 0
    assert f"{times['speedup']['median']:.2f} x; least" in token_terms_text.text(found)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"peers": "eager,apex"}, "peers names 'apex'; expected all, or some of: ours native"),
        ({"peers": "eager,eager"}, "peers names 'eager' twice"),
        ({"dtype": "float64"}, "dtype is 'float64'; expected float32, bfloat16 or both"),
        ({"rows": 0}, "rows is 0; expected 1 or more"),
        ({"rounds": 0}, "rounds is 0; expected 1 or more"),
        ({"device": "tpu"}, "device is 'tpu'; expected cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "device is 'cuda:99'; expected one of the"),
    ],
)
def test_bad_settings_are_refused_in_one_line(given, message):
    with pytest.raises(UserError) as error:
        token_terms.run(replace(TINY, **given))
    assert message in str(error.value) and "\n" not in str(error.value)
