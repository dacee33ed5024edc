"""Each process saves the rows that it has, and any number of processes goes on with them.

A process that is killed in a save leaves the checkpoint before in use. Of a file that was changed
the checkpoint before is used too.

Run: python -m pytest tests/loop/test_sharded_checkpoints.py
"""

import json

import pytest
import torch

from clear_ref.common.errors import Notice, UserError
from clear_ref.loop.checkpoint import Checkpoints
from clear_ref.loop.checkpoint_files import Rows, fill_rows, write_file
from clear_ref.loop.saving import Saving
from clear_ref.loop.stage import trainable
from tests.helpers import distributed_cases as cases
from tests.helpers import warm_processes
from tests.helpers.checkpoints import indexes
from tests.helpers.stopped_training import Stopped, stopped_after

# As in test_distributed.py: weights that no record uses get AdamW's weight decay under FSDP2.
TOLERANCE = 8e-5


def parts(n_rows, n):
    """[first row, row after the last] of n processes, as torch.chunk cuts; some may have none."""
    per = -(-n_rows // n)
    return [[min(i * per, n_rows), min((i + 1) * per, n_rows)] for i in range(n)]


def tensors():
    """Rows for all processes, for some, and no rows at all."""
    made = {
        "a": torch.arange(14.0).view(7, 2),
        "b": torch.arange(2.0),
        "c": torch.arange(12, dtype=torch.float64).view(4, 1, 3),
    }
    return made, {"step": torch.tensor(5.0), "whole": torch.arange(3.0)}


def written(directory, n):
    """The state of a checkpoint that n processes wrote; n = 0: whole, by one."""
    shared, in_first = tensors()
    ranges = {name: parts(len(each), n) for name, each in shared.items()} if n else {}
    files = {}
    for number in range(max(n, 1)):
        own = {name: each[slice(*ranges[name][number])] for name, each in shared.items() if n}
        own |= {} if n else shared
        own |= {} if number else in_first
        files[f"{number}.safetensors"] = write_file(directory / f"{number}.safetensors", own)
    return {"files": files, "ranges": ranges}


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("m", [1, 2, 4, 9])
def test_any_number_of_processes_reads_the_rows_of_any_other(n, m, tmp_path):
    state = written(tmp_path, n)
    shared, in_first = tensors()
    for number in range(m):
        wanted, expected = {}, shared | in_first
        for name, each in expected.items():
            begin, end = parts(len(each), m)[number] if name in shared else (0, None)
            own = each[begin:end] if each.dim() else each
            wanted[name] = Rows(torch.full_like(own, -1), begin, tuple(each.shape))
            expected = expected | {name: own}
        fill_rows(tmp_path, state, wanted)
        assert all(torch.equal(wanted[name].local, expected[name]) for name in wanted)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda ranges: ranges.pop("a"), "misshapen 1: a is"),
        (lambda ranges: ranges.update(a=[[0, 3], [3, 7]]), "misshapen 1: a is"),
        (lambda ranges: ranges.update(step=[[0, 1], [1, 2]]), "misshapen 1: step is"),
    ],
)
def test_ranges_that_are_not_those_of_the_files_are_refused(change, message, tmp_path):
    state = written(tmp_path, 2)
    shared, in_first = tensors()
    change(state["ranges"])
    wanted = {
        name: Rows(torch.full_like(each, -1), 0, tuple(each.shape))
        for name, each in (shared | in_first).items()
    }
    with pytest.raises(UserError, match=message):
        fill_rows(tmp_path, state, wanted)
    assert all((rows.local == -1).all() for rows in wanted.values())


@pytest.fixture(scope="module")
def straight(tiny_directory):
    """What one process trains without a stop."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    vlm, _ = cases.train(tiny_directory, "scrub", "original", rank=0)
    torch.set_num_threads(before)
    return {name: each.detach().clone() for name, each in trainable(vlm).items()}


def gap(one, other):
    """The norm of the difference in units of the first one's norm."""
    assert one.keys() == other.keys() and one
    difference = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return (difference / sum(float(each.square().sum()) for each in one.values())) ** 0.5


@pytest.mark.slow
def test_a_process_killed_in_a_save_leaves_the_checkpoint_before_in_use(
    straight, tiny_directory, tmp_path
):
    """One process begins, four go on, one of them is killed in the save after step 8; one goes on.

    Four processes save after step 3, when the first one's clock says so, and after step 4, the end
    of an epoch. Each has about a quarter of the rows.
    """
    out = tmp_path / "run"
    with stopped_after(2), pytest.raises(Stopped):
        cases.train(
            tiny_directory, "scrub", "original", out, rank=0, saving=Saving(steps=1, keep=2)
        )
    done = warm_processes.run("tests.helpers.sharded_training", tiny_directory, out, n=4)
    assert done.returncode == 1
    folder = out / "checkpoint"
    three, four = (json.loads(path.read_text()) for path in indexes(folder))
    assert [three["step"], four["step"]] == [3, 4]
    assert [name[-9:] for name in folder_files(folder, 8)] == [
        "1of4.safe",
        "2of4.safe",
        "3of4.safe",
    ]
    sizes = [path.stat().st_size for path in folder.glob("state-*-000004-*")]
    assert len(sizes) == 4 == len(four["files"]) and max(sizes) < 0.3 * sum(sizes)
    for state, damaged in ((four, False), (three, True)):
        if damaged:
            path = folder / list(four["files"])[2]
            path.write_bytes(path.read_bytes()[:-1])
            with pytest.warns(Notice, match="-3of4.*changed after it was written.*step 3 is used"):
                assert whole_step(folder) == state["step"]
        else:
            assert whole_step(folder) == state["step"]
    with pytest.warns(Notice, match="the checkpoint of step 3 is used"):
        vlm, _ = cases.train(tiny_directory, "scrub", "original", out, resume=True, rank=0)
    assert gap(straight, {name: each.detach() for name, each in trainable(vlm).items()}) < TOLERANCE
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["state-scrub-000008.json", "state-scrub-000008.safetensors"]


def folder_files(folder, step):
    return sorted(path.stem[-4:] + path.suffix[:5] for path in folder.glob(f"state-*-{step:06d}-*"))


def whole_step(folder):
    """The step of the newest whole checkpoint."""
    return Checkpoints(folder, "scrub", [4, 8], 2).newest()["step"]
