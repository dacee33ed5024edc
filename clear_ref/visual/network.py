"""ResNet-18 without its last layer: a picture to an embedding. Its weights in safetensors files.

The structure, the names of the tensors and the initial values are torchvision's (resnet18, whose
`fc` is taken out). `width` is the number of channels after the first convolution: 64 there, less
in small worlds; the embedding has 8 times as many coordinates.

    conv1 7x7 /2, bn1, relu, maxpool 3x3 /2               [B, width, H/4, W/4]
    layer1 .. layer4, two BasicBlocks each, /1 /2 /2 /2    [B, 8 width, H/32, W/32]
    mean over all positions                               [B, 8 width]

source  torchvision/models/resnet.py at v0.28.0; CLEAR cv/finetune.py:82-87 at bb14c96 (net.fc is
        replaced by a flatten)
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clear_ref.common.errors import Notice, ShapeError, UserError
from clear_ref.common.files import PathName, one_line
from clear_ref.data.torch_draws import torch_generator
from clear_ref.model.finite import not_finite
from clear_ref.model.weights import CODES, Shape, read_header
from clear_ref.model.write_weights import write_tensors

from .head import HEAD_WEIGHT, Head

WIDTH = 64
EXPANSION = 8  # coordinates of the embedding for each channel of the first convolution
# Of an ImageNet network, and the head that write_network stores beside a network.
NOT_READ = ("fc.weight", "fc.bias", HEAD_WEIGHT)
# Batches that BN has seen. BN's momentum is fixed, so nothing reads the number.
COUNTER = "num_batches_tracked"


class BasicBlock(nn.Module):
    """[B, C, H, W] -> [B, planes, H/stride, W/stride]: relu(two convolutions + the input)."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


def stage(channels: int, planes: int, stride: int) -> nn.Sequential:
    """Two BasicBlocks; the first one changes the size."""
    return nn.Sequential(BasicBlock(channels, planes, stride), BasicBlock(planes, planes, 1))


class ResNet18(nn.Module):
    """Pictures [B, 3, H, W] -> embeddings [B, 8 * width].

    train() and eval() choose whether BN uses the batch's mean and variance and moves its running
    ones by a tenth towards them (with the unbiased variance), or uses the running ones.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, 2 * width, 2)
        self.layer3 = stage(2 * width, 4 * width, 2)
        self.layer4 = stage(4 * width, 8 * width, 2)

    @property
    def embedding_width(self) -> int:
        """Coordinates of an embedding."""
        return EXPANSION * self.width

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, 8 * width].

        raises  ShapeError unless pixels is [B, 3, H, W] of the network's dtype, and for a batch on
                which BN in training mode has one value for each channel
        """
        self._check(pixels)
        x = self.maxpool(torch.relu(self.bn1(self.conv1(pixels))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))

    def _check(self, pixels: Tensor) -> None:
        dtype = self.conv1.weight.dtype
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel() or pixels.dtype != dtype:
            raise ShapeError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}; expected {dtype} [B, 3, H, W]"
            )
        n, _, height, width = pixels.shape
        if self.training and n * last_positions(height, width) == 1:
            raise ShapeError(
                f"pixels are {list(pixels.shape)}, and BN in training mode has one value for each "
                "channel in the last stage; expected two pictures or more, or larger ones"
            )


def last_positions(height: int, width: int) -> int:
    """The positions that the last stage has of a picture."""
    return -(-height // 32) * -(-width // 32)


def new_network(width: int, seed: int) -> ResNet18:
    """A network with initial values: of convolutions normal, deviation sqrt(2 / (9 or 49 or 1 times
    its output channels)); BN is the identity.

    source  torchvision/models/resnet.py at v0.28.0 (Kaiming, fan_out)
    """
    network = ResNet18(width)
    generator = torch_generator(seed, "visual network")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
    return network


def write_network(
    path: PathName, network: ResNet18, head: Head | None = None, by_all: bool = False
) -> None:
    """Write a network, and its head if there is one, to one safetensors file, whole or not at all.

    Names are torchvision's; the head's tensor is head.weight.

    by_all  as in common.atomic.atomic_file
    """
    tensors = dict(network.state_dict())
    if head is not None:
        tensors[HEAD_WEIGHT] = head.weight
    write_tensors(path, tensors, by_all)


def read_network(path: PathName) -> ResNet18:
    """The network of a safetensors file, in float32; its width is that of the file's tensors.

    A file may have the last layer of an ImageNet network (fc.*) or a head (head.weight): a Notice
    says that they are not used. It may lack num_batches_tracked, which no computation reads.
    raises  UserError that names the file: no whole safetensors file, missing, extra or reshaped
            tensors, a dtype that weights do not have, values that are not finite, a variance below
            0
    """
    path = Path(path)
    shapes = _shapes(path)
    unused = [name for name in NOT_READ if name in shapes]
    if unused:
        warnings.warn(
            f"{path}: {', '.join(unused)} not used: the network ends with the embedding",
            Notice,
            stacklevel=2,
        )
    return _network_of(path, {name: shapes[name] for name in shapes if name not in unused})


def read_trained(path: PathName) -> tuple[ResNet18, Head]:
    """A network and its head, as write_network has written both; UserError as read_network."""
    path = Path(path)
    shapes = _shapes(path)
    shape = shapes.pop(HEAD_WEIGHT, None)
    if shape is None:
        raise UserError(f"{path}: holds no {HEAD_WEIGHT}; expected a network with its head")
    network = _network_of(path, shapes)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != network.embedding_width:
        raise UserError(
            f"{path}: {HEAD_WEIGHT} is {list(shape)}; expected [classes, "
            f"{network.embedding_width}], as the network's embeddings"
        )
    head = Head(*shape)
    _fill(path, {HEAD_WEIGHT: head.weight})
    return network, head


def _shapes(path: Path) -> dict[str, Shape]:
    """{tensor: shape} of a file, each of a dtype that such a tensor can have."""
    shapes = {}
    for name, entry in read_header(path).items():
        allowed = ["I64"] if name.endswith(COUNTER) else list(CODES)
        if entry["dtype"] not in allowed:
            raise UserError(
                f"{path}: {one_line(name, 100)} is {entry['dtype']}; expected {', '.join(allowed)}"
            )
        shapes[name] = tuple(entry["shape"])
    return shapes


def _network_of(path: Path, shapes: Mapping[str, Shape]) -> ResNet18:
    """The network whose tensors have exactly these shapes, filled from the file."""
    first = shapes.get("conv1.weight", ())
    width = first[0] if first else 0
    if width < 1:
        raise UserError(
            f"{path}: conv1.weight is {list(first) if first else 'missing'}; expected the tensors "
            "of torchvision's resnet18, conv1.weight [width, 3, 7, 7]"
        )
    # On the meta device nothing is allocated, whatever width a file claims.
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in ResNet18(width).state_dict().items()}
    problems = _problems(expected, shapes)
    if problems:
        raise UserError(
            f"{path}: is no ResNet-18 of width {width}: {problems}; expected the tensors of "
            "torchvision's resnet18"
        )
    network = ResNet18(width)
    state = network.state_dict()
    _fill(path, {name: state[name] for name in shapes if not name.endswith(COUNTER)})
    for name in shapes:
        if name.endswith("running_var") and bool((state[name] < 0).any()):
            raise UserError(
                f"{path}: {name} has the value {float(state[name].min())}; expected variances, "
                "which are not below 0"
            )
    return network


def _problems(expected: Mapping[str, Shape], actual: Mapping[str, Shape]) -> str:
    """The first missing, extra and reshaped tensors, in words; empty if there is none."""
    needed = {name for name in expected if not name.endswith(COUNTER)}
    reshaped = [
        f"{name} {list(actual[name])} in place of {list(expected[name])}"
        for name in sorted(set(expected) & set(actual))
        if expected[name] != actual[name]
    ]
    parts = []
    for kind, names in (
        ("missing", sorted(needed - set(actual))),
        ("extra", sorted(set(actual) - set(expected))),
        ("reshaped", reshaped),
    ):
        if names:
            shown = ", ".join(one_line(name, 120) for name in names[:3])
            parts.append(f"{kind} {len(names)}: {shown}{', ...' if len(names) > 3 else ''}")
    return "; ".join(parts)


def _fill(path: Path, target: Mapping[str, Tensor]) -> None:
    """Copy tensors of a file, one at a time; UserError for a value that is not finite."""
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(file.get_tensor(name))
            if not bool(torch.isfinite(tensor).all()):
                raise not_finite(path, name, tensor)
