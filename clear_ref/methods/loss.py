"""Loss: what a method returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clear_ref.common.errors import ShapeError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and the named scalars that add up to it.

    value   scalar: the sum of the terms
    terms   {name: scalar}, each with the sign and the weight with which it enters the sum
    """

    value: torch.Tensor
    terms: dict[str, torch.Tensor]

    @classmethod
    def of(cls, **terms: torch.Tensor) -> Loss:
        """The Loss that is the sum of these scalars."""
        for name, term in terms.items():
            if term.ndim != 0:
                raise ShapeError(
                    f"loss term {name} has shape {list(term.shape)}; "
                    "expected a scalar: reduce it first"
                )
        return cls(total(terms.values()), terms)


def total(scalars: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of at least one scalar."""
    return sum(scalars)  # type: ignore[return-value]  # mypy: the sum of no scalar is the int 0
