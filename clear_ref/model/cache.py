"""The KV cache: a decoder layer's keys and values of earlier tokens.

shapes  keys and values are [B, key-value heads, positions, head_dim] each
"""

import torch
from torch import Tensor

GROWTH = 64  # positions by which a full KVCache is enlarged

KeysValues = tuple[Tensor, Tensor]


class KVCache:
    """One layer's keys and values in a buffer with free space at its end.

    Generation writes a new token into the free space, so it does not copy the earlier tokens.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """A cache that holds these keys and values, of n positions."""
        self._keys = keys
        self._values = values
        self.n = keys.shape[2]

    @property
    def keys(self) -> Tensor:
        """[B, heads, n, head_dim]"""
        return self._keys[:, :, : self.n]

    @property
    def values(self) -> Tensor:
        """[B, heads, n, head_dim]"""
        return self._values[:, :, : self.n]

    def extend(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Append new positions; returns all keys and values."""
        first = self.n
        last = first + keys.shape[2]
        if last > self._keys.shape[2]:
            growth = max(GROWTH, last - first)
            self._keys = _enlarged(self._keys, first, growth)
            self._values = _enlarged(self._values, first, growth)
        self._keys[:, :, first:last] = keys
        self._values[:, :, first:last] = values
        self.n = last
        return self.keys, self.values

    def select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch (indices, or True for each row to keep)."""
        self._keys = self._keys[rows]
        self._values = self._values[rows]


def _enlarged(buffer: Tensor, n: int, growth: int) -> Tensor:
    """A new buffer of n + growth positions with the first n of the old one."""
    new = buffer.new_empty(*buffer.shape[:2], n + growth, buffer.shape[3])
    new[:, :, :n] = buffer[:, :, :n]
    return new


def joined(past: KVCache | KeysValues, keys: Tensor, values: Tensor) -> KeysValues:
    """All keys and values of a layer: those of `past`, then the new ones.

    A KVCache takes the new ones in; a pair of tensors is left as it is.
    """
    if isinstance(past, KVCache):
        return past.extend(keys, values)
    return torch.cat((past[0], keys), 2), torch.cat((past[1], values), 2)
