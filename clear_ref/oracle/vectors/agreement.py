"""Whether a returned loss and gradient are a result, up to the roundings of an arithmetic.

The roundings are derived in reference/roundings.py. Here they are multiplied by the unit roundoff
of the arithmetic in which a function is judged, and by a factor for what the derivation leaves out
(long sums, and exp and log that are off by more than one rounding).
"""

from typing import NamedTuple

import numpy as np

from clear_ref.oracle.reference.arithmetic import LossResult

from .judged_function import Answer, JudgedFunction

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "": 0.0}
# bfloat16 has none: libraries add bfloat16 numbers in float32.
FACTORS = {"float64": 1024.0, "float32": 4.0, "bfloat16": 1.0}
SMALLEST = 2.0**-126  # the smallest normal number of float32 and bfloat16; below it, 0 is right
REASON = """A number may be off by factor x unit roundoff x its roundings, plus one rounding to the
dtype in which it is returned (a gradient: plus one of the largest gradient). Roundings: first-order
error analysis of the case, from the size of
every logit, log-probability, product and partial sum on the way to the number
(clear_ref/oracle/reference/roundings.py). Unit roundoff: 2^-53 in float64, 2^-24 in float32, 2^-8
in bfloat16; factor: 1024, 4 and 1. The inputs are exact in all three."""


class Judge(NamedTuple):
    """A result that is compared with answers, and the arithmetic of the comparison."""

    result: LossResult
    arithmetic: str

    def loss_agrees(self, answer: Answer) -> bool:
        """True if the loss is the result's."""
        allowed = self._unit * self.result.roundings().loss + SMALLEST
        allowed += self._output(answer.dtype) * abs(self.result.loss)
        return bool(abs(answer.loss - self.result.loss) <= allowed)

    def gradients_agree(self, answer: Answer) -> bool:
        """True if the gradients are the result's, or there are none.

        A batch that the result does not read must have a gradient of zeros.
        """
        return answer.gradients is None or not self.excess(answer)

    def agrees(self, answer: Answer) -> bool:
        """True if loss and gradients are the result's."""
        return self.loss_agrees(answer) and self.gradients_agree(answer)

    def excess(self, answer: Answer) -> dict[str, np.ndarray]:
        """{batch: bool array} of the gradients that are off, for batches where any is."""
        output = self._output(answer.gradient_dtype)
        largest = max((np.abs(g).max() for g in self.result.gradients.values()), default=0.0)
        roundings = self.result.roundings()
        off = {}
        for name, gradient in (answer.gradients or {}).items():
            expected = self.result.gradients.get(name, np.zeros_like(gradient))
            if expected.shape != gradient.shape:  # it reads a batch of another length
                off[name] = np.ones(gradient.shape, bool)
                continue
            allowed = SMALLEST + self._unit * largest + output * np.abs(expected)
            if name in roundings.gradients:
                allowed = allowed + self._unit * roundings.gradients[name]
                allowed = allowed + output * roundings.added[name]
            wrong = np.asarray(~(np.abs(gradient - expected) <= allowed))
            if wrong.any():
                off[name] = wrong
        return off

    @property
    def _unit(self) -> float:
        return FACTORS[self.arithmetic] * UNITS[self.arithmetic]

    def _output(self, dtype: str) -> float:
        """The rounding to the returned dtype, if that is coarser than the arithmetic."""
        return UNITS[dtype] if UNITS[dtype] > UNITS[self.arithmetic] else 0.0


def arithmetics(function: JudgedFunction) -> list[str]:
    """The arithmetics in which a function is judged: the first in which it is right counts.

    What it declares. Without that, float64 and then float32 for inputs in float64; for coarser
    inputs float32, because these inputs are exact in float32 and losses are computed in it.
    """
    if function.arithmetic:
        return [function.arithmetic]
    return ["float64", "float32"] if function.dtype == "float64" else ["float32"]
