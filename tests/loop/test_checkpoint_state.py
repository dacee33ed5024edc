"""Of several checkpoints the newest whole one is used, with a line about each that is not.

A checkpoint is whole if nothing of it was changed, cut or removed, and if it is one of this run.
With none left nothing is restored. A kill between any two files of a save loses no checkpoint.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from clear_ref.common.errors import Notice, UserError
from clear_ref.loop.checkpoint import Checkpoints, read_into, write_kept
from clear_ref.loop.checkpoint_index import check_step
from clear_ref.loop.sharding import rows_of

EPOCH_ENDS = [3, 6]
INDEX, FILE = "state-npo-000002.json", "state-npo-000002.safetensors"


def checkpoints(run, stage="npo", keep=1):
    return Checkpoints(run / "checkpoint", stage, EPOCH_ENDS, keep)


def values(step):
    """Tensors of three shapes and dtypes; another dtype is in the middle of the names."""
    return {
        "parameter/a": torch.arange(6.0).view(3, 2) + step,
        "parameter/b": torch.arange(5, dtype=torch.float64) - step,
        "step/a": torch.tensor(float(step)),
    }


def write(run, steps, keep=1, stage="npo"):
    """Save after each of these steps; trace.jsonl has ten bytes for each step."""
    run.mkdir(exist_ok=True)
    ours = checkpoints(run, stage, keep)
    for step in steps:
        (run / "trace.jsonl").write_bytes(b"." * 10 * step)
        ours.save(step, 10 * step, values(step))
    return run


def restored(run, keep=1):
    """The step that is restored, with its values; None: there is no checkpoint."""
    ours = checkpoints(run, keep=keep)
    state = ours.newest()
    if state is None:
        return None
    tensors = {name: torch.zeros_like(each) for name, each in values(0).items()}
    ours.restore(state, rows_of(tensors, {}))
    assert all(torch.equal(tensors[name], each) for name, each in values(state["step"]).items())
    return state["step"]


def names(run):
    return sorted(path.name for path in (run / "checkpoint").iterdir())


@pytest.mark.parametrize("keep, left", [(1, [5]), (2, [4, 5]), (3, [2, 4, 5]), (9, [1, 2, 4, 5])])
def test_the_newest_stay_and_a_resumed_run_goes_on_counting_them(keep, left, tmp_path):
    write(tmp_path / "run", (1, 2), keep)
    assert restored(tmp_path / "run", keep) == 2
    ours = checkpoints(tmp_path / "run", keep=keep)
    ours.newest()
    for step in (4, 5):
        (tmp_path / "run" / "trace.jsonl").write_bytes(b"." * 10 * step)
        ours.save(step, 10 * step, values(step))
    expected = [
        f"state-npo-00000{step}.{kind}" for step in left for kind in ("json", "safetensors")
    ]
    assert names(tmp_path / "run") == expected
    assert restored(tmp_path / "run", keep) == 5


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def change_byte(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def remove(path):
    path.unlink()


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def change(key, value):
    def changed(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return changed


DAMAGES = [
    (cut, FILE, "changed after it was written"),
    (change_byte, FILE, "changed after it was written"),
    (remove, FILE, "no such file"),
    (replace_by_directory, FILE, "is a directory; expected a file"),
    (replace_by_directory, INDEX, "is a directory; expected a file"),
    (cut, INDEX, "not JSON"),
    (change("step", 3), INDEX, "changed after it was written"),
    (change("n_steps", 7), INDEX, "changed after it was written"),
    (change("epoch", 2), INDEX, "changed after it was written"),
    (change("stage", "dpo"), INDEX, "changed after it was written"),
    (change("trace_bytes", 3), INDEX, "changed after it was written"),
    (change("sha256", "0" * 64), INDEX, "changed after it was written"),
    (change("files", {FILE: "0" * 64}), INDEX, "changed after it was written"),
    (change("ranges", {"parameter/a": [[0, 2]]}), INDEX, "changed after it was written"),
    (change("ranges", {"parameter/a": [[1, 2]]}), INDEX, "is not the state of a checkpoint"),
    (change("ranges", {"parameter/a": [[0, 2], [2, 3]]}), INDEX, "is not the state"),
    (change("step", True), INDEX, "is not the state of a checkpoint"),
    (change("sha256", None), INDEX, "is not the state of a checkpoint"),
    (change("files", {}), INDEX, "is not the state of a checkpoint"),
    (change("files", {"../" + FILE: "0" * 64}), INDEX, "is not the state of a checkpoint"),
    (change("files", {"a\0b": "0" * 64}), INDEX, "is not the state of a checkpoint"),
]


@pytest.mark.parametrize("damage, name, message", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(damage, name, message, tmp_path):
    """With none before, the run is refused and nothing is restored."""
    alone, two = write(tmp_path / "alone", (2,)), write(tmp_path / "two", (1, 2), keep=2)
    for run in (alone, two):
        damage(run / "checkpoint" / name)
    with pytest.raises(UserError, match=f"{message}.*: start a new run") as error:
        restored(alone)
    assert "\n" not in str(error.value) and str(alone / "checkpoint") in str(error.value)
    with pytest.warns(Notice, match=f"{message}.*the checkpoint of step 1 is used") as said:
        assert restored(two) == 1
    assert len(said) == 1


def test_an_index_is_removed_before_the_tensor_files_that_it_names(tmp_path, monkeypatch):
    """So a kill between two removals leaves no checkpoint that looks whole and is not."""
    run = write(tmp_path / "run", (1, 2), keep=2)
    removed, unlink = [], Path.unlink

    def noted(path, **named):
        unlink(path, **named)
        removed.append(path.name)
        for index in (run / "checkpoint").glob("state-*.json"):
            files = json.loads(index.read_text())["files"]
            assert all((run / "checkpoint" / name).exists() for name in files), path

    monkeypatch.setattr(Path, "unlink", noted)
    (run / "trace.jsonl").write_bytes(b"." * 30)
    checkpoints(run).save(3, 30, values(3))
    assert sum(name.startswith("state") for name in removed) == 4
    assert names(run) == [
        INDEX.replace("2.", "3."),
        FILE.replace("2.", "3."),
    ]


def test_a_damaged_checkpoint_is_removed_after_the_next_save(tmp_path):
    """Also where the training then makes fewer steps than the damaged one had."""
    run = write(tmp_path / "run", (1, 4))
    write(tmp_path / "other", (1, 4), keep=2)
    shutil.copytree(tmp_path / "other" / "checkpoint", run / "checkpoint", dirs_exist_ok=True)
    change_byte(run / "checkpoint" / "state-npo-000004.safetensors")
    ours = checkpoints(run)
    with pytest.warns(Notice, match="step 1 is used"):
        assert ours.newest()["step"] == 1
    ours.save(2, 20, values(2))
    assert names(run) == [INDEX, FILE]
    assert restored(run) == 2


@pytest.mark.parametrize(
    "step, n_steps, epoch, good",
    [
        (0, 15, 0, True),
        (5, 15, 1, True),
        (15, 15, 3, True),
        (7, 15, 1, True),
        (7, 15, 0, False),
        (7, 15, 2, False),
        (5, 15, 2, False),
        (5, 12, 1, False),
        (15, 15, 99, False),
        (20, 15, 3, False),
        (-1, 15, 0, False),
    ],
)
def test_a_state_is_at_a_step_of_the_plan_with_its_epochs(step, n_steps, epoch, good, tmp_path):
    """Three epochs of five steps. Step 7 of epoch 0 trained to step 22 of 15 before."""
    state = {"step": step, "n_steps": n_steps, "epoch": epoch}
    if good:
        check_step(tmp_path, state, 15, [5, 10, 15])
        return
    with pytest.raises(UserError, match="expected a step of this run, which has 15"):
        check_step(tmp_path, state, 15, [5, 10, 15])


def test_a_checkpoint_of_another_plan_or_of_a_longer_trace_is_not_used(tmp_path):
    run = write(tmp_path / "run", (2,))
    with pytest.raises(UserError, match="at step 2 of 6 after epoch 0; expected a step of this"):
        Checkpoints(run / "checkpoint", "npo", [1, 2]).newest()
    (run / "trace.jsonl").write_bytes(b"." * 19)
    with pytest.raises(UserError, match="has 19 bytes; expected 20 or more"):
        restored(run)


def test_the_checkpoint_of_another_stage_is_none_of_this_one(tmp_path):
    run = write(tmp_path / "run", (2,), stage="npo reference")
    assert restored(run) is None
    write(run, (1,))
    assert names(run) == ["state-npo-000001.json", "state-npo-000001.safetensors"]


class Killed(BaseException):
    """What ends the save."""


@pytest.mark.parametrize("call", range(9))
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(
    keep, call, tmp_path, monkeypatch
):
    """Killed before the call'th change of a name in the directory; then the save is made again."""
    run = write(tmp_path / "run", (1, 2), keep)
    ours = checkpoints(run, keep=keep)
    ours.newest()
    (run / "trace.jsonl").write_bytes(b"." * 30)
    calls = [0]

    def counted(original):
        def called(*arguments, **named):
            calls[0] += 1
            if calls[0] > call:  # a killed process does nothing more
                raise Killed
            return original(*arguments, **named)

        return called

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", counted(__import__("os").replace))
        patch.setattr("pathlib.Path.unlink", counted(__import__("pathlib").Path.unlink))
        try:
            ours.save(3, 30, values(3))
        except Killed:
            pass
    assert restored(run, keep) == (3 if (run / "checkpoint/state-npo-000003.json").exists() else 2)
    again = checkpoints(run, keep=keep)
    again.newest()
    again.save(3, 30, values(3))
    expected = (2, 3)[-keep:]
    left = [
        f"state-npo-00000{step}.{kind}" for step in expected for kind in ("json", "safetensors")
    ]
    assert [name for name in names(run) if not name.endswith(".unfinished")] == left
    assert restored(run, keep) == 3


def test_a_state_of_an_older_build_is_restored_and_then_replaced(tmp_path):
    """state.json as the build of 2026-11-28 wrote it: its hash is of its values and its file."""
    run = write(tmp_path / "run", (2,))
    (run / "checkpoint" / INDEX).unlink()
    old = {"stage": "npo", "step": 2, "n_steps": 6, "epoch": 0, "tensors": FILE}
    text = "".join(f"{key}={value}\n" for key, value in old.items())
    of_file = hashlib.sha256((run / "checkpoint" / FILE).read_bytes()).hexdigest()
    digest = hashlib.sha256(f"{text}{of_file}\n".encode()).hexdigest()
    path = run / "checkpoint" / "state.json"
    path.write_text(json.dumps(old | {"sha256": digest}))
    assert restored(run) == 2
    for key, value in (("step", 3), ("stage", "dpo"), ("tensors", "other"), ("epoch", None)):
        path.write_text(json.dumps(old | {"sha256": digest, key: value}))
        with pytest.raises(UserError, match="start a new run"):
            restored(run)
    path.write_text(json.dumps(old | {"sha256": digest}))
    ours = checkpoints(run)
    ours.newest()
    ours.save(3, 30, values(3))
    assert names(run) == ["state-npo-000003.json", "state-npo-000003.safetensors"]


@pytest.mark.parametrize("damage", [cut, change_byte])
def test_kept_weights_are_those_that_were_written_or_refused(damage, tmp_path):
    """DPO's reference and the weights of the best evaluation. Without its hash a file is whole: a
    kill came between the two.
    """
    path, tensors = tmp_path / "reference.safetensors", values(3)
    write_kept(path, tensors)
    found = {name: torch.zeros_like(each) for name, each in tensors.items()}
    read_into(found, path)
    assert all(torch.equal(found[name], each) for name, each in tensors.items())
    path.with_suffix(".json").unlink()
    read_into(found, path)
    write_kept(path, tensors)
    damage(path)
    with pytest.raises(UserError, match="reference.*changed after.*: start a new run"):
        read_into(found, path)
