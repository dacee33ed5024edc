"""Several processes train and evaluate as one does: losses, gradients, adapters, logs, resume.

Every variant of every method, in float64: a sum of n numbers in another order differs by at most
n 2^-53 of the sum of their absolute values. A gradient here sums about 600 rows, and up to 100
times more than its result is cancelled (a forget term against a retain term): 600 x 1.1e-16 x 100
is below 1e-11. Means that each process takes of its own rows differ by 1e-2 and more.

Run: python -m pytest tests/loop/test_distributed.py
"""

import json
import math
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clear_ref import load
from clear_ref.evaluation.membership_scores import GRADIENT_NORM
from clear_ref.loop.stage import trainable
from tests.helpers import distributed_cases as cases
from tests.helpers import warm_processes

TOLERANCE = 1e-11
# AdamW divides each gradient by its size, so 1e-11 becomes at most 1e-8 of the weights. With FSDP2
# weights that no record uses get a gradient of 0 instead of none, and so AdamW's weight decay:
# lr 1e-3 x 0.01 in each of 8 steps.
TRAINED_TOLERANCE = {2: 1e-8, 0: 8e-5}
pytestmark = pytest.mark.slow


def results(directory, out, kind, n):
    """(numbers, tensors) of the cases of a kind, done by n processes."""
    done = warm_processes.run("tests.helpers.distributed_cases", directory, out, kind, n=n)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    return numbers, load_file(f"{out}.safetensors"), done


@contextmanager
def one_thread():
    """Inside the block torch has one thread, as the processes that torchrun starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(tiny_directory, tmp_path_factory):
    """What two processes give; they resume a training that one process began."""
    out = tmp_path_factory.mktemp("two") / "cases"
    for rank in (0, 2):
        assert cases.stopped(tiny_directory, Path(f"{out}.begun{rank}"), rank)[0]["stopped"]
    return *results(tiny_directory, out, "two", 2), out


@pytest.fixture(scope="module")
def one(tiny_directory):
    """What one process gives: the steps, and the trainings."""
    with one_thread():
        numbers, gradients = cases.steps(tiny_directory)
        n_steps, trained = cases.trainings(tiny_directory)
    return json.loads(json.dumps({"steps": numbers, "trainings": n_steps})), gradients | trained


@pytest.fixture(scope="module")
def one_evaluations(tiny_directory):
    """What one process gives: logs, membership scores, a relearning."""
    with one_thread():
        return json.loads(json.dumps(cases.evaluations(tiny_directory)[0]))


def check_evaluations(found, expected):
    """Equal bytes of logs and membership scores; a relearning trains, so it is equal to 1e-8."""
    assert json.dumps(found["logs"]) == json.dumps(expected["logs"])
    assert json.dumps(found["membership"]) == json.dumps(expected["membership"])
    for line, wanted in zip(found["relearning"], expected["relearning"], strict=True):
        assert line.keys() == wanted.keys()
        for name in wanted.keys() - {"drawn"}:
            assert line[name] == pytest.approx(wanted[name], rel=1e-8)
        drawn, wanted_drawn = (one.get("drawn", {}) for one in (line, wanted))
        assert drawn.keys() == wanted_drawn.keys()
        for name in wanted_drawn:
            assert drawn[name] == pytest.approx(wanted_drawn[name], rel=1e-8)


def distance(one, other):
    """The norm of the difference of two sets of tensors, in units of the first one's norm."""
    assert one.keys() == other.keys() and one
    difference = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return math.sqrt(difference / sum(float(each.square().sum()) for each in one.values()))


def check_step(found, expected):
    """Equal loss, named terms and number of answer tokens, for each phase."""
    assert found.keys() == expected.keys()
    for phase, (loss, terms, n_tokens) in expected.items():
        assert found[phase][2] == n_tokens
        assert found[phase][0] == pytest.approx(loss, rel=TOLERANCE, abs=1e-12, nan_ok=True)
        assert found[phase][1] == pytest.approx(terms, rel=TOLERANCE, abs=1e-12, nan_ok=True)


def starting_with(tensors, key):
    """{rest of the name: tensor} of the tensors whose names begin with the key."""
    start = f"{key}/"
    return {
        name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)
    }


@pytest.mark.parametrize("method, semantics", cases.variants())
def test_loss_terms_and_gradient_of_a_step_are_those_of_one_process(method, semantics, one, two):
    """Whole batches for each process, and one batch that is cut with its padding."""
    keys = [key for key in one[0]["steps"] if key.startswith(f"{method} {semantics} ")]
    assert keys
    for key in keys:
        check_step(two[0]["steps"][key], one[0]["steps"][key])
        if all(math.isfinite(loss) for loss, *_ in one[0]["steps"][key].values()):
            gap = distance(starting_with(one[1], key), starting_with(two[1], key))
            assert gap < TOLERANCE


def test_only_one_formula_has_no_finite_loss(one):
    """The NPO of before 2025-03-30 is NaN where a log-ratio is below -1; both say so."""
    of_nan = {
        key
        for key, phases in one[0]["steps"].items()
        if not all(math.isfinite(loss) for loss, *_ in phases.values())
    }
    assert of_nan <= {"npo released@2024-12-10 cut", "npo released@nlp cut"}


def test_four_processes_of_which_one_has_no_record_too(tiny_directory, tmp_path):
    """A step of three records: the fourth process computes one again, with weight zero.

    Then a training of four such steps; in three of them the guards exchange what they see.
    """
    numbers, gradients, _ = results(tiny_directory, tmp_path / "cases", "four", 4)
    with one_thread():
        expected, wanted = cases.steps(tiny_directory, cases.OF_FOUR)
        vlm, _ = cases.train(tiny_directory, "kl", "paper")
    for key, step in json.loads(json.dumps(expected)).items():
        check_step(numbers["steps"][key], step)
        assert distance(starting_with(wanted, key), starting_with(gradients, key)) < TOLERANCE
    trained = {name: each.detach() for name, each in trainable(vlm).items()}
    assert distance(trained, starting_with(gradients, "kl paper 2")) < TRAINED_TOLERANCE[2]


@pytest.mark.parametrize(
    "method, semantics, rank",
    [*((*each, 2) for each in cases.TRAINED), *((*each, 0) for each in cases.FULL)],
)
def test_what_is_trained_is_that_of_one_process(method, semantics, rank, one, two):
    """Adapters (rank 2), and every weight (rank 0, shared out over the processes).

    Four steps or more of AdamW, with the reference, phases and second stage of the method.

    AdamW divides each gradient by its own size, so an entry whose gradient is near its rounding
    error moves by another part of a step: 1e-11 becomes at most 1e-8 of the weights.
    """
    key = f"{method} {semantics} {rank}"
    assert two[0]["trainings"][key] == one[0]["trainings"][key]
    assert (
        distance(starting_with(one[1], key), starting_with(two[1], key)) < TRAINED_TOLERANCE[rank]
    )


@pytest.mark.parametrize("rank", [2, 0])
def test_a_run_goes_on_with_another_number_of_processes(rank, one, two, tiny_directory, tmp_path):
    """One process begins and two go on; two begin and one goes on."""
    key = f"scrub original {rank}"
    wanted = starting_with(one[1], key)
    assert distance(wanted, starting_with(two[1], f"resumed {rank}")) < TRAINED_TOLERANCE[rank]
    assert two[0][f"stopped {rank}"] == {"stopped": True}
    shutil.copytree(f"{two[3]}.run{rank}", tmp_path / "begun")
    numbers, by_one = cases.resumed(tiny_directory, tmp_path / "begun", rank)
    assert distance(wanted, by_one) < TRAINED_TOLERANCE[rank]
    assert numbers["steps"] == two[0][f"resumed {rank}"]["steps"] == one[0]["trainings"][key]


def test_logs_and_membership_scores_have_the_same_bytes(two, one_evaluations):
    """Of any number of processes."""
    check_evaluations(two[0]["evaluations"], one_evaluations)


def test_a_parameter_that_is_not_exchanged_stops_the_run(two):
    """One that was replaced after DDP had seen the parameters."""
    assert "the gradient of" in two[0]["guard"]["guard"]
    assert "expected one gradient for all processes" in two[0]["guard"]["guard"]


def test_no_process_prints_anything_on_its_own(two):
    assert two[2].stdout == "" and "Warning" not in two[2].stderr


@pytest.fixture(scope="module")
def sharded(tiny_directory, tmp_path_factory):
    """What two processes give whose frozen decoder layers are shared out (--shard on).

    They resume a training that one process began with all weights.
    """
    out = tmp_path_factory.mktemp("sharded") / "cases"
    assert cases.stopped(tiny_directory, Path(f"{out}.begun2"), 2)[0]["stopped"]
    return *results(tiny_directory, out, "sharded", 2), out


@pytest.mark.parametrize("method, semantics", cases.SHARDED)
def test_a_step_with_frozen_weights_shared_out_is_that_of_one_process(
    method, semantics, one, sharded
):
    """Student, and teacher (adapters off): whole batches, and one that is cut."""
    keys = [key for key in one[0]["steps"] if key.startswith(f"{method} {semantics} ")]
    assert keys
    for key in keys:
        check_step(sharded[0]["steps"][key], one[0]["steps"][key])
        if all(math.isfinite(loss) for loss, *_ in one[0]["steps"][key].values()):
            gap = distance(starting_with(one[1], key), starting_with(sharded[1], key))
            assert gap < TOLERANCE


@pytest.mark.parametrize("method, semantics", cases.IN_CHUNKS)
def test_the_output_layer_is_whole_where_the_decoder_layers_are_shared_out(
    method, semantics, one, sharded
):
    """So more rows than are in memory at once are computed as in one process: fused_head.py."""
    found, key = sharded[0]["in chunks"], f"{method} {semantics} cut"
    assert found["fused"] >= 3  # retain of kl, both batches of scrub
    check_step(found["steps"][key], one[0]["steps"][key])
    gap = distance(starting_with(one[1], key), starting_with(sharded[1], f"in chunks/{key}"))
    assert gap < TOLERANCE


def test_a_run_on_shared_out_weights_is_resumed_with_and_without_them(
    one, sharded, tiny_directory, tmp_path
):
    """One process begins with all weights and two go on with parts; the other way round."""
    key = "scrub original 2"
    wanted = starting_with(one[1], key)
    assert distance(wanted, starting_with(sharded[1], "resumed")) < TRAINED_TOLERANCE[2]
    assert sharded[0]["stopped"] == {"stopped": True}
    shutil.copytree(f"{sharded[3]}.run2", tmp_path / "begun")
    numbers, by_one = cases.resumed(tiny_directory, tmp_path / "begun", 2)
    assert distance(wanted, by_one) < TRAINED_TOLERANCE[2]
    assert numbers == sharded[0]["resumed"] == {"steps": one[0]["trainings"][key]}


def test_four_processes_share_out_frozen_weights(tiny_directory, tmp_path, one):
    """24 and 40 rows are cut by four, keys of 12 rows too; the norms' 24 numbers as well."""
    numbers, gradients, _ = results(tiny_directory, tmp_path / "cases", "sharded four", 4)
    for method, semantics in cases.OF_FOUR:
        key = f"{method} {semantics} cut"
        check_step(numbers["steps"][key], one[0]["steps"][key])
        assert distance(starting_with(one[1], key), starting_with(gradients, key)) < TOLERANCE
    trained = starting_with(one[1], "kl paper 2")
    assert distance(trained, starting_with(gradients, "kl paper 2")) < TRAINED_TOLERANCE[2]


@pytest.mark.parametrize("method, semantics", cases.TRAINED)
def test_adapters_on_shared_out_weights_are_those_of_one_process(method, semantics, one, sharded):
    key = f"{method} {semantics} 2"
    assert sharded[0]["trainings"][key] == one[0]["trainings"][key]
    gap = distance(starting_with(one[1], key), starting_with(sharded[1], key))
    assert gap < TRAINED_TOLERANCE[2]


def test_each_process_holds_half_of_the_decoder_layers(sharded):
    """Exactly half of the numbers: all first dimensions (24, 40, 12) are even."""
    for own, whole in sharded[0]["held"]["numbers"]:
        assert 2 * own == whole > 0


def test_adapters_saved_from_shared_out_weights_are_whole(one, sharded, tiny_directory):
    """One process loads them onto the whole model: the values that the training ended with."""
    vlm = load(tiny_directory, "float64", adapter=f"{sharded[3]}.adapter")
    found = {name: each for name, each in vlm.model.named_parameters() if ".adapter." in name}
    assert distance(starting_with(one[1], "kl paper 2"), found) < TRAINED_TOLERANCE[2]


def test_evaluation_of_a_shared_out_model_is_that_of_one_process(sharded, one_evaluations):
    """All processes compute each record together: equal bytes of logs and membership scores.

    Norms of gradients are refused, since no process has whole weights.
    """
    membership = {
        kind: {name: scores for name, scores in found.items() if name != GRADIENT_NORM}
        for kind, found in one_evaluations["membership"].items()
    }
    check_evaluations(sharded[0]["evaluations"], one_evaluations | {"membership": membership})


def test_no_sharded_process_prints_anything_on_its_own(sharded):
    assert sharded[2].stdout == "" and "Warning" not in sharded[2].stderr
