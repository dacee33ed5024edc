"""The memory of one process, part by part: for `estimate`.

Bytes on a device, of one of N processes that torchrun started (loop/distributed.md):

weights      those that the process keeps: all; with --shard on 1/N of the decoder layers and all
             others; in full fine-tuning 1/N of all. Adapters, in fp32, are whole in each process
gradients    of what is trained, in its dtype; full fine-tuning: 1/N
moments      AdamW's two, likewise
teacher      full fine-tuning: the copy of the weights, decoder layers 1/N
activations  what one record of each batch keeps for backward, and its logits; for an evaluation the
             KV cache of the prompts and the logits
gathered     what the exchange between processes holds beside these. DDP: a copy of the gradients.
             --shard on: a decoder layer, twice while it is received, and a copy of the gradients.
             Full fine-tuning: the weights outside of the decoder layers and their gradients, and
             the larger of these weights once more and of seven times a layer: its weights, its
             gradients, the next layer's weights, and the buffers of both directions; 6.8 and 7.5
             times were measured with 2 and 4 processes
"""

from typing import TypedDict

from clear_ref.model.costs import ModelCosts

FP32 = 4  # bytes


class Parts(TypedDict):
    """Bytes of one process, see above; checkpointed: activations with --checkpointing on."""

    weights: float
    gradients: float
    moments: float
    teacher: float
    activations: float
    checkpointed: float
    gathered: float


NAMES = ("weights", "gradients", "moments", "teacher", "activations", "gathered")


def training_parts(
    model: ModelCosts,
    itemsize: int,
    rank: int,
    processes: int,
    shard: bool,
    activations: tuple[float, float],
    teacher_copy: bool,
) -> Parts:
    """The parts of a training.

    itemsize     bytes of a number of the weights
    rank         of the adapters; 0: every weight is trained
    shard        --shard on
    activations  without and with checkpointing
    """
    n, outside = processes, model.parameters - model.in_layers
    layer = model.in_layers / model.n_layers * itemsize
    if rank:
        shared = shard and n > 1
        kept = (model.in_layers / n if shared else model.in_layers) + outside
        weights = kept * itemsize + model.trained * FP32
        trained = float(model.trained)
        gathered = (n > 1) * model.trained * FP32 + 2 * layer * shared
    else:
        weights, trained = model.parameters * itemsize / n, model.trained / n
        gathered = 0.0
        if n > 1:
            gathered = 2 * outside * itemsize + max(7 * layer, outside * itemsize)
    return {
        "weights": weights,
        "gradients": trained * FP32,
        "moments": 2 * trained * FP32,
        "teacher": teacher_copy * (model.in_layers / n + outside) * itemsize,
        "activations": activations[0],
        "checkpointed": activations[1],
        "gathered": gathered,
    }


def evaluation_parts(
    model: ModelCosts, itemsize: int, processes: int, shard: bool, activations: float
) -> Parts:
    """The parts of an evaluation, which no process begins before it has the whole model.

    Of frozen weights that are shared out no process has more than its part and one layer.
    """
    shared = shard and processes > 1
    layers = model.in_layers / processes if shared else model.in_layers
    return {
        "weights": (layers + model.parameters - model.in_layers) * itemsize,
        "gradients": 0.0,
        "moments": 0.0,
        "teacher": 0.0,
        "activations": activations,
        "checkpointed": activations,
        "gathered": 2 * model.in_layers / model.n_layers * itemsize * shared,
    }


def totals(parts: Parts) -> tuple[float, float]:
    """Bytes of all parts, without and with checkpointing."""
    fixed = sum(parts[name] for name in NAMES if name != "activations")  # type: ignore[literal-required]
    return fixed + parts["activations"], fixed + parts["checkpointed"]
