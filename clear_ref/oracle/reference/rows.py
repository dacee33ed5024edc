"""The batches of one case, read one row at a time.

A batch is a dict of arrays, with B sequences, T positions, V logits or D hidden states a position:
  input_ids, labels, attention_mask, kinds   int64 [B, T]
      labels hold the token at the same position, or IGNORE; kinds are indices into KINDS
  logits, teacher_logits                     float64 [B, T, V]
  hidden, teacher_hidden                     float64 [B, T, D]; they replace the logits (rmu)
  control                                    float64 [n, D], control vectors (rmu, forget batch)
A row is a position (b, t) of a batch. Its label is the token at t + 1.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .exact import add, exp, log

IGNORE = -100
KINDS = ("padding", "image", "prompt", "answer")
PADDING, IMAGE, PROMPT, ANSWER = range(4)

Batch = dict[str, np.ndarray]
Batches = dict[str, Batch]


@dataclass(frozen=True)
class Row:
    """One position of one batch; `label` is the token that it predicts, or IGNORE."""

    batch: str
    b: int
    t: int
    label: int


@dataclass(frozen=True)
class Distribution:
    """A row of logits z, the logarithm of its softmax, and the softmax.

    For hidden states only z is used.
    """

    z: np.ndarray
    log_p: np.ndarray
    p: np.ndarray


class CaseRows:
    """The rows of a case's batches, and the softmax of the logits at each row.

    constants  where factors and targets without a gradient are computed: these rows, or for finite
               differences those of the batches before a step
    """

    constants: Any  # CaseRows, in a Sheet a Sheet

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.constants = self
        self._distributions: dict[tuple[str, int, int, str, float], Distribution] = {}

    def labels(self, batch: str) -> np.ndarray:
        """int64 [B, T]: the labels of the answer rows."""
        return self.batches[batch]["labels"]

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        """Rows of a batch: `answer` (rows with a label), `attention` (real positions) or `all`."""
        own = self.batches[batch]["labels"]
        labels = self.labels(batch) if row_set == "answer" else own
        mask = self.batches[batch]["attention_mask"]
        n_sequences, n_positions = labels.shape
        chosen = []
        for b in range(n_sequences):
            for t in range(n_positions):
                label = int(labels[b, t + 1]) if t + 1 < n_positions else IGNORE
                belongs_to = {"answer": label != IGNORE, "attention": mask[b, t] == 1, "all": True}
                if belongs_to[row_set]:
                    chosen.append(Row(batch, b, t, label))
        return chosen

    def student_tensor(self, batch: str) -> str:
        """The name of the student's tensor in a batch: logits, or hidden if it has no logits."""
        return "logits" if "logits" in self.batches[batch] else "hidden"

    def at(self, row: Row, prefix: str = "", temperature: float = 1.0) -> Distribution:
        """The Distribution of logits / temperature at a row.

        prefix  "": the student's logits; "teacher_": the teacher's
        """
        key = (row.batch, row.b, row.t, prefix, temperature)
        if key not in self._distributions:
            tensor = self.batches[row.batch][prefix + self.student_tensor(row.batch)]
            self._distributions[key] = self.distribution(tensor[row.b, row.t] / temperature)
        return self._distributions[key]

    def distribution(self, z: np.ndarray) -> Distribution:
        """The softmax of z, with its logarithm."""
        return _softmax(z.tobytes())


@lru_cache(maxsize=8192)
def _softmax(z_bytes: bytes) -> Distribution:
    z = np.frombuffer(z_bytes)
    e = exp(z - z.max())
    return Distribution(z, z - z.max() - log(add(e)), e / add(e))
