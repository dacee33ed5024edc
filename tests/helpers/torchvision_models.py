"""torchvision beside a torch for the CPU.

The registry's torchvision is built for CUDA. Its compiled part does not load beside a torch for the
CPU, and its import then stops because two operators are unknown that its models and transforms do
not use. They are declared here, without a body, and it is imported again.
"""

import importlib.util
import sys

import pytest
import torch

LIBRARIES = []  # a library that is no longer referred to loses its operators


def torchvision():
    """The module torchvision; the test is skipped without it."""
    if importlib.util.find_spec("torchvision") is None:
        return pytest.importorskip("torchvision")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        assert "operator torchvision::nms does not exist" in str(error)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)
    return importlib.import_module("torchvision")


def resnet18():
    """torchvision's ResNet-18 with its last layer taken out, as the authors do it."""
    network = torchvision().models.resnet18(weights=None)
    network.fc = torch.nn.Flatten()
    return network
