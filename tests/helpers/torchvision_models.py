"""torchvision beside a torch for the CPU.

The registry's torchvision is built for CUDA. Its compiled part does not load beside a torch for the
CPU, and its import then stops because two operators are unknown that its models and transforms do
not use. They are declared here, without a body.
"""

import pytest
import torch


def torchvision():
    """The module torchvision; the test is skipped without it."""
    pytest.importorskip("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)
    return pytest.importorskip("torchvision")


LIBRARIES = []  # a library that is no longer referred to loses its operators


def resnet18():
    """torchvision's ResNet-18 with its last layer taken out, as the authors do it."""
    found = torchvision()
    network = found.models.resnet18(weights=None)
    network.fc = torch.nn.Flatten()
    return network
