"""ResNet-18 and the transform equal torchvision's: values, gradients, running statistics and each
optimiser step within the rounding of float64 and float32; pixels exactly.

torchvision comes with the extra `faces` (tests/helpers/torchvision_models.py says how it is
imported).
"""

import numpy as np
import pytest
import torch
from PIL import Image

from clear_ref.visual.network import ResNet18, new_network, read_network
from clear_ref.visual.pictures import read_pictures
from tests.helpers.torchvision_models import resnet18, torchvision

# The operators are torch's in both; the order of the sums in the last mean may differ, by a few
# roundings of a gradient that then passes 18 layers. Seen: equal bits.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def pair(dtype):
    """Our network and torchvision's with the same weights, and pixels for both."""
    ours = new_network(64, seed=3).to(dtype)
    theirs = resnet18().to(dtype)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 33, 40, generator=generator, dtype=torch.float64).to(dtype)
    return ours, theirs, pixels


def difference(one, other):
    """Largest difference, in units of the largest value."""
    return float(((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).detach())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_value_gradient_and_running_statistics_are_torchvisions(dtype, mode):
    ours, theirs, pixels = pair(dtype)
    weights = torch.linspace(-1, 1, 3 * 512, dtype=dtype).view(3, 512)
    found = []
    for network in (ours, theirs):
        getattr(network, mode)()
        output = network(pixels)
        (output * weights).sum().backward()
        found.append(output.detach())
    assert difference(*found) < TOLERANCE[dtype]
    parameters = dict(theirs.named_parameters())
    assert set(parameters) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert difference(parameter.grad, parameters[name].grad) < TOLERANCE[dtype], name
    state = theirs.state_dict()
    assert list(state) == list(ours.state_dict())
    for name, value in ours.state_dict().items():
        assert difference(value.double(), state[name].double()) < TOLERANCE[dtype], name


@pytest.mark.slow
def test_a_block_without_its_shortcut_is_seen():
    ours, theirs, pixels = pair(torch.float64)
    with torch.no_grad():
        ours.layer3[0].downsample[0].weight.zero_()
    assert difference(ours.eval()(pixels), theirs.eval()(pixels)) > 1e-3


@pytest.mark.slow
def test_a_file_of_torchvision_is_read(tmp_path):
    from safetensors.torch import save_file

    from clear_ref.common.errors import Notice

    whole = torchvision().models.resnet18(weights=None)
    save_file(whole.state_dict(), tmp_path / "imagenet.safetensors")
    with pytest.warns(Notice, match=r"fc\.weight, fc\.bias not used"):
        ours = read_network(tmp_path / "imagenet.safetensors").eval()
    whole.fc = torch.nn.Flatten()
    pixels = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)
    assert difference(ours(pixels), whole.eval()(pixels)) < TOLERANCE[torch.float32]


@pytest.mark.slow
def test_initial_values_are_distributed_as_torchvisions():
    """Deviation of each convolution, of 1,728 values or more: within 8 percent."""
    theirs = resnet18().state_dict()
    for name, value in ResNet18().state_dict().items():
        assert value.shape == theirs[name].shape
    for name, value in new_network(64, seed=0).state_dict().items():
        if value.ndim == 4:
            assert float(value.std() / theirs[name].std()) == pytest.approx(1, abs=0.08), name
        elif "num_batches" not in name:
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("shape", [(301, 300), (300, 517), (40, 63), (48, 48), (1024, 1024)])
def test_the_transform_is_torchvisions_pixel_for_pixel(shape, tmp_path):
    transforms = torchvision().transforms
    transform = transforms.Compose(
        [
            transforms.Resize(48),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    values = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    image.save(tmp_path / "one.png")
    for source in (image, tmp_path / "one.png"):
        assert torch.equal(read_pictures([source], 48).pixels([0])[0], transform(image))
