"""The stored golden vectors, and the package's loss on one of their cases."""

from pathlib import Path

import numpy as np
import torch

from clear_ref.losses import Outputs
from clear_ref.methods import LOSSES, method_loss
from clear_ref.oracle.vectors import vector_files

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "vectors" / "golden"
STORED = vector_files.read(GOLDEN)
RIGHT = [entry for entry in STORED.entries if entry["result"] != "invalid"]
WRONG = [entry for entry in STORED.entries if entry["result"] == "invalid"]
VARIANTS = [
    (method, semantics) for method, module in LOSSES.items() for semantics in module.VARIANTS
]
OUTPUT_TENSORS = (
    "logits",
    "labels",
    "teacher_logits",
    "attention_mask",
    "hidden",
    "teacher_hidden",
)


def package_loss(entry, dtype=torch.float64, batches=None):
    """The package's Loss and gradients on a case; `batches` replace the stored ones."""
    outputs = {}
    leaves = {}
    for name, batch in (batches or STORED.batches(entry)).items():
        tensors = {}
        for key in OUTPUT_TENSORS:
            if key in batch:
                tensor = torch.from_numpy(batch[key])
                tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        student = "hidden" if "hidden" in batch else "logits"
        leaves[name] = tensors[student] = tensors[student].clone().requires_grad_()
        outputs[name] = Outputs(**{key: tensors.get(key) for key in OUTPUT_TENSORS})
    loss = method_loss(entry["method"], outputs, entry["semantics"], **entry["options"])
    computed = torch.autograd.grad(loss.value, list(leaves.values()), allow_unused=True)
    gradients = {}
    for (name, leaf), gradient in zip(leaves.items(), computed, strict=True):
        gradients[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return loss, gradients


def largest_logit(entry):
    """The largest number among a case's logits or hidden states."""
    return max(
        np.abs(array).max()
        for batch in STORED.batches(entry).values()
        for key, array in batch.items()
        if key.endswith(("logits", "hidden"))
    )
