"""A training state that was changed after it was written is refused, and nothing is restored."""

import json

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.loop import checkpoint

FILE = "state-npo-000002.safetensors"


@pytest.fixture
def saved(tmp_path):
    tensors = {"parameter/a": torch.arange(6.0), "step/a": torch.tensor(2.0)}
    checkpoint.save(tmp_path, stage="npo", step=2, n_steps=6, epoch=1, tensors=tensors)
    return tmp_path


def empty():
    return {"parameter/a": torch.zeros(6), "step/a": torch.tensor(0.0)}


def test_a_state_is_restored(saved):
    tensors = empty()
    checkpoint.restore(saved, tensors)
    assert torch.equal(tensors["parameter/a"], torch.arange(6.0)) and tensors["step/a"] == 2


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("step", 3, "other values or another file"),
        ("n_steps", 7, "other values or another file"),
        ("epoch", 2, "other values or another file"),
        ("stage", "dpo", "other values or another file"),
        ("sha256", "0" * 64, "other values or another file"),
        ("step", 7, "at step 7 of 6"),
        ("step", -1, "at step -1 of 6"),
        ("epoch", -1, "epoch -1"),
        ("step", True, "is not the state of a checkpoint"),
        ("sha256", None, "is not the state of a checkpoint"),
        ("tensors", "../" + FILE, "is not the state of a checkpoint"),
        ("tensors", "a\0b", "is not the state of a checkpoint"),
    ],
)
def test_a_changed_value_is_refused(key, value, message, saved):
    path = saved / checkpoint.STATE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    tensors = empty()
    with pytest.raises(UserError, match=message):
        checkpoint.restore(saved, tensors)
    assert not tensors["parameter/a"].any()


def test_a_changed_tensor_is_refused(saved):
    data = bytearray((saved / FILE).read_bytes())
    data[-3] ^= 1
    (saved / FILE).write_bytes(data)
    tensors = empty()
    with pytest.raises(UserError, match="state.json was written with other values"):
        checkpoint.restore(saved, tensors)
    assert not tensors["parameter/a"].any()


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
    ],
)
def test_a_state_is_at_a_step_of_the_plan_with_its_epochs(step, n_steps, epoch, good, tmp_path):
    """Three epochs of five steps. Step 7 of epoch 0 trained to step 22 of 15 before."""
    state = {"step": step, "n_steps": n_steps, "epoch": epoch}
    if good:
        checkpoint.check_plan(tmp_path, state, 15, [5, 10, 15])
        return
    with pytest.raises(UserError, match="expected a step of this run, which has 15"):
        checkpoint.check_plan(tmp_path, state, 15, [5, 10, 15])
