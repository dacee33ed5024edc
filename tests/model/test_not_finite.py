"""A weight that is inf or NaN is found when the model is loaded; file and tensor are named."""

import pytest
import torch
from safetensors.torch import save_file

from clear_ref.common.errors import UserError
from clear_ref.model.weights import load_weights
from tests.helpers.weight_files import SINGLE, TWO, VALUES, sharded, target


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_value_that_is_not_finite_is_named(value, dtype, tmp_path):
    values = {name: tensor.to(dtype, copy=True) for name, tensor in VALUES.items()}
    values["model.embed_tokens.weight"][4, 2] = value
    save_file(values, tmp_path / SINGLE)
    words = rf"{SINGLE}: model.embed_tokens.weight is {float(value)} at \[4, 2\].* 1 of 24 values"
    with pytest.raises(UserError, match=words):
        load_weights(target(dtype), tmp_path, "llama")


def test_the_shard_is_named(tmp_path):
    values = VALUES | {"model.norm.weight": torch.full((4,), torch.nan)}
    with pytest.raises(UserError, match=f"{TWO}: model.norm.weight is nan at .* 4 of 4 values"):
        load_weights(target(), sharded(tmp_path / "a", values=values), "llama")


def test_a_value_that_only_the_chosen_dtype_cannot_hold_is_named(tmp_path):
    values = VALUES | {"model.norm.weight": torch.tensor([1.0, 70_000.0, 2.0, 3.0])}
    save_file(values, tmp_path / SINGLE)
    with pytest.raises(UserError, match=r"is inf at \[1\] as torch.float16.*a wider --dtype"):
        load_weights(target(torch.float16), tmp_path, "llama")
    load_weights(target(torch.bfloat16), tmp_path, "llama")


def test_the_largest_finite_values_are_loaded(tmp_path):
    """Their sum is inf: a check by the sum alone would refuse them."""
    largest = torch.finfo(torch.float32).max
    values = VALUES | {"model.norm.weight": torch.tensor([largest, largest, -largest, largest])}
    save_file(values, tmp_path / SINGLE)
    filled = target()
    load_weights(filled, tmp_path, "llama")
    assert torch.equal(filled["model.norm.weight"], values["model.norm.weight"])
