"""ResNet-18: its tensors are those of torchvision's by name and shape, BN follows its formula, and
a file that does not fit is refused in one line that names it.
"""

import math
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_ref.common.errors import Notice, ShapeError, UserError
from clear_ref.visual.head import new_head
from clear_ref.visual.network import (
    ResNet18,
    new_network,
    read_network,
    read_trained,
    write_network,
)


@pytest.fixture
def stored(tmp_path):
    """A small network's file and its tensors."""
    path = tmp_path / "network.safetensors"
    write_network(path, new_network(2, seed=1))
    return path, load_file(path)


def test_the_network_of_the_paper_has_11_176_512_parameters_in_60_tensors():
    network = ResNet18()
    sizes = [p.numel() for p in network.parameters()]
    # First 7 x 7 x 3 x 64 and its BN. A stage of width c: convolutions of 9 c c', BN of 2 c.
    by_hand = 147 * 64 + 128 + 4 * (9 * 64 * 64 + 128)
    for c in (128, 256, 512):
        by_hand += 9 * (c // 2) * c + 3 * 9 * c * c + 4 * 2 * c + (c // 2) * c + 2 * c
    assert (len(sizes), sum(sizes)) == (60, by_hand) == (60, 11_176_512)
    assert network.embedding_width == 512
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert len(shapes) == 120
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.1.bn2.running_var"] == (512,)
    assert "layer1.0.downsample.0.weight" not in shapes and "fc.weight" not in shapes


def test_pictures_of_any_size_become_embeddings():
    network = new_network(2, seed=0).eval()
    for size in ((48, 48), (224, 224), (31, 65)):
        assert network(torch.zeros(3, 3, *size)).shape == (3, 16)


def test_bn_in_training_uses_the_batch_and_moves_the_running_values_by_a_tenth():
    """Of four values 1, 2, 3, 6: mean 3, variance 3.5 for the output (divided by 4) and 14/3 for
    the running one (divided by 3). Eval uses the running values alone.
    """
    bn = ResNet18(1).bn1
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(2, 1, 2, 1)
    output = bn.train()(values)
    assert torch.allclose(output, (values - 3) / math.sqrt(3.5 + 1e-5))
    assert float(bn.running_mean) == pytest.approx(0.3)
    assert float(bn.running_var) == pytest.approx(0.9 + 0.1 * 14 / 3)
    output = bn.eval()(values)
    assert torch.allclose(output, (values - 0.3) / math.sqrt(0.9 + 14 / 30 + 1e-5))
    assert float(bn.running_mean) == pytest.approx(0.3)


def test_initial_values_depend_on_the_seed_alone():
    one, same, other = (new_network(2, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_a_network_and_its_head_are_read_as_they_were_written(tmp_path):
    network, head = new_network(2, seed=1), new_head(3, 16, seed=2)
    network.train()(torch.rand(4, 3, 40, 40))  # moves the running statistics
    write_network(tmp_path / "one.safetensors", network, head)
    again, head_again = read_trained(tmp_path / "one.safetensors")
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, again.state_dict()[name]), name
    assert torch.equal(head.weight, head_again.weight)
    with pytest.warns(Notice, match=r"one\.safetensors: head\.weight not used"):
        read_network(tmp_path / "one.safetensors")


def test_batches_that_bn_has_seen_may_be_missing_and_float16_is_read(stored, tmp_path):
    _, tensors = stored
    kept = {name: value.half() for name, value in tensors.items() if "num_batches" not in name}
    save_file(kept, tmp_path / "half.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_network(tmp_path / "half.safetensors")
    assert torch.equal(found.conv1.weight, tensors["conv1.weight"].half().float())


def without(name):
    return lambda tensors: tensors.pop(name)


def with_tensor(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    "change, message",
    [
        (without("layer3.1.bn2.weight"), r"width 2: missing 1: layer3\.1\.bn2\.weight;"),
        (without("conv1.weight"), "conv1.weight is missing"),
        (with_tensor("conv1.weight", torch.zeros(())), "conv1.weight is missing"),
        (with_tensor("conv1.weight", torch.zeros(0, 3, 7, 7)), "conv1.weight is .0, 3, 7, 7."),
        (with_tensor("layer1.2.bn1.weight", torch.ones(2)), r"extra 1: layer1\.2\.bn1\.weight"),
        (
            with_tensor("layer2.0.conv1.weight", torch.ones(4, 2, 1, 1)),
            r"reshaped 1: layer2\.0\.conv1\.weight \[4, 2, 1, 1\] in place of \[4, 2, 3, 3\]",
        ),
        (with_tensor("bn1.bias", torch.tensor([0.0, math.nan])), r"bn1\.bias is nan at \[1\]"),
        (with_tensor("bn1.running_var", torch.tensor([1.0, -2.0])), "running_var has the value -2"),
        (
            with_tensor("bn1.bias", torch.zeros(2, dtype=torch.int32)),
            "bn1.bias is I32; expected F32",
        ),
        (with_tensor("bn1.num_batches_tracked", torch.zeros(())), "is F32; expected I64"),
    ],
)
def test_a_file_of_another_structure_is_refused_in_one_line(stored, tmp_path, change, message):
    _, tensors = stored
    change(tensors)
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=message) as error:
        read_network(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_file_with_more_tensors_than_fit_a_line_names_the_first_three(stored, tmp_path):
    _, tensors = stored
    for block in range(2, 6):
        tensors[f"layer1.{block}.bn1.weight"] = torch.ones(2)
    save_file(tensors, tmp_path / "deep.safetensors")
    with pytest.raises(
        UserError, match=r"extra 4: layer1\.2\S+, layer1\.3\S+, layer1\.4\S+, \.\.\."
    ):
        read_network(tmp_path / "deep.safetensors")


def test_a_missing_or_cut_file_is_refused(stored, tmp_path):
    path, _ = stored
    with pytest.raises(UserError, match="no such file"):
        read_network(tmp_path / "nowhere.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_network(path)


def test_a_head_that_does_not_fit_the_network_is_refused(stored, tmp_path):
    path, tensors = stored
    with pytest.raises(UserError, match=r"holds no head\.weight"):
        read_trained(path)
    tensors["head.weight"] = torch.zeros(3, 15)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=r"head\.weight is \[3, 15\]; expected \[classes, 16\]"):
        read_trained(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(3, 48, 48),
        torch.zeros(1, 1, 48, 48),
        torch.zeros(0, 3, 48, 48),
        torch.zeros(1, 3, 48, 48, dtype=torch.float64),
    ],
    ids=["three axes", "grey", "no picture", "float64"],
)
def test_other_tensors_than_pictures_are_refused(pixels):
    with pytest.raises(ShapeError, match=r"expected torch\.float32 \[B, 3, H, W\]"):
        ResNet18(1)(pixels)


def test_one_small_picture_is_no_batch_for_bn():
    network = ResNet18(1).train()
    with pytest.raises(ShapeError, match="one value for each channel in the last stage"):
        network(torch.zeros(1, 3, 32, 32))
    network(torch.zeros(1, 3, 32, 33))
    network(torch.zeros(2, 3, 32, 32))
    network.eval()(torch.zeros(1, 3, 32, 32))
