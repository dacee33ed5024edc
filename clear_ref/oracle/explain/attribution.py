"""Which token does what: a method's loss taken apart row by row, exactly.

A loss is a function of columns (token terms at rows of logits). Every column that the method reads is handed to it as a leaf, so
autograd gives d loss / d column at each row: its weight. That is done for one record at a time, with the divisors of the whole
batch, and one term at a time; a batch's loss is the sum over its records, as micro-batches add up.

contribution  of a row to a term: sum over columns of weight * value. For a term linear in its columns that is all, and the rows
              of a record sum to the term. What a term that is not (softplus of a sequence's sum in npo and dpo) has beyond it
              is spread evenly over the record's rows that the term reads. All contributions of all batches sum to the loss.
d_logit       d loss / d z, z the logit of the token that follows the row. Below 0: descent makes that token more likely.
d_logp        the same per log-probability: (d loss / d z) / (1 - p), since d log p / d z = 1 - p when z moves alone and the other
              tokens keep their proportions. Where only the nll counts it is -weight, however certain the token is; where p is 1
              to rounding it is the nll's part alone. Neither exists where no token follows.
hidden states (rmu) have no p. There a contribution is half of (gradient at the start + gradient at h) . (h - start), start the
              teacher's hidden state or, without a teacher, 0; the loss at the start is spread evenly. Exact: it is quadratic.
"""

from dataclasses import fields

import torch

from clear_ref.data.batches import IGNORE
from clear_ref.losses.outputs import Outputs
from clear_ref.losses.rows import ROW_SETS, BatchRows
from clear_ref.losses.terms import TokenTerms, token_terms
from clear_ref.methods import table
from clear_ref.oracle import encoded_batches

COLUMNS = ("nll", "teacher_nll", "kl_teacher_student", "kl_student_teacher")


class Traced(BatchRows):
    """A BatchRows whose columns are leaves. found: {(row set, column): (leaf [n], the column that it stands for [n])}."""

    def __init__(self, given: Outputs, n_sequences, n_rows, key):
        hidden = None if given.hidden is None else given.hidden.detach().requires_grad_()
        self.logits = None if given.logits is None else given.logits.detach().requires_grad_()
        teacher = given.teacher_logits
        at = lambda logits: (
            None if logits is None else lambda sequence, position: logits[sequence, position]
        )  # noqa: E731
        super().__init__(
            labels=given.labels,
            attention_mask=given.attention_mask,
            student_logits=at(self.logits),
            teacher_logits=at(teacher),
            n_sequences=n_sequences,
            n_rows=n_rows,
            hidden=hidden,
            teacher_hidden=given.teacher_hidden,
            key=key,
        )
        self.found, self.name, self._leaves = {}, "", {}

    def terms(self, row_set) -> TokenTerms:
        """The columns of the row set as leaves, the same ones at every call."""
        if row_set not in self._leaves:
            own = super().terms(row_set)
            columns = {f.name: getattr(own, f.name) for f in fields(TokenTerms)}
            self._leaves[row_set] = TokenTerms(
                **{
                    name: None if column is None else self._leaf(row_set, name, column)
                    for name, column in columns.items()
                }
            )
        return self._leaves[row_set]

    def column(self, row_set, function):
        """The computed column as a leaf."""
        return self._leaf(row_set, f"column{len(self.found)}", super().column(row_set, function))

    def at_temperature(self, temperature):
        """As BatchRows's; its columns are named apart."""
        changed = super().at_temperature(temperature)
        changed.name, changed._leaves = f" at temperature {temperature:g}", {}
        return changed

    def _leaf(self, row_set, name, column):
        leaf = column.detach().requires_grad_()
        self.found[row_set, name + self.name] = (leaf, column)
        return leaf


def one_record(outputs: dict[str, Outputs], s: int) -> dict[str, tuple]:
    """{batch: (its record s alone, number of sequences, {row set: number of rows} of the whole batch)}."""
    records = {}
    for name, whole in outputs.items():
        part = Outputs(
            **{
                f.name: None
                if getattr(whole, f.name) is None
                else getattr(whole, f.name)[s : s + 1]
                for f in fields(Outputs)
            }
        )
        counted = whole.batch_rows()
        records[name] = (
            part,
            len(whole.labels),
            {row_set: counted.n_rows[row_set] for row_set in ROW_SETS},
        )
    return records


def take_apart(loss, outputs: dict[str, Outputs], ids: dict, key=(0, 0)) -> dict:
    """The loss of whole batches, by term and by row.

    loss      batches -> Loss; outputs {batch name: Outputs}, every batch with the same number of records; ids {name: [B, T]}
    returns   {"loss", "terms": {name: value}, "rows": {batch: [a dict for each record]}}; the dict has float64 tensors:
              "contribution" [T], "weights" {column: [T] d loss / d column}, and of logits "d_logp" and "d_logit" [T - 1], of
              hidden states "gradient" [T], the length of d loss / d h
    """
    n = len(next(iter(outputs.values())).labels)
    total, terms, rows = 0.0, {}, {name: [] for name in outputs}
    for s in range(n):
        parts = one_record(outputs, s)
        batches = {
            name: Traced(part, n_sequences, n_rows, key)
            for name, (part, n_sequences, n_rows) in parts.items()
        }
        found = loss(batches)
        shares = {
            name: torch.zeros(batch.labels.shape[1], dtype=torch.float64)
            for name, batch in batches.items()
        }
        weights = {name: {} for name in batches}
        for term, value in found.terms.items():
            total, terms[term] = (
                total + float(value.detach()),
                terms.get(term, 0.0) + float(value.detach()),
            )
        if any(batch.hidden is not None for batch in batches.values()):
            own = hidden_rows(loss, batches, found, parts, key, shares)
        else:
            for value in found.terms.values():
                share_columns(value, batches, shares, weights)
            own = {
                name: pushes(batch, weights[name], ids[name][s])
                | {"weights": by_position(batch, weights[name])}
                for name, batch in batches.items()
            }
        for name in batches:
            rows[name].append({"contribution": shares[name], **own[name]})
    return {"loss": total, "terms": terms, "rows": rows}


def share_columns(value, batches, shares, weights) -> None:
    """Add one term's contributions and weights to what is there."""
    leaves = [
        (name, key, leaf)
        for name, batch in batches.items()
        for key, (leaf, _) in batch.found.items()
    ]
    slopes = (
        torch.autograd.grad(
            value, [leaf for _, _, leaf in leaves], allow_unused=True, retain_graph=True
        )
        if value.requires_grad
        else [None] * len(leaves)
    )
    linear, read = (
        0.0,
        {name: torch.zeros(len(share), dtype=torch.bool) for name, share in shares.items()},
    )
    for (name, key, leaf), slope in zip(leaves, slopes, strict=True):
        if slope is not None:
            position = batches[name].rows(key[0]).position
            part = (
                torch.where(slope == 0, torch.zeros_like(slope), slope * leaf.detach())
                .double()
                .cpu()
            )
            shares[name].index_add_(0, position.cpu(), part)
            linear += float(part.sum())
            read[name][position.cpu()] = True
            weights[name][key] = weights[name].get(key, 0) + slope
    spread(float(value.detach()) - linear, read, shares)


def spread(rest: float, read, shares) -> None:
    """Add `rest` evenly to the rows of all batches that are read; where none is, to the first batch's last row."""
    n = sum(int(mask.sum()) for mask in read.values())
    for name, mask in read.items():
        shares[name] += mask.double() * (rest / max(n, 1))
    if not n:
        next(iter(shares.values()))[-1] += rest


def by_position(batch: Traced, weights) -> dict:
    """{column: [T] d loss / d column}, the row sets of a column added; an ignored row's nll is constant and weighs 0."""
    found = {}
    for (row_set, name), slope in weights.items():
        rows = batch.rows(row_set)
        if name == "nll":
            slope = slope.masked_fill(rows.labels == IGNORE, 0)
        if name not in ("lse", "teacher_nll", "teacher_entropy"):
            found.setdefault(
                name, torch.zeros(batch.labels.shape[1], dtype=torch.float64)
            ).index_add_(0, rows.position.cpu(), slope.double().cpu())
    return found


def pushes(batch: Traced, weights, ids) -> dict:
    """{"d_logp", "d_logit"} [T - 1]: what row t does to ids[t + 1]; see the head."""
    logits, chosen = batch.logits[0, :-1], ids[1:, None]
    left = -torch.expm1(logits.detach().double().log_softmax(-1).gather(1, chosen)[:, 0]).cpu()
    nll = by_position(batch, {key: slope for key, slope in weights.items() if key[1] == "nll"}).get(
        "nll"
    )
    d_logp = torch.zeros(len(left), dtype=torch.float64) if nll is None else -nll[:-1]
    d_logit = d_logp * left
    rest = [
        (slope * batch.found[key][1]).masked_fill(slope == 0, 0).sum()
        for key, slope in weights.items()
        if key[1] != "nll" and batch.found[key][1].requires_grad
    ]
    if rest:
        slope = (
            torch.autograd.grad(sum(rest), batch.logits)[0][0, :-1]
            .gather(1, chosen)[:, 0]
            .double()
            .cpu()
        )
        d_logp, d_logit = (
            d_logp + torch.where(left == 0, torch.zeros_like(left), slope / left),
            d_logit + slope,
        )
    return {"d_logp": d_logp, "d_logit": d_logit}


def hidden_rows(loss, batches, found, parts, key, shares) -> dict:
    """{batch: {"gradient" [T], "weights": none}} of hidden states; adds the contributions to `shares`."""
    starts = {}
    for name, (part, n_sequences, n_rows) in parts.items():
        start = (
            torch.zeros_like(part.hidden) if part.teacher_hidden is None else part.teacher_hidden
        )
        starts[name] = Traced(
            Outputs(None, part.labels, None, part.attention_mask, start, part.teacher_hidden),
            n_sequences,
            n_rows,
            key,
        )
    before = loss(starts)
    here = torch.autograd.grad(found.value, [batch.hidden for batch in batches.values()])
    there = torch.autograd.grad(before.value, [batch.hidden for batch in starts.values()])
    own, read, moved_by = {}, {}, 0.0
    for name, g, g0 in zip(batches, here, there, strict=True):
        step = (batches[name].hidden - starts[name].hidden).detach()[0].double().cpu()
        g, g0 = g[0].double().cpu(), g0[0].double().cpu()
        part = ((g + g0) * step).sum(1) / 2
        shares[name] += part
        moved_by += float(part.sum())
        read[name] = (g0.abs().sum(1) > 0) & (starts[name].teacher_hidden is None)
        own[name] = {"gradient": g.norm(dim=1), "weights": {}}
    spread(float(found.value.detach()) - moved_by, read, shares)
    return own


def explain(vlm, method: str, semantics: str, options, plan, indices, mask: str = "answer") -> dict:
    """The loss of the plan's records `indices` (all of one step), token by token; the model's adapters are off for the teacher.

    returns  {"method", "semantics", "options", "loss", "terms", "hidden", "batches": {name: [record]}}; a record is {"question",
             "answer", "lines": [line]}, a line {"position", "id", "token", "kind", "contribution", ...} and either COLUMNS,
             "weights", "d_logp" and "d_logit" of the row that predicts the token (last line: of the row that nothing follows),
             or the token's own "norm", "moved" (distance from the teacher) and "gradient"
    """
    chosen = table.variant(method, semantics)
    if chosen.prepare_options is not None:
        options = chosen.prepare_options(options, len(indices))
    needs, layer = chosen.needs_of(options), getattr(options, "layer", None)
    vlm.check_layer(layer)
    seen = encoded_batches.encode_plan(vlm, plan, needs, mask, indices)
    outputs = {}
    with torch.no_grad():
        for name, need in needs.items():
            student = encoded_batches.model_output(vlm, seen[name].batch, layer, need.hidden)
            with vlm.adapters_off():
                teacher = encoded_batches.model_output(vlm, seen[name].batch, layer, need.hidden)
            if need.hidden and not need.teacher:
                teacher = None
            outputs[name] = encoded_batches.as_outputs(seen[name].batch, student, teacher, need.hidden)
    ids = {name: one.batch.input_ids for name, one in seen.items()}
    apart = take_apart(lambda batches: chosen.loss(batches, options), outputs, ids, (0, indices[0]))
    hidden = any(need.hidden for need in needs.values())
    lines_of = hidden_lines if hidden else logit_lines
    batches = {
        name: [
            {
                "question": record.question,
                "answer": record.answer,
                "lines": lines_of(vlm, one, outputs[name], apart["rows"][name][s], s),
            }
            for s, record in enumerate(one.records)
        ]
        for name, one in seen.items()
    }
    return {
        "method": method,
        "semantics": semantics,
        "options": vars(options),
        "mask": mask,
        "loss": apart["loss"],
        "terms": apart["terms"],
        "hidden": hidden,
        "batches": batches,
    }


def logit_lines(vlm, seen, outputs, found, s: int) -> list[dict]:
    """One line for each token, with the row that predicts it (the row of the token before), and one for the last row."""
    ids, T = seen.batch.input_ids[s], seen.batch.input_ids.shape[1]
    following = torch.cat([ids[1:], ids.new_full((1,), IGNORE)])
    terms = token_terms(outputs.logits[s], following, outputs.teacher_logits[s])
    columns = {name: getattr(terms, name).double().tolist() for name in COLUMNS}
    contribution = found["contribution"].tolist()
    push = {name: [*found[name].tolist(), None] for name in ("d_logp", "d_logit")}
    weights = {name: weight.tolist() for name, weight in found["weights"].items()}
    lines = []
    for t in range(T + 1):
        line = (
            token(vlm, seen, s, t)
            if t < T
            else {"position": T, "id": None, "token": "", "kind": "after the end"}
        )
        row = {name: None for name in COLUMNS} | {
            "weights": {},
            "contribution": 0.0,
            "d_logp": None,
            "d_logit": None,
        }
        if t:
            row = {name: column[t - 1] for name, column in columns.items()} | {
                "weights": {name: weight[t - 1] for name, weight in weights.items()},
                "contribution": contribution[t - 1],
                **{name: column[t - 1] for name, column in push.items()},
            }
            if t == T:
                row |= {"nll": None, "teacher_nll": None}
        lines.append(line | row)
    return lines


def hidden_lines(vlm, seen, outputs, found, s: int) -> list[dict]:
    """One line for each token, with its own hidden state."""
    h, teacher = outputs.hidden[s].double(), outputs.teacher_hidden
    norm = h.norm(dim=1).tolist()
    moved = None if teacher is None else (h - teacher[s].double()).norm(dim=1).tolist()
    contribution, gradient = found["contribution"].tolist(), found["gradient"].tolist()
    return [
        token(vlm, seen, s, t)
        | {
            "norm": norm[t],
            "moved": None if moved is None else moved[t],
            "contribution": contribution[t],
            "gradient": gradient[t],
        }
        for t in range(len(norm))
    ]


def token(vlm, seen, s: int, t: int) -> dict:
    """Where a token stands and what it is."""
    number = int(seen.batch.input_ids[s, t])
    return {
        "position": t,
        "id": number,
        "token": vlm.tokenizer.piece(number),
        "kind": seen.kinds[s][t],
    }
