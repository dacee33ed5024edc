"""Random tensors: a torch generator for one purpose. Apart from draws.py, which needs no torch."""

import torch

from .draws import key_of


def torch_generator(seed: int, purpose: str) -> torch.Generator:
    """A torch generator on the CPU for one purpose, for example the initial values of a tensor."""
    return torch.Generator().manual_seed(key_of(seed, purpose) % 2**63)
