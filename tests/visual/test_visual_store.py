"""A kept result, cosines or a network that no training leaves is named, with what is expected and
how to train it again; none is averaged in.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from clear_ref.common.errors import UserError
from clear_ref.visual.head import Head
from clear_ref.visual.network import new_network
from clear_ref.visual.scores import DEFINITIONS
from clear_ref.visual.store import Result, Store

N_ROWS = 3
ACCURACY = {name: {"forget": 0.0, "holdout": None, "retain": 100.0} for name in DEFINITIONS}
COSINES = {
    "paper": np.array([1 + 1e-12, -1.0, np.nan]),
    "released": np.array([1.00001, -1, 0.5], np.float32),
}
AGAIN = ", and visual {} --resume --out DIR trains it again"


@pytest.fixture
def store(tmp_path):
    """A store with the base of split 2: values at the ends of their ranges."""
    found = Store(tmp_path)
    found.write_network(2, "base", new_network(2, 0), Head(N_ROWS, 16))
    found.write(2, "base", Result(ACCURACY, 1, 0.0), COSINES, [{"step": 1}])
    return found


def test_values_at_the_ends_of_their_ranges_are_read(store):
    assert store.result(2, "base") == Result(ACCURACY, 1, 0.0)
    found = store.cosines(2, "base", N_ROWS)
    assert all(np.array_equal(found[name], COSINES[name], equal_nan=True) for name in COSINES)
    assert store.network(2, "base", N_ROWS)[1].weight.shape == (N_ROWS, 16)


def of_paper(retain):
    """The accuracies with another one of paper's retain."""
    return ACCURACY | {"paper": ACCURACY["paper"] | {"retain": retain}}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"accuracy": of_paper(900)}, "accuracy.paper.retain is 900, expected a percentage from 0"),
        ({"accuracy": of_paper(-0.1)}, "accuracy.paper.retain is -0.1, expected a percentage"),
        ({"accuracy": of_paper(True)}, "accuracy.paper.retain is True, expected a percentage"),
        ({"accuracy": {}}, "accuracy.paper.forget is 'missing', expected a percentage"),
        ({"accuracy": 5}, "accuracy.paper.forget is 'missing', expected a percentage"),
        ({"split": 1}, "split is 1, expected 2"),
        ({"stage": "gold"}, "stage is 'gold', expected 'base'"),
        ({"steps": 0}, "steps is 0, expected a whole number above 0"),
        ({"seconds": -1}, "seconds is -1, expected a number, not below 0"),
    ],
)
def test_a_result_with_impossible_values_is_refused(store, changes, message):
    path = store.path(2, "base", "json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as error:
        store.result(2, "base")
    assert str(error.value).startswith(f"{path}: is not the result of split 2, base ({message}")
    assert str(error.value).endswith(f"; remove it{AGAIN.format('METHOD')}")


def test_a_result_that_is_not_json_is_not_to_be_fetched(store):
    store.path(2, "base", "json").write_text("{")
    with pytest.raises(UserError, match="is not the result of split 2, base .not JSON.*; remove"):
        store.result(2, "base")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"paper": np.full(N_ROWS, 5.0)}, "row 0 of paper is 5.0, expected a cosine from -1 to 1"),
        ({"paper": np.array([0, -1.1, 0])}, "row 1 of paper is -1.1, expected a cosine"),
        ({"released": np.full(N_ROWS, np.inf, np.float32)}, "row 0 of released is inf, expected"),
        ({"paper": np.ones(N_ROWS, np.int64)}, "paper is I64 [3], expected F64 [3]"),
        ({"released": np.ones(N_ROWS)}, "released is F64 [3], expected F32 [3]"),
        ({"released": np.ones(2, np.float32)}, "released is F32 [2], expected F32 [3]"),
        ({"paper": None}, "it has no tensor paper"),
    ],
)
def test_cosines_that_are_none_are_refused(store, changes, message):
    path = store.path(2, "base", "cosines.safetensors")
    changed = load_file(path) | changes
    kept = {name: array for name, array in changed.items() if array is not None}
    save_arrays(kept, path)
    with pytest.raises(UserError) as error:
        store.cosines(2, "base", N_ROWS)
    kept = f"is not the cosines of 3 rows of split 2, base ({message}"
    assert str(error.value).startswith(f"{path}: {kept}")
    assert str(error.value).endswith(f"; remove base.json beside it{AGAIN.format('METHOD')}")


def test_cosines_of_a_dtype_that_numpy_has_not_are_refused(store):
    path = store.path(2, "base", "cosines.safetensors")
    save_tensors({name: torch.ones(N_ROWS, dtype=torch.bfloat16) for name in DEFINITIONS}, path)
    with pytest.raises(UserError, match="paper is BF16 .3., expected F64 .3."):
        store.cosines(2, "base", N_ROWS)


@pytest.mark.parametrize("ending", ["cosines.safetensors", "network.safetensors"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "(no such file); remove base.json beside it"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-8]),
            "(not a whole safetensors file (",
        ),
    ],
)
def test_a_missing_or_cut_file_says_how_to_train_it_again(store, ending, damage, message):
    """Nothing of it can be fetched."""
    path = store.path(2, "base", ending)
    damage(path)
    with pytest.raises(UserError) as error:
        store.cosines(2, "base", N_ROWS)
        store.network(2, "base", N_ROWS)
    assert str(error.value).startswith(f"{path}: is not the ") and message in str(error.value)
    assert "fetch" not in str(error.value)
    assert str(error.value).endswith(f"; remove base.json beside it{AGAIN.format('METHOD')}")


def test_a_network_of_other_people_is_refused(store):
    message = r"is not the network of split 2, base \(its head has 3 classes, the rows 34\)"
    with pytest.raises(UserError, match=message):
        store.network(2, "base", 34)
