"""All random choices. Each is a pure function of (seed, purpose, epoch, index).

So batch size, padding side, threads, processes and resume cannot change what is drawn. The bits
are from SHA-256 and, for vectors and orders, from the Philox counter generator; both give the same
result on every machine. Generators of torch: torch_draws.py.
"""

import hashlib

import numpy as np


def key_of(*parts: object) -> int:
    """128 bits of the SHA-256 of the parts."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def _philox(*parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key_of(*parts)))


def choice(seed: int, purpose: str, epoch: int, index: int, n: int) -> int:
    """One of 0..n-1, uniform (up to 2^-100: 128 random bits modulo n)."""
    return key_of(seed, purpose, epoch, index) % n


def permutation(seed: int, purpose: str, epoch: int, n: int) -> list[int]:
    """0..n-1 in random order."""
    return _philox(seed, purpose, epoch).permutation(n).tolist()


def sample(seed: int, purpose: str, epoch: int, index: int, n: int, k: int) -> list[int]:
    """k different numbers of 0..n-1, in random order."""
    return _philox(seed, purpose, epoch, index).choice(n, k, replace=False).tolist()


def resampled(seed: int, purpose: str, n: int, n_draws: int) -> np.ndarray:
    """int64 [n_draws, n]: how often each of n records is drawn, in n draws with replacement."""
    return _philox(seed, purpose).multinomial(n, np.full(n, 1 / n), n_draws)


def uniform_vector(seed: int, purpose: str, width: int) -> np.ndarray:
    """float64 [width], independent and uniform in [0, 1)."""
    return _philox(seed, purpose).random(width)
