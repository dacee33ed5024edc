"""Weights are written completely or not at all, one tensor at a time; random weights by name."""

import os
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file, save

from clear_ref import load
from clear_ref.common.errors import UserError
from clear_ref.common.files import read_json
from clear_ref.model.random_weights import random_weight, write_random
from clear_ref.model.weights import load_weights, read_tensors
from clear_ref.model.write_weights import write_tensors, write_weights
from tests.helpers.weight_files import INDEX, ONE, SHAPES, SINGLE, TWO, VALUES, sharded, target


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_single_file_has_the_bytes_that_the_library_writes(tmp_path, dtype):
    values = {name: tensor.to(dtype) for name, tensor in VALUES.items()} | {
        "model.scale": torch.tensor(2.0, dtype=dtype)
    }
    assert write_weights(
        tmp_path, {name: t.shape for name, t in values.items()}, dtype, values.__getitem__
    ) == [SINGLE]
    assert (tmp_path / SINGLE).read_bytes() == save(values, metadata={"format": "pt"})
    write_tensors(tmp_path / "other.safetensors", values)
    assert (tmp_path / "other.safetensors").read_bytes() == (tmp_path / SINGLE).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [SINGLE, "other.safetensors"]


def test_shards_begin_where_the_next_tensor_would_pass_the_limit(tmp_path):
    """96, 96 and 16 bytes with a limit of 112: one shard of the first, one of the other two.

    A tensor larger than the limit has a shard of its own.
    """
    shapes = {name: tensor.shape for name, tensor in VALUES.items()}
    assert write_weights(tmp_path, shapes, torch.float32, VALUES.__getitem__, 112) == [ONE, TWO]
    assert (
        list(load_file(tmp_path / ONE)) == ["lm_head.weight"]
        and len(load_file(tmp_path / TWO)) == 2
    )
    assert read_json(tmp_path / INDEX) == {
        "metadata": {"total_size": 208},
        "weight_map": {
            "lm_head.weight": ONE,
            "model.embed_tokens.weight": TWO,
            "model.norm.weight": TWO,
        },
    }
    assert len(write_weights(tmp_path, shapes, torch.float32, VALUES.__getitem__, 1)) == 3


def test_one_tensor_at_a_time_is_alive_while_shards_are_written(tmp_path):
    alive, most = weakref.WeakSet(), 0

    def make(name):
        nonlocal most
        most = max(most, len(alive))
        tensor = torch.zeros(4, 2)
        alive.add(tensor.untyped_storage())
        return tensor

    write_weights(tmp_path, {f"t{n}": (4, 2) for n in range(9)}, torch.float32, make, 100)
    assert most <= 1


def test_a_save_that_fails_leaves_the_earlier_weights_and_no_other_file(tmp_path):
    sharded(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def make(name):
        if name == "model.norm.weight":
            raise RuntimeError("disk full")
        return VALUES[name]

    for limit in (100, 5_000_000_000):
        with pytest.raises(RuntimeError, match="disk full"):
            write_weights(tmp_path, SHAPES, torch.float32, make, limit)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("limit", [112, 5_000_000_000])
@pytest.mark.parametrize("renamed", range(4))
def test_a_save_cut_at_any_rename_never_leaves_a_mixture_that_loads(
    tmp_path, monkeypatch, renamed, limit
):
    """Old and new shards have the same names here.

    The directory then holds the old model or the new one, or it is rejected.
    """
    write_weights(tmp_path, SHAPES, torch.float32, VALUES.__getitem__, 112)
    calls, replace = [], os.replace

    def cut(*args):
        calls.append(args)
        if len(calls) > renamed:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, "replace", cut)
    try:
        write_weights(tmp_path, SHAPES, torch.float32, lambda name: VALUES[name] + 100, limit)
        assert len(calls) <= renamed
    except KeyboardInterrupt:
        pass
    found = target()
    try:
        load_weights(found, tmp_path, "llama")
    except UserError:
        assert calls
        return
    shifts = {float((found[name] - VALUES[name]).unique()) for name in SHAPES}
    assert shifts in ({0.0}, {100.0})
    assert shifts == {100.0} or len(calls) > renamed


def test_a_save_over_another_layout_replaces_it(tmp_path):
    sharded(tmp_path)
    for limit, files in ((5_000_000_000, 1), (1, 4), (112, 3), (5_000_000_000, 1)):
        write_weights(tmp_path, SHAPES, torch.float32, VALUES.__getitem__, limit)
        assert len(list(tmp_path.iterdir())) == files
        found = target()
        load_weights(found, tmp_path, "llama")
        assert all(torch.equal(found[name], VALUES[name]) for name in SHAPES)


def test_a_model_saved_from_shards_leaves_no_index_behind(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "shards")
    one = load(tiny_directory)
    files = write_weights(
        tmp_path / "shards",
        {n: t.shape for n, t in one.weights().items()},
        torch.float32,
        one.weights().__getitem__,
        100_000,
    )
    assert len(files) > 1
    many = load(tmp_path / "shards")
    assert all(torch.equal(tensor, many.weights()[name]) for name, tensor in one.weights().items())
    many.save(tmp_path / "again")
    assert (tmp_path / "again" / SINGLE).read_bytes() == (tiny_directory / SINGLE).read_bytes()
    assert not (tmp_path / "again" / INDEX).exists()


def test_random_weights_depend_on_their_name_and_seed_not_on_shards(tmp_path):
    shapes = {
        "model.a.weight": (64, 256),
        "model.b.weight": (64, 256),
        "model.norm.weight": (64,),
        "model.a.bias": (64,),
        "vision_tower.class_embedding": (4096,),
        "patch.weight": (64, 4, 8, 8),
    }
    write_random(tmp_path / "one", shapes, torch.float32, seed=3)
    files = write_random(tmp_path / "many", shapes, torch.float32, seed=3, shard_bytes=70_000)
    one, many = read_tensors(tmp_path / "one" / SINGLE), {}
    for file in files:
        many |= read_tensors(tmp_path / "many" / file)
    assert len(files) > 2 and all(torch.equal(one[name], many[name]) for name in shapes)
    assert torch.equal(one["model.norm.weight"], torch.ones(64)) and torch.equal(
        one["model.a.bias"], torch.zeros(64)
    )
    assert not torch.equal(one["model.a.weight"], one["model.b.weight"])
    assert not torch.equal(
        one["model.a.weight"], random_weight("model.a.weight", (64, 256), torch.float32, 4)
    )
    for name, spread in (
        ("model.a.weight", 1 / 16),
        ("patch.weight", 1 / 16),
        ("vision_tower.class_embedding", 1 / 64),
    ):
        # The relative error of the standard deviation of n normal numbers is 1/sqrt(2n), under
        # 1.2% here: 5% is four times that.
        assert float(one[name].std()) == pytest.approx(spread, rel=0.05)
