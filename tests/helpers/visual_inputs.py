"""Inputs of the visual losses from a seed: the authors' code, the reference and ours get the same.

Every number comes from NumPy's legacy generator, whose stream is frozen.
"""

import numpy as np
import torch

from clear_ref.visual.methods.inputs import Batch, Inputs
from clear_ref.visual.methods.variant import SAMPLING

B, D, K = 6, 4, 5  # pictures, coordinates, people
FORGET_PEOPLE = 2  # the first people are to be forgotten


def inputs(sampling, seed=0, gap=0.4, dtype=torch.float64):
    """Inputs of one step; embeddings, class weights and parameters are leaves.

    sampling  a name of SAMPLING
    gap       standard deviation of the student from the base
    """
    rng = np.random.RandomState(seed)

    def normal(*shape, scale=1.0):
        return torch.tensor(scale * rng.standard_normal(shape), dtype=dtype)

    # The order of these draws fixes the numbers.
    base_weight = normal(K, D, scale=0.5)
    weight = base_weight + normal(K, D, scale=gap / 2)
    parameters = tuple(normal(*shape).requires_grad_() for shape in ((3, 2), (4,)))
    batches = {}
    for name in SAMPLING[sampling]:
        targets = normal(B, D)
        embeddings = targets + normal(B, D, scale=gap)
        labels = torch.tensor(rng.randint(FORGET_PEOPLE, K, B))
        forget = torch.zeros(B, dtype=torch.bool)
        if name == "forget":
            forget[:] = True
        elif name == "pool":
            forget[::2] = True
        labels[forget] = torch.tensor(rng.randint(0, FORGET_PEOPLE, int(forget.sum())))
        random = torch.tensor(rng.randint(FORGET_PEOPLE, K, B)) if name == "forget" else None
        batches[name] = Batch(embeddings.requires_grad_(), labels, targets, forget, random)
    return Inputs(batches, weight.requires_grad_(), base_weight, parameters)


def leaves(given):
    """{name: tensor with a gradient} of Inputs."""
    found = {name: batch.embeddings for name, batch in given.batches.items()}
    found["weight"] = given.weight
    return {**found, **{f"parameter{k}": each for k, each in enumerate(given.parameters)}}


def gradients(loss, given):
    """{name: gradient} of a loss in the leaves of its inputs; zeros where it reads nothing."""
    names = leaves(given)
    found = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(names.items(), found, strict=True)
    }
