"""Weight regularisation of the released code: l1 ||w||_1 + l0 ||w||_0, added to any method's loss.

w       norm_from=init with adapters: the entries of A and B themselves, not of B A (A is not 0 at
        the start). norm_from=init without adapters: the weights minus those at the start of the
        stage. norm_from=zero: the trainable weights; adapters are refused
source  CLEAR mm/trainer.py:451-481 at bb14c96; its config has 0 for both, that of 3e33dae l1 = 0.1
flaw    ||w||_0 is a count: it has no gradient, so l0 changes the reported loss and nothing else
"""

from typing import Protocol

import torch

from clear_ref.common.errors import UserError

from .sharding import whole


class NormOptions(Protocol):
    """The part of a Recipe that is read here."""

    @property
    def l1(self) -> float: ...
    @property
    def l0(self) -> float: ...
    @property
    def norm_from(self) -> str: ...


class Norms:
    """The regularisation of one stage; made at its start, before a checkpoint is restored.

    parameters  {name: trainable parameter}
    adapted     the parameters are those of adapters
    raises      UserError for norm_from=zero with adapters
    """

    def __init__(
        self, parameters: dict[str, torch.Tensor], recipe: NormOptions, adapted: bool
    ) -> None:
        self.parameters = parameters
        self.l1 = recipe.l1
        self.l0 = recipe.l0
        self.start_weights: dict[str, torch.Tensor] | None = None
        if not (self.l1 or self.l0):
            return
        if recipe.norm_from == "zero" and adapted:
            raise UserError(
                "--norm-from zero measures the weights themselves, which adapters do not change; "
                "expected --norm-from init, or --lora-rank 0"
            )
        if recipe.norm_from == "init" and not adapted:
            self.start_weights = {
                name: parameter.detach().clone() for name, parameter in parameters.items()
            }

    def add(self, value: float, terms: dict[str, float]) -> tuple[float, dict[str, float]]:
        """The step's loss and named terms with this regularisation's added.

        Its gradient is added to that of the parameters.
        """
        if not (self.l1 or self.l0):
            return value, terms
        absolute_sum = 0.0
        n_nonzero = 0
        for name, parameter in self.parameters.items():
            w = parameter.detach()
            if self.start_weights is not None:
                w = w - self.start_weights[name]
            absolute_sum += float(whole(w.abs().sum(dtype=torch.float64)))
            n_nonzero += int(whole((w != 0).sum()))
            if self.l1:
                gradient = self.l1 * w.sign()
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        added = {}
        if self.l1:
            added["l1"] = self.l1 * absolute_sum
        if self.l0:
            added["l0"] = self.l0 * n_nonzero
        return value + sum(added.values()), terms | added
