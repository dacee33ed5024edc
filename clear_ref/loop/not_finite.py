"""A step whose loss or gradient is not finite: which term, batch, records and parameters.

Nothing is looked at while all is finite. After such a step its parts are computed once more, before
the weights change: the gradient of each term with respect to each sequence's hidden states is not
finite where the sequence, its logits or the teacher's make the term so.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from clear_ref.common import distributed

from .engine import RowTotals, Terms, Watch, Work
from .plan import Plan
from .sharding import whole

MOST_RECORDS = 6  # that are named of a batch
Found = list[tuple[str, str, int]]  # (term, batch, index of the record in the plan)


class Search(Watch):
    """The records that make a term or its gradient not finite."""

    probes = True

    def __init__(self) -> None:
        self.found: Found = []

    def count(self, totals: list[RowTotals], needs: Any) -> None:
        """The rows are counted already."""

    def see(self, work: Work, terms: Terms, hidden: Terms) -> None:
        """See the terms of a part."""
        names = [name for name, each in hidden.items() if each.requires_grad]
        for term, value in terms.items():
            if not work.share or not value.requires_grad or not names:
                continue
            inputs = [hidden[name] for name in names]
            gradients = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    own = hidden[name].detach(), gradient
                    self._add(term, name, work, *own)

    def _add(self, term: str, name: str, work: Work, hidden: Tensor, gradient: Tensor) -> None:
        """Add the sequences of a batch that are not finite at a token."""
        token = work.batches[name].attention_mask[:, -hidden.shape[1] :] == 1
        for values in (hidden, gradient):
            wrong = (~torch.isfinite(values)).any(-1) & token
            for sequence in wrong.any(1).nonzero().flatten().tolist():
                one = term, name, work.indices[sequence]
                if one not in self.found:
                    self.found.append(one)


def records_in_words(found: Found, plan: Plan, epoch: int) -> str:
    """The records by batch, as FILE:LINE; "" if none is found."""
    words = []
    for name in dict.fromkeys(batch for _, batch, _ in found):
        indices = sorted({index for _, batch, index in found if batch == name})
        named = [plan.row_of(name, epoch, index).where for index in indices[:MOST_RECORDS]]
        more = f" and {len(indices) - MOST_RECORDS} more" if len(indices) > MOST_RECORDS else ""
        words.append(f"batch {name}, {', '.join(named)}{more}")
    return "; ".join(words)


def all_records(plan: Plan, batches: Sequence[str], indices: Sequence[int]) -> Found:
    """Every record of the step, of its first batch."""
    return [("", batches[0], index) for index in indices]


def gradients_in_words(parameters: dict[str, Tensor]) -> str:
    """The parameter whose gradient is not finite, else the one with the largest gradient."""
    named = {name: each.grad for name, each in parameters.items() if each.grad is not None}
    names = list(named)
    wrong, largest = torch.zeros(2, len(names), dtype=torch.float64)
    for number, gradient in enumerate(named.values()):
        values = whole(gradient.detach())
        wrong[number] = values.numel() - int(torch.isfinite(values).sum())
        largest[number] = float(values.abs().max())
    if not names:
        return "no parameter has a gradient"
    if wrong.any():
        first = int(wrong.nonzero()[0])
        return (
            f"the gradient of {names[first]} has {int(wrong[first])} of "
            f"{parameters[names[first]].numel()} values that are not finite, and "
            f"{int((wrong > 0).sum()) - 1} other parameters have some"
        )
    name = names[int(largest.argmax())]
    return f"all gradients are finite, the largest is {float(largest.max()):.3g} in {name}"


def in_words(
    found: Found,
    terms: dict[str, float],
    plan: Plan,
    step: tuple[int, Sequence[int], Sequence[str]],
) -> str:
    """Term, batch and records of the step.

    step  (epoch, indices of its records, names of its batches)
    """
    epoch, indices, batches = step
    together: Found = []
    for own in distributed.gather(found):
        together += [(term, batch, index) for term, batch, index in own]
    wrong = [name for name, value in terms.items() if not isfinite(value)]
    words = [f"term {name} is {terms[name]}" for name in wrong]
    if not wrong:
        of_gradient = dict.fromkeys(term for term, _, _ in together)
        words = [f"the gradient of term {name} is not finite" for name in of_gradient]
    own_terms = [one for one in together if not wrong or one[0] in wrong]
    records = own_terms or all_records(plan, batches, indices)
    return "; ".join([*words, records_in_words(records, plan, epoch)])
