"""Weight regularisation of the released code: l1 ||w||_1 + l0 ||w||_0 beside any method's loss.

w       norm_from=init with adapters: the entries of A and B themselves, not of B A (A is not 0 at the start); without: the
        weights minus those the stage began with. norm_from=zero: the trainable weights; adapters are refused
source  mm/trainer.py:451-481; values 0 in its head's config, l1 = 0.1 in that of 2024-10-23
trap    ||w||_0 counts: it has no gradient, so l0 moves the reported loss and nothing else
"""

import torch

from clear_ref.common.errors import UserError


class Norms:
    """The regularisation of one stage; made where the stage begins, before anything is restored.

    parameters  {name: trainable parameter}; recipe: l1, l0, norm_from
    raises      UserError for norm_from=zero with adapters
    """

    def __init__(self, parameters, recipe, adapted: bool):
        self.parameters, self.l1, self.l0 = parameters, recipe.l1, recipe.l0
        self.origin = None
        if self.l1 or self.l0:
            if recipe.norm_from == "zero" and adapted:
                raise UserError(
                    "--norm-from zero measures the weights themselves, and adapters leave them as they are; expected "
                    "--norm-from init, or --lora-rank 0"
                )
            if recipe.norm_from == "init" and not adapted:
                self.origin = {
                    name: parameter.detach().clone() for name, parameter in parameters.items()
                }

    def add(self, value: float, terms: dict) -> tuple[float, dict]:
        """The step's loss and named terms with this regularisation's added; its gradient is added to the parameters'."""
        if not (self.l1 or self.l0):
            return value, terms
        found, n_moved = 0.0, 0
        for name, parameter in self.parameters.items():
            w = (
                parameter.detach()
                if self.origin is None
                else parameter.detach() - self.origin[name]
            )
            found += float(w.abs().sum(dtype=torch.float64))
            n_moved += int(torch.count_nonzero(w))
            if self.l1:
                slope = self.l1 * w.sign()
                parameter.grad = slope if parameter.grad is None else parameter.grad + slope
        added = {
            name: weight * size
            for name, weight, size in (("l1", self.l1, found), ("l0", self.l0, n_moved))
            if weight
        }
        return value + sum(added.values()), terms | added
