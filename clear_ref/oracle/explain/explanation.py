"""Explanation: the loss of a batch of records, token by token."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch

from clear_ref.data.batches import IGNORE
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.losses.outputs import Outputs
from clear_ref.losses.terms import token_terms
from clear_ref.methods import Need, Variant, table
from clear_ref.model.vlm import VLM
from clear_ref.oracle.encoded_batches import EncodedBatch, as_outputs, encode_plan, model_output

from .attribution import RecordAttribution, attribute


class Line(TypedDict):
    """One token of a record, with its row.

    kind          image, prompt, answer, padding, or "after the end": the last row, without a token
    contribution  of the row to the loss
    of logits     the row is the one that predicts the token; weights: {column: d loss / d column}
    of hidden states  the row is the token's own; norm: |h|; moved: |h - teacher's h|, None without
                  a teacher; gradient: |d loss / d h|
    """

    position: int
    id: int | None
    token: str
    kind: str
    contribution: float
    nll: NotRequired[float | None]
    teacher_nll: NotRequired[float | None]
    kl_teacher_student: NotRequired[float | None]
    kl_student_teacher: NotRequired[float | None]
    weights: NotRequired[dict[str, float]]
    d_logp: NotRequired[float | None]
    d_logit: NotRequired[float | None]
    norm: NotRequired[float]
    moved: NotRequired[float | None]
    gradient: NotRequired[float]


class ExplainedRecord(TypedDict):
    """One record of one batch; lines: one for each token, and for logits one more at the end."""

    question: str
    answer: str | None
    lines: list[Line]


class MistakeAbout(TypedDict):
    """A known mistake, or another project's meaning, in words.

    what    what it computes; seen: who has it, and where
    kind    known mistake, mistake of another project, or meaning of another project
    stored  what it gives on a stored case, beside the right loss
    """

    name: str
    what: str
    seen: str
    kind: str
    stored: str


class Explanation(TypedDict):
    """The loss of one batch of records, as `explain --batch --json` prints it.

    semantics  or the name of a known mistake or of another project's meaning; mistake: which
    options  the method's options
    mask     what the labels cover: answer or released
    terms    {term: its value}; they sum to the loss
    hidden   whether the method reads hidden states instead of logits
    batches  {batch name: its records}; all contributions in them sum to the loss
    teacher  which models student and teacher are, in words
    """

    method: str
    semantics: str
    options: dict[str, object]
    mask: str
    loss: float
    terms: dict[str, float]
    hidden: bool
    batches: dict[str, list[ExplainedRecord]]
    teacher: str
    mistake: NotRequired[MistakeAbout]


class Encoded(NamedTuple):
    """The records of a plan as a variant's loss reads them.

    hidden  whether it reads hidden states instead of logits
    """

    variant: Variant
    options: Any
    batches: dict[str, EncodedBatch]
    outputs: dict[str, Outputs]
    hidden: bool


def explain(
    vlm: VLM,
    method: str,
    semantics: str,
    options: object,
    plan: UnlearnPlan,
    indices: Sequence[int],
    mask: str,
    teacher: str,
) -> Explanation:
    """The Explanation of the plan's records with these indices, which are one optimiser step.

    The teacher is the model with its adapters off.
    mask, teacher  see Explanation
    """
    encoded = encode(vlm, table.variant(method, semantics), options, plan, indices, mask)
    ids = {name: one.batch.input_ids for name, one in encoded.batches.items()}
    attribution = attribute(
        lambda batches: encoded.variant.loss(batches, encoded.options),
        encoded.outputs,
        ids,
        (0, indices[0]),
    )
    return Explanation(
        method=method,
        semantics=semantics,
        options=vars(encoded.options),
        mask=mask,
        loss=attribution.loss,
        terms=attribution.terms,
        hidden=encoded.hidden,
        batches=explained_records(vlm, encoded, attribution.records),
        teacher=teacher,
    )


def encode(
    vlm: VLM, variant: Variant, options: Any, plan: UnlearnPlan, indices: Sequence[int], mask: str
) -> Encoded:
    """The plan's records with these indices, and what student and teacher give for them."""
    if variant.prepare_options is not None:
        options = variant.prepare_options(options, len(indices))
    needs = variant.needs_of(options)
    layer = getattr(options, "layer", None)
    vlm.check_layer(layer)
    batches = encode_plan(vlm, plan, needs, mask, indices)
    outputs = {name: outputs_of(vlm, batches[name], need, layer) for name, need in needs.items()}
    hidden = any(need.hidden for need in needs.values())
    return Encoded(variant, options, batches, outputs, hidden)


def explained_records(
    vlm: VLM, encoded: Encoded, records: Mapping[str, Sequence[RecordAttribution]]
) -> dict[str, list[ExplainedRecord]]:
    """{batch name: its ExplainedRecords} from the attribution of each record."""
    lines_of = hidden_lines if encoded.hidden else logit_lines
    batches = {}
    for name, one in encoded.batches.items():
        batches[name] = [
            ExplainedRecord(
                question=record.question,
                answer=record.answer,
                lines=lines_of(vlm, one, encoded.outputs[name], records[name][s], s),
            )
            for s, record in enumerate(one.records)
        ]
    return batches


@torch.no_grad()
def outputs_of(vlm: VLM, encoded: EncodedBatch, need: Need, layer: int | None) -> Outputs:
    """The Outputs of student and teacher on one batch.

    Logits of the teacher are always computed, because they are shown; hidden states only if the
    method reads them.
    """
    student = model_output(vlm, encoded.batch, layer, need.hidden)
    teacher = None
    if need.teacher or not need.hidden:
        with vlm.adapters_off():
            teacher = model_output(vlm, encoded.batch, layer, need.hidden)
    return as_outputs(encoded.batch, student, teacher, need.hidden)


def logit_lines(
    vlm: VLM, encoded: EncodedBatch, outputs: Outputs, record: RecordAttribution, s: int
) -> list[Line]:
    """One line for each token, with the row before it, which predicts it; and one for the last row.

    The first token is predicted by no row.
    """
    assert outputs.logits is not None and outputs.teacher_logits is not None  # see outputs_of
    assert record.d_logp is not None and record.d_logit is not None
    ids = encoded.batch.input_ids[s]
    T = len(ids)
    following = torch.cat([ids[1:], ids.new_full((1,), IGNORE)])
    terms = token_terms(outputs.logits[s], following, outputs.teacher_logits[s])
    # The last row predicts no token, so it has no nll.
    nll = [*terms.nll.double().tolist()[:-1], None]
    teacher_nll = [*column(terms.teacher_nll)[:-1], None]
    kl_teacher_student = column(terms.kl_teacher_student)
    kl_student_teacher = column(terms.kl_student_teacher)
    weights = {name: weight.tolist() for name, weight in record.weights.items()}
    contribution = record.contribution.tolist()
    d_logp = [*record.d_logp.tolist(), None]
    d_logit = [*record.d_logit.tolist(), None]
    lines = [without_row(token_line(vlm, encoded, s, 0))]
    for t in range(T):
        line = token_line(vlm, encoded, s, t + 1) if t + 1 < T else after_the_end(T)
        line["nll"] = nll[t]
        line["teacher_nll"] = teacher_nll[t]
        line["kl_teacher_student"] = kl_teacher_student[t]
        line["kl_student_teacher"] = kl_student_teacher[t]
        line["weights"] = {name: weight[t] for name, weight in weights.items()}
        line["contribution"] = contribution[t]
        line["d_logp"] = d_logp[t]
        line["d_logit"] = d_logit[t]
        lines.append(line)
    return lines


def without_row(line: Line) -> Line:
    """The line of a token that no row predicts."""
    line["nll"] = None
    line["teacher_nll"] = None
    line["kl_teacher_student"] = None
    line["kl_student_teacher"] = None
    line["weights"] = {}
    line["d_logp"] = None
    line["d_logit"] = None
    return line


def column(values: torch.Tensor | None) -> list[float]:
    """A column of TokenTerms that needs a teacher, as float64 numbers."""
    assert values is not None  # there is a teacher
    return values.double().tolist()


def hidden_lines(
    vlm: VLM, encoded: EncodedBatch, outputs: Outputs, record: RecordAttribution, s: int
) -> list[Line]:
    """One line for each token, with its own hidden state."""
    assert outputs.hidden is not None and record.gradient is not None
    hidden = outputs.hidden[s].double()
    norm = hidden.norm(dim=1).tolist()
    moved: list[float | None] = [None] * len(norm)
    if outputs.teacher_hidden is not None:
        moved = (hidden - outputs.teacher_hidden[s].double()).norm(dim=1).tolist()
    contribution = record.contribution.tolist()
    gradient = record.gradient.tolist()
    lines = []
    for t in range(len(norm)):
        line = token_line(vlm, encoded, s, t)
        line["norm"] = norm[t]
        line["moved"] = moved[t]
        line["contribution"] = contribution[t]
        line["gradient"] = gradient[t]
        lines.append(line)
    return lines


def token_line(vlm: VLM, encoded: EncodedBatch, s: int, t: int) -> Line:
    """The line of the token at position t of record s, with contribution 0."""
    token_id = int(encoded.batch.input_ids[s, t])
    return Line(
        position=t,
        id=token_id,
        token=vlm.tokenizer.piece(token_id),
        kind=encoded.kinds[s][t],
        contribution=0.0,
    )


def after_the_end(T: int) -> Line:
    """The line of the last row, which no token follows."""
    return Line(position=T, id=None, token="", kind="after the end", contribution=0.0)
