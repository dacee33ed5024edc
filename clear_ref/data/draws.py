"""All randomness: each choice is a pure function of (seed, purpose, epoch, index).

So batch size, padding side, threads, workers and resume cannot change what is drawn. Bits come from SHA-256 and,
for vectors and orders, from the Philox counter generator; both are the same on every machine.
"""

import hashlib

import numpy as np
import torch


def _key(*parts) -> int:
    return int.from_bytes(
        hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:16], "little"
    )


def _philox(*parts) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=_key(*parts)))


def choice(seed: int, purpose: str, epoch: int, index: int, n: int) -> int:
    """One of 0..n-1, uniform (up to 2^-100: 128 random bits modulo n)."""
    return _key(seed, purpose, epoch, index) % n


def permutation(seed: int, purpose: str, epoch: int, n: int) -> list[int]:
    """0..n-1 in a random order."""
    return _philox(seed, purpose, epoch).permutation(n).tolist()


def sample(seed: int, purpose: str, epoch: int, index: int, n: int, k: int) -> list[int]:
    """k distinct numbers of 0..n-1, in random order."""
    return _philox(seed, purpose, epoch, index).choice(n, k, replace=False).tolist()


def uniform_vector(seed: int, purpose: str, width: int) -> np.ndarray:
    """float64 [width], independent and uniform in [0, 1)."""
    return _philox(seed, purpose).random(width)


def torch_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose (initial weights of one tensor)."""
    return torch.Generator().manual_seed(_key(seed, purpose) % 2**63)
