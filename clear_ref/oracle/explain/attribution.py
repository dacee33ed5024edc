"""Attribution of a loss to tokens: the exact share of every row, and where descent moves it.

A loss is a function of columns (token terms at rows of logits). Every column that the method reads
is replaced by an autograd leaf, so autograd gives d loss / d column at each row: the row's weight.
This is done for one record at a time, with the divisors of the whole batch, and for one term at a
time; the loss of a batch is the sum over its records.

contribution  of a row to a term: the sum over columns of weight * value. If the term is linear in
              its columns, the rows of a record sum to the term. If it is not (the softplus of a
              sequence's sum in npo and dpo), the rest is spread evenly over those rows of the
              record that the term reads. The contributions of all rows of all batches sum to the
              loss.
d_logit       d loss / d z, z the logit of the token that follows the row. If it is below 0,
              descent makes that token more likely.
d_logp        the same per log-probability: (d loss / d z) / (1 - p), because d log p / d z = 1 - p
              when z changes alone and the other tokens keep their proportions. If the loss reads
              the nll only, d_logp is -weight, however certain the token is. If p is 1 to rounding,
              it is the nll's part alone. The last row has neither d_logit nor d_logp, because no
              token follows it.
hidden states (rmu) have no p. Their contribution is half of
              (gradient at the start + gradient at h) . (h - start); the start is the teacher's
              hidden state or, without a teacher, 0. The loss at the start is spread evenly. This
              is exact because the loss is quadratic in h.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from clear_ref.data.batches import IGNORE
from clear_ref.losses.outputs import Outputs
from clear_ref.losses.rows import BatchRows
from clear_ref.methods import Loss

from .leaf_rows import LeafKey, LeafRows, OneRecord, one_record

LossOfBatches = Callable[[dict[str, BatchRows]], Loss]
# {batch name: d loss / d column [n], by row set and column}
Weights = dict[str, dict[LeafKey, Tensor]]
# Columns whose weights are not shown: constants of the teacher, and a part of the nll.
NOT_SHOWN = ("lse", "teacher_nll", "teacher_entropy")


@dataclass
class RecordAttribution:
    """The attribution of one record of one batch: float64 tensors on the CPU.

    contribution  [T] of the row of each position
    weights       {column: [T] d loss / d column}; empty for hidden states
    d_logp, d_logit  [T - 1] of the token that follows each position; None for hidden states
    gradient      [T] the length of d loss / d h; None for logits
    """

    contribution: Tensor
    weights: dict[str, Tensor] = field(default_factory=dict)
    d_logp: Tensor | None = None
    d_logit: Tensor | None = None
    gradient: Tensor | None = None


@dataclass
class Attribution:
    """The attribution of a loss.

    terms    {term: its value}, which sum to the loss
    records  {batch name: a RecordAttribution for each record}
    """

    loss: float
    terms: dict[str, float]
    records: dict[str, list[RecordAttribution]]


def attribute(
    loss: LossOfBatches,
    outputs: dict[str, Outputs],
    ids: dict[str, Tensor],
    key: tuple[int, int] = (0, 0),
) -> Attribution:
    """The Attribution of a loss of whole batches.

    outputs  {batch name: Outputs}, every batch with the same number of records
    ids      {batch name: [B, T] input ids}
    key      (epoch, index) of the first record, as in BatchRows
    """
    n_records = len(next(iter(outputs.values())).labels)
    result = Attribution(0.0, {}, {name: [] for name in outputs})
    for s in range(n_records):
        records = {name: one_record(whole, s) for name, whole in outputs.items()}
        batches = {name: LeafRows(record, key) for name, record in records.items()}
        record_loss = loss(dict(batches))
        for term, value in record_loss.terms.items():
            result.loss += float(value.detach())
            result.terms[term] = result.terms.get(term, 0.0) + float(value.detach())
        if any(batch.hidden is not None for batch in batches.values()):
            attributions = attribute_to_hidden_states(loss, batches, record_loss, records, key)
        else:
            ids_of_record = {name: ids[name][s] for name in batches}
            attributions = attribute_to_logits(batches, record_loss, ids_of_record)
        for name in batches:
            result.records[name].append(attributions[name])
    return result


def attribute_to_logits(
    batches: dict[str, LeafRows], loss: Loss, ids: dict[str, Tensor]
) -> dict[str, RecordAttribution]:
    """{batch name: RecordAttribution} of one record's loss; ids {batch name: [T]}."""
    contributions = {name: zeros(batch) for name, batch in batches.items()}
    weights: Weights = {name: {} for name in batches}
    for term in loss.terms.values():
        add_term(term, batches, contributions, weights)
    attributions = {}
    for name, batch in batches.items():
        d_logp, d_logit = token_derivatives(batch, weights[name], ids[name])
        attributions[name] = RecordAttribution(
            contributions[name], weights_by_position(batch, weights[name]), d_logp, d_logit
        )
    return attributions


def zeros(batch: LeafRows) -> Tensor:
    """[T] zeros, one for each position."""
    return torch.zeros(batch.labels.shape[1], dtype=torch.float64)


def add_term(
    term: Tensor,
    batches: dict[str, LeafRows],
    contributions: dict[str, Tensor],
    weights: Weights,
) -> None:
    """Add the contributions and the weights of one term to those of the terms before it."""
    leaves = [
        (name, key, leaf)
        for name, batch in batches.items()
        for key, (leaf, _) in batch.leaves.items()
    ]
    slopes: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if term.requires_grad:
        slopes = torch.autograd.grad(
            term, [leaf for _, _, leaf in leaves], allow_unused=True, retain_graph=True
        )
    linear_part = 0.0
    is_read = {name: zeros(batch).bool() for name, batch in batches.items()}
    for (name, key, leaf), slope in zip(leaves, slopes, strict=True):
        if slope is None:
            continue
        position = batches[name].rows(key[0]).position.cpu()
        # A weight of 0 gives a contribution of 0 even if the column is infinite.
        part = torch.where(slope == 0, torch.zeros_like(slope), slope * leaf.detach())
        part = part.double().cpu()
        contributions[name].index_add_(0, position, part)
        linear_part += float(part.sum())
        is_read[name][position] = True
        before = weights[name].get(key)
        weights[name][key] = slope if before is None else before + slope
    spread(float(term.detach()) - linear_part, is_read, contributions)


def spread(rest: float, is_read: dict[str, Tensor], contributions: dict[str, Tensor]) -> None:
    """Add `rest` to the contributions, in equal parts to every row that is read.

    If no row is read, the last row of the first batch gets it.
    """
    n_read = sum(int(mask.sum()) for mask in is_read.values())
    if not n_read:
        next(iter(contributions.values()))[-1] += rest
        return
    for name, mask in is_read.items():
        contributions[name] += mask.double() * (rest / n_read)


def weights_by_position(batch: LeafRows, weights: dict[LeafKey, Tensor]) -> dict[str, Tensor]:
    """{column: [T] d loss / d column}, summed over row sets.

    An ignored row's nll is constant, so its weight is 0.
    """
    found: dict[str, Tensor] = {}
    for (row_set, column), slope in weights.items():
        if column in NOT_SHOWN:
            continue
        rows = batch.rows(row_set)
        if column == "nll":
            slope = slope.masked_fill(rows.labels == IGNORE, 0)
        if column not in found:
            found[column] = zeros(batch)
        found[column].index_add_(0, rows.position.cpu(), slope.double().cpu())
    return found


def token_derivatives(
    batch: LeafRows, weights: dict[LeafKey, Tensor], ids: Tensor
) -> tuple[Tensor, Tensor]:
    """(d_logp [T - 1], d_logit [T - 1]): of row t, for the token ids[t + 1]."""
    assert batch.logits is not None  # only hidden states have none
    logits = batch.logits[0, :-1]
    following = ids[1:, None]
    logp = logits.detach().double().log_softmax(-1).gather(1, following)[:, 0]
    one_minus_p = -torch.expm1(logp).cpu()
    nll_weights = {key: slope for key, slope in weights.items() if key[1] == "nll"}
    nll = weights_by_position(batch, nll_weights).get("nll")
    d_logp = torch.zeros(len(one_minus_p), dtype=torch.float64) if nll is None else -nll[:-1]
    d_logit = d_logp * one_minus_p
    other_columns = [
        (slope * batch.leaves[key][1]).masked_fill(slope == 0, 0).sum()
        for key, slope in weights.items()
        if key[1] != "nll" and batch.leaves[key][1].requires_grad
    ]
    if not other_columns:
        return d_logp, d_logit
    total = other_columns[0]
    for part in other_columns[1:]:
        total = total + part
    gradient = torch.autograd.grad(total, batch.logits)[0][0, :-1]
    slope = gradient.gather(1, following)[:, 0].double().cpu()
    per_logp = torch.where(one_minus_p == 0, torch.zeros_like(one_minus_p), slope / one_minus_p)
    return d_logp + per_logp, d_logit + slope


def attribute_to_hidden_states(
    loss: LossOfBatches,
    batches: dict[str, LeafRows],
    record_loss: Loss,
    records: dict[str, OneRecord],
    key: tuple[int, int],
) -> dict[str, RecordAttribution]:
    """{batch name: RecordAttribution} of one record's loss of hidden states."""
    starts = {name: LeafRows(at_start(record), key) for name, record in records.items()}
    gradients = gradients_of(record_loss, batches)
    start_gradients = gradients_of(loss(dict(starts)), starts)
    attributions = {}
    is_read = {}
    moved_by = 0.0
    for name, batch in batches.items():
        step = (batch.hidden_states() - starts[name].hidden_states()).detach()[0].double().cpu()
        contribution = ((gradients[name] + start_gradients[name]) * step).sum(1) / 2
        moved_by += float(contribution.sum())
        starts_at_zero = starts[name].teacher_hidden is None
        is_read[name] = (start_gradients[name].abs().sum(1) > 0) & starts_at_zero
        attributions[name] = RecordAttribution(contribution, gradient=gradients[name].norm(dim=1))
    contributions = {name: one.contribution for name, one in attributions.items()}
    spread(float(record_loss.value.detach()) - moved_by, is_read, contributions)
    return attributions


def at_start(record: OneRecord) -> OneRecord:
    """The record with the student's hidden states at their start: the teacher's, or 0."""
    outputs = record.outputs
    assert outputs.hidden is not None  # the caller has hidden states
    start = outputs.teacher_hidden
    if start is None:
        start = torch.zeros_like(outputs.hidden)
    moved = Outputs(
        None, outputs.labels, None, outputs.attention_mask, start, outputs.teacher_hidden
    )
    return replace(record, outputs=moved)


def gradients_of(loss: Loss, batches: dict[str, LeafRows]) -> dict[str, Tensor]:
    """{batch name: [T, D] d loss / d h} in float64 on the CPU."""
    hidden = [batch.hidden_states() for batch in batches.values()]
    gradients = torch.autograd.grad(loss.value, hidden)
    return {
        name: gradient[0].double().cpu() for name, gradient in zip(batches, gradients, strict=True)
    }
