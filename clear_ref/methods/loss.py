"""What a method file is made of: Loss (its result), Need (what it reads of a batch), Variant (one of its meanings)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import ShapeError, UserError


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and the named scalars it is the sum of, signed and weighted as they enter it."""
    value: torch.Tensor
    terms: dict[str, torch.Tensor]

    @classmethod
    def of(cls, **terms) -> "Loss":
        """The Loss that is the sum of these scalars."""
        for name, term in terms.items():
            if term.ndim != 0:
                raise ShapeError(f"loss term {name} has shape {list(term.shape)}; expected a scalar: reduce it first")
        return cls(value=sum(terms.values()), terms=terms)


@dataclass(frozen=True)
class Need:
    """What a method reads of one batch.

    rows     row set of the logits: answer | attention | all; None: no logits
    teacher  the same of the teacher
    hidden   hidden states of the layer its options name
    """
    rows: str | None = "answer"
    teacher: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Variant:
    """One meaning of a method.

    loss    (splits, options) -> Loss, splits by batch name
    needs   {batch name: Need}, or a function of the options that returns it
    finish  what is done with the weights after training: None, or "negate_delta" (2 theta_0 - theta_1)
    reference_loss  (splits, options) -> Loss of the first stage, on the idk batch alone, that tunes the teacher when
            the options say reference = idk; None: the teacher is always the model before unlearning
    """
    loss: Callable
    needs: dict[str, Need] | Callable
    finish: str | None = None
    reference_loss: Callable | None = None

    def needs_of(self, options) -> dict[str, Need]:
        """{batch name: Need} under these options."""
        return self.needs(options) if callable(self.needs) else dict(self.needs)


def check_finite(options, *names, positive=()):
    """Raises UserError unless the named options are finite numbers, and those of `positive` above 0."""
    for name in (*names, *positive):
        value = getattr(options, name)
        if not math.isfinite(value):
            raise UserError(f"option {name} is {value}; expected a finite number")
        if name in positive and value <= 0:
            raise UserError(f"option {name} is {value}; expected a number above 0")


def check_one_of(options, name, *choices):
    """Raises UserError unless the named option is one of the choices."""
    if getattr(options, name) not in choices:
        raise UserError(f"option {name} is {getattr(options, name)!r}; expected one of {', '.join(choices)}")
