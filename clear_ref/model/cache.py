"""Keys and values of tokens that a decoder layer has seen, and how new ones join them."""

import torch

GROWTH = 64  # positions by which a KVCache grows


class KVCache:
    """One layer's keys and values with room behind them, so that generation does not copy what is there for each new token."""

    def __init__(self, keys, values):
        """Of n positions, [B, heads, n, head_dim] each."""
        self._keys, self._values, self.n = keys, values, keys.shape[2]

    @property
    def keys(self):
        """[B, heads, n, head_dim]"""
        return self._keys[:, :, : self.n]

    @property
    def values(self):
        """[B, heads, n, head_dim]"""
        return self._values[:, :, : self.n]

    def extend(self, keys, values):
        """Write new positions behind the others; returns all keys and values."""
        first, last = self.n, self.n + keys.shape[2]
        if last > self._keys.shape[2]:
            self._keys, self._values = (
                _with_room(old, first, max(GROWTH, last - first))
                for old in (self._keys, self._values)
            )
        self._keys[:, :, first:last], self._values[:, :, first:last], self.n = keys, values, last
        return self.keys, self.values

    def select(self, rows) -> None:
        """Keep only these rows of the batch."""
        self._keys, self._values = self._keys[rows], self._values[rows]


def _with_room(old, n: int, more: int):
    made = old.new_empty(*old.shape[:2], n + more, old.shape[3])
    made[:, :, :n] = old[:, :, :n]
    return made


def joined(past, keys, values):
    """All keys and values of a layer: what is there (KVCache, or a pair of tensors, which stays as it is) and the new ones."""
    if isinstance(past, KVCache):
        return past.extend(keys, values)
    return torch.cat((past[0], keys), 2), torch.cat((past[1], values), 2)
